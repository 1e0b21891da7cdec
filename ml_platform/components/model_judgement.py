"""The assets of a model that decide: evaluation behind its gates, the champion, and its card.

Each body reads its inputs, calls the engine, and returns what the UI shows.
"""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_platform.components.declaration import months_definition
from ml_platform.components.model import ModelAssets
from ml_platform.components.shown import picture
from ml_platform.registry.approvals import ApprovalError
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.steps.carding import WrittenCard
    from ml_platform.steps.crowning import Held, Word


APPROVED = "approved"
"""The check that says whether whoever must agree has agreed."""

REPRODUCIBLE = "reproducible"
"""The check that rebuilds the champion."""


class ChampionConfig(dg.Config):
    """Who decides, where a person does."""

    approved_by: str = Field(default="", description="Name of the person who approves (manual approval).")
    rejected_by: str = Field(default="", description="Name of the person who rejects.")
    reason: str = Field(default="", description="Why; part of the record.")
    evidence: str = Field(
        default="", description="First digits of the evidence on the card that was looked at; empty takes the newest."
    )

    def word(self) -> "Word | None":
        """Return what a person says, or None; raises where two say something, or nobody gives a reason."""
        from ml_platform.steps.crowning import Word

        if self.approved_by and self.rejected_by:
            raise ApprovalError(
                "Configuration of the champion",
                expected="approved_by or rejected_by",
                found="both",
                mend="Say one, and why.",
            )
        if self.approved_by:
            return Word("approve", self.approved_by, self.reason, self.evidence)
        if self.rejected_by:
            return Word("reject", self.rejected_by, self.reason, self.evidence)
        if self.reason:
            raise ApprovalError(
                "Configuration of the champion",
                expected="who decides, beside the reason",
                found="a reason alone",
                mend="Fill in approved_by or rejected_by too, or neither.",
            )
        return None


