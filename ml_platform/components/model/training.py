"""The training assets of a model: its training set and its candidates."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.components.code_record import code_metadata, record_code
from ml_platform.components.declaration import EARLIEST, on_new_inputs, partition_mapping
from ml_platform.components.materializations import COVERED_CODE, table_metadata
from ml_platform.components.metadata import inline_image, label_metadata, training_set_schema, trials_table
from ml_platform.components.metered import metered
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.placement import pool_of, step_tags
from ml_platform.components.stores import open_stores
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.view import FeatureView
from ml_platform.steps.candidate_inputs import candidate_settings, candidate_version, fit_code
from ml_platform.training.trainer import TrainerSettings
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource
from resources.studies import StudiesResource

if TYPE_CHECKING:
    from ml_platform.steps.candidates import CandidateResult


FITTED = "fitted"
"""Name of the check that warns when a trainer was skipped."""


def training_set(model: ModelAssets) -> dg.AssetsDefinition:
    """Return the asset `<model>/training_set`: examples of a window with the features known when predicting."""
    declared = model.declared
    key = model.key("training_set")

    @dg.asset(
        key=key,
        description=(
            "One row per example of the window: its request fields, the features known at its prediction time, and its "
            f"label ({declared.target}). The label is null if the outcome is never known, or not known yet."
        ),
        partitions_def=model.partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            *(
                _dep(dg.AssetKey(["datasets", name]), model.dataset_scheme(name), model.scheme)
                for name in declared.examples.sources
            ),
            *_label_deps(model),
            *(
                _dep(
                    dg.AssetKey(["features", view.name]),
                    model.view_scheme(view),
                    model.scheme,
                    reach=reach_of(view, model.prediction_lead),
                )
                for view in model.feature_set.views
            ),
        ],
        code_version=model.code_version,
        check_specs=[
            dg.AssetCheckSpec(
                "known_in_time",
                asset=key,
                blocking=True,
                description="No request field depends on values that became known only after the prediction.",
            ),
            dg.AssetCheckSpec(
                "leakage_screen",
                asset=key,
                description="No feature alone, and no random split, gives an implausibly high AUC.",
            ),
        ],
        # Labels may land long after their examples, which are unlabelled until then.
        automation_condition=on_new_inputs(
            optional=[dep.asset_key for dep in _label_deps(model)],
            code=[dg.AssetKey(["features", view.name]) for view in model.stored_views],
        ),
        metadata={
            COVERED_CODE: code_metadata([declared.examples.function], model.versioned_settings),
            "dagster/table_name": model.table,
            "dagster/column_schema": training_set_schema(model),
            "features": len(model.feature_set.feature_names),
        },
        **model.shared_arguments("polars", "deltalake"),
    )
    @metered
    def _training_set(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.check_results import late_fields_result, leakage_screen_result
        from ml_platform.data.canonical import value_digest
        from ml_platform.registry.audit import AuditLog
        from ml_platform.steps.candidates import build_training_sets
        from ml_platform.steps.feature_checks import check_late_fields, screen_training_set
        from ml_platform.steps.labels import count_labels
        from ml_platform.steps.late_arrivals import record_late_partitions

        tables = lake.lake()
        record_code(context, tables.state)
        keys = list(context.partition_keys) if model.has_time else []
        earlier = tables.digests(model.table, keys)
        written = build_training_sets(model, keys, tables)
        late = record_late_partitions(model, earlier, written, AuditLog(tables.state), datetime.now(UTC))
        for each in late:
            context.log.warning(f"{each.partition} changed after it was judged: {each.judged}")
        labels = count_labels(model, keys, tables)
        for window, table in written.items():
            metadata = table_metadata(table) | label_metadata(labels.get(window))
            context.add_asset_metadata(metadata, partition_key=window if model.has_time else None)
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(value_digest([table.sha256 for table in written.values()])),
        )
        yield late_fields_result(check_late_fields(model, lake.lake()))
        yield leakage_screen_result(screen_training_set(model, lake.lake()))

    return _training_set


def _label_deps(model: ModelAssets) -> list[dg.AssetDep]:
    """Return the dependency on the labels from the first prediction until the last horizon is over; none without."""
    labels = model.declared.labels
    if labels is None:
        return []
    scheme = model.dataset_scheme(labels.dataset)
    mapping = partition_mapping(scheme, model.partitions, reach=model.prediction_lead, ahead=labels.wait)
    return [dg.AssetDep(dg.AssetKey(["datasets", labels.dataset]), partition_mapping=mapping)]


def _dep(
    key: dg.AssetKey,
    upstream: PartitionScheme | None,
    own: PartitionScheme | None,
    reach: timedelta = timedelta(),
) -> dg.AssetDep:
    is_timed = upstream is not None and own is not None and upstream.is_timed and own.is_timed
    mapping = partition_mapping(upstream, own, reach=reach if is_timed else timedelta())
    return dg.AssetDep(key, partition_mapping=mapping)


def reach_of(view: FeatureView, prediction_lead: timedelta) -> timedelta:
    """Return the time before a window whose facts of ``view`` its examples may read.

    Automation waits for these partitions too. Several runs may fill a view in, and the run of a later part may end
    before that of an earlier one.
    """
    if view.kind == "request":
        return timedelta()
    if view.tolerance_minutes is None:
        return EARLIEST
    return prediction_lead + timedelta(minutes=view.tolerance_minutes)


def candidate(model: ModelAssets, trainer: str) -> dg.AssetsDefinition:
    """Return the asset `<model>/candidate_<trainer>`: a version fitted on rows known before the window began."""
    declared = model.declared.trainers[trainer]

    @dg.asset(
        key=model.candidate_keys[trainer],
        description=(
            f"Model version of the trainer {declared.trainer}, fitted on earlier windows and validated on the last of "
            "them; the window itself is its test set. It is not fitted again if its inputs are unchanged."
            + (" It is skipped on a machine without a GPU." if declared.requires == "gpu" else "")
        ),
        partitions_def=model.partitions_def,
        deps=[model.earlier_rows],
        code_version=candidate_version(model, declared),
        metadata={COVERED_CODE: _covered_code(model, declared)},
        pool=pool_of(declared, model.fits_pool),
        op_tags=step_tags(declared),
        check_specs=[
            dg.AssetCheckSpec(
                FITTED, asset=model.candidate_keys[trainer], description="The trainer has a version of these inputs."
            )
        ],
        **model.shared_arguments(declared.trainer.partition(":")[0].rpartition(".")[2], "mlflow"),
    )
    @metered
    def _candidate(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
        studies: StudiesResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.steps.candidates import make_candidate
        from ml_platform.training.trainer import availability

        record_code(context, lake.lake().state)
        accelerator = availability(declared)
        if not accelerator.available:
            # Return a result and do not skip the step, so that downstream assets continue with the other candidates.
            yield dg.MaterializeResult(metadata={"skipped": accelerator.reason})
            yield _fitted(passed=False, description=f"Skipped, so there is none: {accelerator.reason}")
            return
        stores = open_stores(home, lake, mlflow, online_store)
        with mlflow.run(context, model.name) as run:
            result = make_candidate(
                model,
                trainer,
                model.key_of_run(context, stores.lake),
                stores,
                run=run,
                study_storage=studies.storage(f"{model.name}-{trainer}"),
                dagster_run_id=context.run.run_id,
                now=datetime.now(UTC),
                tell=context.log.info,
            )
        metadata = _candidate_metadata(result, model, mlflow)
        yield dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(result.content_digest))
        yield _fitted(passed=True, description=metadata.get("skipped", "Fitted in this run."))

    return _candidate


def _covered_code(model: ModelAssets, declared: TrainerSettings) -> dg.JsonMetadataValue:
    """Return what the code version of a candidate covers; that of its training set counts as one setting."""
    functions, left_out = fit_code(model, declared)
    return code_metadata(
        functions, {**candidate_settings(model, declared), "training_set": model.code_version}, left_out
    )


def _fitted(*, passed: bool, description: str) -> dg.AssetCheckResult:
    # The run goes on with the other trainers, so a skipped one is a warning.
    severity = dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(check_name=FITTED, passed=passed, severity=severity, description=description)


def _candidate_metadata(result: "CandidateResult", model: ModelAssets, mlflow: MlflowResource) -> dict[str, Any]:
    """Return the metadata of a candidate: version, inputs, fit and used resources."""
    from ml_platform.evaluation.plots import importance_plot, loss_curve_plot

    metadata: dict[str, Any] = {
        "content_digest": result.content_digest,
        "manifest": dg.MetadataValue.json(result.manifest.model_dump(mode="json")),
        **result.counts,
    }
    if result.version is None:
        metadata["queued"] = "The tracking server is down. Run and version wait in the outbox until it is available."
    else:
        metadata |= {
            "version": result.version.version,
            "mlflow_run": mlflow.link(model.name, result.version.run_id),
        }
    if result.candidate is None:
        number = result.version.version if result.version else 0
        return metadata | {"skipped": f"Inputs unchanged since version {number}."}
    metadata |= asdict(result.candidate.resource_usage)
    metadata |= {"rounds": result.candidate.fitted.rounds, "notes": result.candidate.notes}
    if result.manifest.threshold is not None:
        metadata |= {
            "threshold": result.manifest.threshold["value"],
            "threshold_rule": result.manifest.threshold["rule"],
        }
        if result.manifest.threshold["note"]:
            metadata["notes"] = [*result.candidate.notes, result.manifest.threshold["note"]]
    metadata["importance"] = inline_image(importance_plot(result.candidate.fitted.importance()))
    if result.candidate.history:
        metadata["loss_curve"] = inline_image(loss_curve_plot(result.candidate.history))
    if result.candidate.tuning is not None:
        metadata["trials"] = trials_table(result.candidate.tuning)
    return metadata
