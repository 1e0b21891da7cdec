"""The asset of a stored view: the change log `features/<name>` by partition, and its online snapshot."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.code_record import record_code
from ml_platform.components.declaration import OnCodeChange, on_new_inputs, partition_mapping, partitions_definition
from ml_platform.components.feature_view.asset_arguments import ViewAssetArguments
from ml_platform.components.feature_view.columns import column_lineage
from ml_platform.components.materializations import LINEAGE, table_metadata
from ml_platform.components.metered import metered
from ml_platform.data.canonical import value_digest
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.view import FeatureView as FeatureViewSettings
from resources.lake import LakeResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.features.materialize import PartitionBuild
    from ml_platform.features.online_store import Publication


def change_log(
    settings: FeatureViewSettings,
    partitions: PartitionScheme | None,
    shared_arguments: ViewAssetArguments,
    on_code_change: OnCodeChange = "automatic",
) -> dg.AssetsDefinition:
    """Return the asset `features/<name>` of a stored view.

    It writes each fact with its known-at time, and publishes the latest fact of each entity for serving.
    """

    @dg.asset(
        partitions_def=partitions_definition(partitions) if partitions else None,
        # All partitions in one run, so that a changed function needs one backfill for the whole history.
        backfill_policy=dg.BackfillPolicy.single_run() if partitions else None,
        deps=[_dep(source.dataset, settings.lookback_days, partitions) for source in settings.sources],
        kinds={"polars", "deltalake"},
        automation_condition=on_new_inputs(on_code_change=on_code_change),
        **shared_arguments,
    )
    @metered
    def _change_log(
        context: dg.AssetExecutionContext, lake: LakeResource, online_store: OnlineStoreResource
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.features.materialize import materialize

        record_code(context, lake.lake().state)
        keys = list(context.partition_keys) if partitions else [None]
        builds, publication = materialize(settings, lake.lake(), online_store.store(), keys, partitions)
        # The declaration may change before the next run. One record per run is enough: the pages read the latest.
        lineage = {LINEAGE: column_lineage(settings)}
        for each in builds:
            if each.partition:
                last = lineage if each is builds[-1] else {}
                context.add_asset_metadata(_metadata(each, publication) | last, partition_key=each.partition)
        return dg.MaterializeResult(
            metadata=None if partitions else _metadata(builds[0], publication) | lineage,
            data_version=dg.DataVersion(value_digest([each.version.sha256 for each in builds])),
        )

    return _change_log


def _dep(dataset: str, lookback_days: int, partitions: PartitionScheme | None) -> dg.AssetDep:
    key = dg.AssetKey(["datasets", dataset])
    return dg.AssetDep(
        key, partition_mapping=partition_mapping(partitions, partitions, reach=timedelta(days=lookback_days))
    )


def _metadata(builds: "PartitionBuild", publication: "Publication") -> dict[str, Any]:
    return {
        **table_metadata(builds.version),
        **{name: value for name, value in builds.report.as_metadata().items() if name != "rows"},
        "online_entities": publication.entities,
        "online_watermark": publication.watermark.isoformat(),
        "online_published": publication.published,
    }
