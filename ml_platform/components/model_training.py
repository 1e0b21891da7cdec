"""The assets of a model from its training set to its card, in the order in which the data flows.

Each body reads its inputs, calls the engine, and returns what the UI shows.
"""

import base64
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from ml_platform.components.declaration import months_definition
from ml_platform.components.model import BoundModel
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

FIRST_MONTH_OFFSET = -1200
"""Months that a candidate looks back: all there are."""


class ChampionConfig(dg.Config):
    """Who decides, where a person does."""

    approved_by: str = Field(default="", description="Name of the person who approves (manual approval).")
    reason: str = Field(default="", description="Why; part of the record.")


def up_to_own_month() -> dg.TimeWindowPartitionMapping:
    """Return the mapping by which a month is made from its own and all earlier months of its input."""
    return dg.TimeWindowPartitionMapping(start_offset=FIRST_MONTH_OFFSET, allow_nonexistent_upstream_partitions=True)


def training_set(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/training_set`: the month's examples, each with the features known when it was predicted."""
    declared = model.declared

    @dg.asset(
        key=model.key("training_set"),
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
        metadata={"dagster/table_name": model.table, "features": len(model.feature_set.feature_names)},
        **model.common("polars", "deltalake"),
    )
    def _training_set(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
        from ml_platform.components.candidates import build_training_sets
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
        return dg.MaterializeResult(data_version=dg.DataVersion(value_digest([t.sha256 for t in written.values()])))

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
            "mlflow_run": made.version.run_id,
            "content_digest": made.version.content_digest,
            "manifest": dg.MetadataValue.json(made.manifest.model_dump(mode="json")),
            **made.counts,
        }
        if made.candidate is None:
            shown["skipped"] = f"Inputs unchanged: they had made version {made.version.version}."
        else:
            shown |= {name: value for name, value in asdict(made.candidate.account).items() if name != "currency"}
            shown |= {"rounds": made.candidate.fitted.rounds, "notes": made.candidate.notes}
            shown["importance"] = _picture(_importance(made.candidate.fitted.importance()))
        return dg.MaterializeResult(metadata=shown, data_version=dg.DataVersion(made.version.content_digest))

    return _candidate


def evaluation(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/evaluation`: the verdict on the month's candidate, each gate a blocking check."""
    key = model.key("evaluation")

    @dg.asset(
        key=key,
        description=(
            "Candidate, champion and baselines scored on the same rows of the month, which none of them was fitted, "
            "tuned or calibrated on; PROMOTE, HOLD or REJECT, with the numbers of every gate."
        ),
        partitions_def=months_definition(model.declared.partitions),
        deps=[*model.candidate_keys.values(), model.key("training_set")],
        check_specs=[
            dg.AssetCheckSpec(gate.name, asset=key, description=(gate.__doc__ or "").split("\n")[0], blocking=True)
            for gate in model.declared.gates
        ],
        **model.common("python"),
    )
    def _evaluation(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.components.judgement import judge
        from ml_platform.evaluation.calibration import reliability
        from ml_platform.evaluation.plots import reliability_plot
        from ml_platform.evaluation.summary import plain_numbers

        registry = mlflow.models
        versions: dict[str, Any] = {}
        for name in model.candidate_keys:
            newest = [
                v for v in registry.versions(model.name) if (v.partition, v.trainer) == (context.partition_key, name)
            ]
            versions |= {name: newest[0]} if newest else {}
        folders = home.home()
        judged = judge(
            model,
            versions,
            context.partition_key,
            lake=lake.lake(),
            registry=registry,
            online=online_store.store(),
            folders=folders,
            audit=home.audit(),
            repository=home.code,
            now=datetime.now(UTC),
        )
        numbers = plain_numbers(judged.metrics)
        others = {f"{line.metric}_{name}": value for line in judged.metrics for name, value in line.others.items()}
        mlflow.tracking.client.set_tag(judged.version.run_id, "verdict", judged.verdict.decision)
        for name, value in numbers.items():
            mlflow.tracking.client.log_metric(judged.version.run_id, name, value)
        bins = reliability(judged.evidence.label, judged.evidence.predictions["candidate"])
        yield dg.MaterializeResult(
            metadata={
                "version": judged.version.version,
                "decision": judged.verdict.decision,
                "reasons": judged.verdict.reasons,
                "labels_needed": judged.verdict.labels_needed or 0,
                **numbers,
                **others,
                "base_rate": float(judged.evidence.label.mean()),
                "rows": len(judged.evidence.label),
                "bento_latency_p99_ms": judged.evidence.facts.latency_p99_ms or 0.0,
                "bento_size_bytes": judged.package.size_bytes,
                "verdict": dg.MetadataValue.path(str(judged.verdict_path)),
                "reliability": _picture(reliability_plot(bins)),
                "worst_slices": dg.MetadataValue.table(
                    [dg.TableRecord(asdict(each)) for each in judged.slices],
                    schema=dg.TableSchema([dg.TableColumn(name) for name in ("column", "value", "rows", "score")]),
                ),
            },
            data_version=dg.DataVersion(judged.verdict.digest),
        )
        for result in judged.verdict.gates:
            yield dg.AssetCheckResult(
                check_name=result.name,
                passed=result.passed,
                description=result.reason,
                metadata={name: value for name, value in result.numbers.items() if value is not None},
            )

    return _evaluation


def champion(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/champion`: the version that serves, promoted only against a verified verdict."""

    @dg.asset(
        key=model.key("champion"),
        description=(
            "The version that apps are to be served by. The verdict is read back from its record and verified; a "
            "manual approval waits until somebody materializes this with approved_by and reason."
        ),
        partitions_def=months_definition(model.declared.partitions),
        deps=[model.key("evaluation")],
        **model.common("mlflow"),
    )
    def _champion(
        context: dg.AssetExecutionContext, config: ChampionConfig, mlflow: MlflowResource, home: HomeResource
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.components.crowning import crown

        crowned = crown(
            model,
            context.partition_key,
            registry=mlflow.models,
            audit=home.audit(),
            verdicts=home.home().records / "verdicts",
            approved_by=config.approved_by,
            reason=config.reason,
            decided_by=f"dagster run {context.run_id}",
            now=datetime.now(UTC),
        )
        return dg.MaterializeResult(
            metadata={
                "version": crowned.version,
                "previous_version": crowned.previous_version or 0,
                "since": crowned.since.isoformat(),
                "decided_by": crowned.decided_by,
                "approved_by": list(crowned.approved_by),
                "reason": crowned.reason,
            },
            data_version=dg.DataVersion(crowned.content_digest),
        )

    return _champion


def model_card(model: BoundModel) -> dg.AssetsDefinition:
    """`<model>/model_card`: what the champion is for, made from what, how good where, at what cost."""

    @dg.asset(
        key=model.key("model_card"),
        description="The card of the month's champion as a page (HTML) and as text (Markdown).",
        partitions_def=months_definition(model.declared.partitions),
        deps=[model.key("champion")],
        **model.common("html"),
    )
    def _model_card(
        context: dg.AssetExecutionContext, mlflow: MlflowResource, home: HomeResource, lake: LakeResource
    ) -> dg.MaterializeResult[Any]:
        from ml_platform.components.crowning import write_card

        page, text = write_card(
            model,
            context.partition_key,
            lake=lake.lake(),
            registry=mlflow.models,
            audit=home.audit(),
            folders=home.home(),
        )
        return dg.MaterializeResult(
            metadata={
                "card": dg.MetadataValue.url(page.as_uri()),
                "markdown": dg.MetadataValue.md(text.read_text()),
            }
        )

    return _model_card


def _importance(shares: dict[str, float]) -> bytes:
    from ml_platform.evaluation.plots import importance_plot

    return importance_plot(shares)


def _picture(png: bytes) -> dg.MarkdownMetadataValue:
    """Return a plot that the UI shows where it stands."""
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")
