"""The asset `<model>/scores`: a table that the served version scores, partition by partition."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.code_record import code_metadata, record_code
from ml_platform.components.declaration import partition_mapping, partitions_definition
from ml_platform.components.materializations import COVERED_CODE, table_metadata
from ml_platform.components.metadata import records_table
from ml_platform.components.metered import metered
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from ml_platform.data.source_hash import source_hash
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.steps.batch_scoring import ScoredPartition

ALL_ROWS = "all_rows_scored"
"""Name of the check on refused rows."""


def scores(model: ModelAssets) -> dg.AssetsDefinition:
    """Return `<model>/scores`: the answers of the served version for the rows of the declared dataset."""
    key, declared, scheme = model.key("scores"), model.scored, model.scores_scheme
    dataset = dg.AssetKey(["datasets", declared.dataset])

    @dg.asset(
        key=key,
        description=(
            f"One row for each row of datasets/{declared.dataset}, with the answer of the version that serves. Its "
            "features are those known at the time of the prediction, or now if that is earlier."
        ),
        partitions_def=None if scheme is None else partitions_definition(scheme),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dataset,
            dg.AssetDep(model.key("rollout"), partition_mapping=dg.AllPartitionMapping()),
            *(
                dg.AssetDep(
                    dg.AssetKey(["features", view.name]),
                    partition_mapping=partition_mapping(model.view_scheme(view), scheme),
                )
                for view in model.stored_views
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(ALL_ROWS, asset=key, description="The contract of the endpoint refuses no row.")
        ],
        code_version=None if declared.function is None else source_hash(declared.function),
        metadata={} if declared.function is None else {COVERED_CODE: code_metadata([declared.function], {})},
        automation_condition=_on_new_rows(dataset, model.key("rollout")) if declared.on_new_partition else None,
        **model.shared_arguments("bentoml", "deltalake"),
    )
    @metered
    def _scores(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        home: HomeResource,
        mlflow: MlflowResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.data.canonical import value_digest
        from ml_platform.steps.batch_scoring import score_partitions

        stores = open_stores(home, lake, mlflow, online_store)
        record_code(context, stores.state)
        partitions = list(context.partition_keys) if scheme is not None else [None]
        scored = score_partitions(model, partitions, stores, datetime.now(UTC))
        for each in scored:
            context.add_asset_metadata(_metadata(each), partition_key=each.partition)
        digests = [each.table.sha256 for each in scored if each.table is not None]
        yield dg.MaterializeResult(data_version=dg.DataVersion(value_digest(digests)))
        yield _all_rows_scored(scored)

    return _scores


def _on_new_rows(dataset: dg.AssetKey, rollout: dg.AssetKey) -> dg.AutomationCondition[Any]:
    """Return the condition that scores a partition of ``dataset`` after it was materialized, once a version serves.

    A new version scores no earlier partition again; features that land later do not either. It waits for those that the
    same landing updates.
    """
    condition = dg.AutomationCondition
    landed = condition.any_deps_updated().allow(dg.AssetSelection.assets(dataset))
    serves = condition.any_deps_match(~condition.missing()).allow(dg.AssetSelection.assets(rollout))
    changing = condition.any_deps_match(condition.will_be_requested()) | condition.any_deps_in_progress()
    ready = serves & ~changing & ~condition.in_progress() & condition.all_deps_blocking_checks_passed()
    return (landed.since_last_handled() & ready).with_label("on new rows")


def _metadata(scored: "ScoredPartition") -> dict[str, Any]:
    written = {"dagster/row_count": 0} if scored.table is None else table_metadata(scored.table)
    name = {} if scored.table_name is None else {"dagster/table_name": scored.table_name}
    return {**written, **name, "version": scored.version, "degraded": scored.degraded, "refused": scored.refused}


def _all_rows_scored(scored: "Sequence[ScoredPartition]") -> dg.AssetCheckResult:
    refused = sum(each.refused for each in scored)
    examples = [
        {"partition": each.partition or "whole", "row": one.row, "reason": one.reason, "message": one.message}
        for each in scored
        for one in each.refusals
    ]
    text = f"{refused} rows are not scored, because the endpoint refuses them."
    return dg.AssetCheckResult(
        check_name=ALL_ROWS,
        passed=not refused,
        severity=dg.AssetCheckSeverity.WARN,
        description=text if refused else "All rows are scored.",
        metadata={"refused": refused, **({"examples": records_table(examples[:10])} if examples else {})},
    )