def evaluation(model: ModelAssets) -> dg.AssetsDefinition:
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
            for gate in model.gates
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
        from ml_platform.components.contract_record import broken_contracts
        from ml_platform.evaluation.calibration import reliability
        from ml_platform.evaluation.plots import reliability_plot
        from ml_platform.steps.judgement import candidates_of, judge

        registry = mlflow.models
        with mlflow.run(context, model.name) as run:
            judged = judge(
                model,
                candidates_of(model, context.partition_key, registry),
                context.partition_key,
                lake=lake.lake(),
                registry=registry,
                online=online_store.store(),
                folders=home.home(),
                audit=home.audit(),
                repository=home.code,
                broken_contracts=broken_contracts(context.instance, model, context.partition_key, lake.lake()),
                now=datetime.now(UTC),
            )
            run.set_tags({"verdict": judged.verdict.decision, "candidate_run": judged.version.run_id})
            run.log_metrics(judged.numbers)
        # On the candidate's own run too, where candidates are compared.
        mlflow.tracking.client.set_tag(judged.version.run_id, "verdict", judged.verdict.decision)
        for name, value in judged.numbers.items():
            mlflow.tracking.client.log_metric(judged.version.run_id, name, value)
        others = {f"{line.metric}_{name}": value for line in judged.metrics for name, value in line.others.items()}
        drawn: dict[str, Any] = {}
        if model.declared.task == "classification":
            bins = reliability(judged.evidence.label, judged.evidence.predictions["candidate"])
            drawn = {"reliability": picture(reliability_plot(bins))}
        yield dg.MaterializeResult(
            metadata={
                "version": judged.version.version,
                "mlflow_run": mlflow.link(model.name, judged.version.run_id),
                "decision": judged.verdict.decision,
                "reasons": judged.verdict.reasons,
                "labels_needed": judged.verdict.labels_needed or 0,
                **judged.numbers,
                **others,
                "rows": len(judged.evidence.label),
                "bento_latency_p99_ms": judged.evidence.facts.latency_p99_ms or 0.0,
                "bento_size_bytes": judged.package.size_bytes,
                "verdict": dg.MetadataValue.path(str(judged.verdict_path)),
                **drawn,
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


def champion(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/champion`: the version that serves, promoted only against a verified verdict."""
    key = model.key("champion")

    @dg.asset(
        key=key,
        description=(
            "The version that apps are to be served by. The verdict is read back from its record and verified. While a "
            "manual approval is awaited nothing is materialized, here or downstream: the version waits as challenger "
            "until somebody materializes this with approved_by (or rejected_by) and reason."
        ),
        partitions_def=months_definition(model.declared.partitions),
        deps=[model.key("evaluation"), model.key("model_card")],
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(APPROVED, asset=key, description="Whoever must agree to the new champion has agreed.")
        ],
        **model.common("mlflow"),
    )
    def _champion(
        context: dg.AssetExecutionContext,
        config: ChampionConfig,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.steps.carding import renewed_card
        from ml_platform.steps.crowning import Held, crown
        from ml_platform.steps.releasing import release_champion

        crowned = crown(
            model,
            context.partition_key,
            registry=mlflow.models,
            audit=home.audit(),
            verdicts=home.home().verdicts,
            word=config.word(),
            decided_by=f"dagster run {context.run_id}",
            now=datetime.now(UTC),
        )
        if isinstance(crowned, Held):
            yield _held(crowned)
            return
        released = release_champion(
            model, crowned, lake=lake.lake(), registry=mlflow.models, folders=home.home(), repository=home.code
        )
        yield dg.MaterializeResult(
            metadata={
                "version": crowned.version,
                "previous_version": crowned.previous_version or 0,
                "since": crowned.since.isoformat(),
                "decided_by": crowned.decided_by,
                "approved_by": list(crowned.approved_by),
                "reason": crowned.reason,
                "release": released.words,
                "card": renewed_card(lambda: _written_card(model, context.partition_key, mlflow, home)),
            },
            data_version=dg.DataVersion(crowned.content_digest),
        )
        yield dg.AssetCheckResult(
            check_name=APPROVED,
            passed=True,
            description=f"Approved by {', '.join(crowned.approved_by)}." if crowned.approved_by else "On the verdict.",
            metadata={"version": crowned.version},
        )

    return _champion


def _held(held: "Held") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=APPROVED,
        passed=False,
        # Waiting is nobody's fault; a rejection is an answer.
        severity=dg.AssetCheckSeverity.ERROR if held.rejected else dg.AssetCheckSeverity.WARN,
        description=held.reason,
        metadata={"version": held.version, "state": "rejected" if held.rejected else "waits as challenger"},
    )


def reproducible(model: ModelAssets) -> dg.AssetChecksDefinition:
    """`reproducible` on `<model>/champion`: rebuilt from its manifest, it comes out equal. Runs on its own only."""
    key = model.key("champion")

    @dg.multi_asset_check(
        name=f"{model.name}__{REPRODUCIBLE}",
        specs=[
            dg.AssetCheckSpec(
                REPRODUCIBLE,
                asset=key,
                description="Rebuilt from the versions that its manifest pins, the champion comes out equal.",
            )
        ],
        can_subset=True,
    )
    def _reproducible(
        context: dg.AssetCheckExecutionContext, lake: LakeResource, mlflow: MlflowResource, home: HomeResource
    ) -> Iterator[dg.AssetCheckResult]:
        from ml_platform.steps.reproducing import reproduce_champion

        if key in (context.run.asset_selection or ()):
            # Dagster runs an asset's checks with it; a rebuild takes as long as the training did.
            return
        champion, found = reproduce_champion(
            model, lake=lake.lake(), registry=mlflow.models, folders=home.home(), repository=home.code
        )
        differing = [one.what for one in found.comparisons if not one.equal]
        yield dg.AssetCheckResult(
            check_name=REPRODUCIBLE,
            asset_key=key,
            passed=found.equal,
            description=f"Not equal: {', '.join(differing)}." if differing else "Everything came out as it was.",
            metadata={
                "version": champion.version,
                "surroundings": found.surroundings,
                "comparisons": dg.MetadataValue.table(
                    [dg.TableRecord(asdict(one)) for one in found.comparisons],
                    schema=dg.TableSchema([dg.TableColumn(name) for name in ("what", "recorded", "rebuilt", "equal")]),
                ),
            },
        )

    return _reproducible


def reproduce_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """`<model>_reproduce`, and the job of that name: off until somebody turns it on, for it costs a training."""
    name, said = f"{model.name}_reproduce", f"Rebuilds the champion of {model.name} from its manifest and compares."
    check = dg.AssetCheckKey(model.key("champion"), REPRODUCIBLE)
    job = dg.define_asset_job(name, selection=dg.AssetSelection.checks(check), description=said)
    return dg.ScheduleDefinition(
        name=name,
        cron_schedule=cron,
        job=job,
        description=said,
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def model_card(model: ModelAssets) -> dg.AssetsDefinition:
    """`<model>/model_card`: what a judged version is for, made from what, how good where, at what cost."""

    @dg.asset(
        key=model.key("model_card"),
        description=(
            "The card of the version that the month's verdict is about, as a page (HTML) and as text (Markdown); "
            "MLflow shows it too. Made before anybody decides, and anew by the champion that it becomes."
        ),
        partitions_def=months_definition(model.declared.partitions),
        deps=[model.key("evaluation")],
        **model.common("html"),
    )
    def _model_card(
        context: dg.AssetExecutionContext, mlflow: MlflowResource, home: HomeResource
    ) -> dg.MaterializeResult[Any]:
        written = _written_card(model, context.partition_key, mlflow, home)
        return dg.MaterializeResult(
            metadata={
                "version": written.version.version,
                "card": home.link(written.page),
                "mlflow_run": mlflow.link(model.name, written.version.run_id),
                "markdown": dg.MetadataValue.md(written.text.read_text()),
            },
            data_version=dg.DataVersion(written.verdict_digest),
        )

    return _model_card


def _written_card(model: ModelAssets, month: str, mlflow: MlflowResource, home: HomeResource) -> "WrittenCard":
    from ml_platform.steps.carding import write_card
    from resources.addresses import address

    return write_card(
        model,
        month,
        registry=mlflow.models,
        audit=home.audit(),
        folders=home.home(),
        repository=home.code,
        links={"Assets, checks and runs in Dagster": f"{address('webserver')}/assets/{model.name}/champion"},
    )
