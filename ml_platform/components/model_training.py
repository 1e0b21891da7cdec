"""The assets of a model that learn: its training set and its candidates.

Each body reads its inputs, calls the engine, and returns what the UI shows.
"""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ml_platform.components.declaration import months_definition, on_new_inputs, up_to_own_month
from ml_platform.components.model import BoundModel
from ml_platform.components.shown import picture
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource


def training_set(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/training_set`: the month's examples, each with the features known when it was predicted."""
    declared = model.declared
    key = model.key("training_set")

    @dg.asset(
        key=key,
        description=(
            "One row per example of the month: its request, the features as known at its prediction time, and whether "
            f"it came true ({declared.target}). An example whose outcome is never known has no label."
        ),
        partitions_def=months_definition(declared.partitions),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            *(dg.AssetKey(["datasets", name]) for name in declared.examples.sources),
            *(dg.AssetKey(["features", view.name]) for view in model.feature_set.views),
        ],
        code_version=model.code_version,
        check_specs=[
            dg.AssetCheckSpec(
                "known_in_time",
                asset=key,
                blocking=True,
                description="No request field changes when what became known after the prediction is scrambled.",
            ),
            dg.AssetCheckSpec(
                "sentinel",
                asset=key,
                description="No feature alone, and no split by chance, looks too good to be true.",
            ),
        ],
        automation_condition=on_new_inputs(),
        metadata={"dagster/table_name": model.table, "features": len(model.feature_set.feature_names)},
        **model.common("polars", "deltalake"),
    )
    def _training_set(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.candidates import build_training_sets
        from ml_platform.components.feature_checks import look_at_training_set, look_for_late_fields
        from ml_platform.components.watched import shown_late_fields, shown_sentinel
        from ml_platform.data.canonical import value_digest

        written = build_training_sets(model, list(context.partition_keys), lake.lake())
        for month, table in written.items():
            context.add_asset_metadata(
                {
                    "dagster/row_count": table.rows,
                    "table_version": table.version,
                    "content_sha256": table.sha256,
                    "size_bytes": table.size_bytes,
                },
                partition_key=month,
            )
        yield dg.MaterializeResult(data_version=dg.DataVersion(value_digest([t.sha256 for t in written.values()])))
        yield shown_late_fields(look_for_late_fields(model, lake.lake()))
        yield shown_sentinel(look_at_training_set(model, lake.lake()))

    return _training_set


def candidate(model: BoundModel, trainer: str) -> dg.AssetsDefinition:
    """`<model>/candidate_<trainer>`: a version of the model, fitted on what was known before the month began."""
    declared = model.declared.trainers[trainer]

    @dg.asset(
        key=model.candidate_keys[trainer],
        description=(
            f"A version made by {declared.trainer}: fitted on the months before, tuned on the last of them, never "
            "shown the month itself. Unchanged inputs are recognised and not fitted again."
        ),
        partitions_def=months_definition(model.declared.partitions),
        deps=[dg.AssetDep(model.key("training_set"), partition_mapping=up_to_own_month())],
        pool="gpu" if declared.requires == "gpu" else None,
        **model.common(declared.trainer.partition(":")[0].rpartition(".")[2], "mlflow"),
    )
    def _candidate(
        context: dg.AssetExecutionContext, lake: LakeResource, mlflow: MlflowResource, home: HomeResource
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.components.candidates import make_candidate
        from ml_platform.evaluation.plots import importance_plot

        with mlflow.run(context, model.name) as run:
            made = make_candidate(
                model,
                trainer,
                context.partition_key,
                lake=lake.lake(),
                registry=mlflow.models,
                run=run,
                repository=home.code,
                checkpoint=home.home().models / "checkpoints" / model.name / trainer / context.partition_key,
                dagster_run_id=context.run_id,
                now=datetime.now(UTC),
            )
        shown: dict[str, Any] = {
            "version": made.version.version,
            "mlflow_run": mlflow.link(model.name, made.version.run_id),
            "content_digest": made.version.content_digest,
            "manifest": dg.MetadataValue.json(made.manifest.model_dump(mode="json")),
            **made.counts,
        }
        if made.candidate is None:
            shown["skipped"] = f"Inputs unchanged: they had made version {made.version.version}."
        else:
            shown |= {name: value for name, value in asdict(made.candidate.account).items() if name != "currency"}
            shown |= {"rounds": made.candidate.fitted.rounds, "notes": made.candidate.notes}
            shown["importance"] = picture(importance_plot(made.candidate.fitted.importance()))
        return dg.MaterializeResult(metadata=shown, data_version=dg.DataVersion(made.version.content_digest))

    return _candidate
