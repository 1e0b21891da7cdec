"""The assets that promote a candidate: the champion, and the check that rebuilds it."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_platform.components.declaration import partitions_definition
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.model_card import write_month_card
from ml_platform.registry.approvals import ApprovalError
from resources.dagster_home import HomeResource
from resources.lake import LakeResource
from resources.mlflow import MlflowResource

if TYPE_CHECKING:
    from ml_platform.steps.promotion import ApprovalDecision, NotPromoted

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

    def decision(self) -> "ApprovalDecision | None":
        """Return the decision of a person, or None. Raises where the fields contradict each other or are incomplete."""
        from ml_platform.steps.promotion import ApprovalDecision

        if self.approved_by and self.rejected_by:
            raise ApprovalError(
                "Configuration of the champion",
                expected="approved_by or rejected_by",
                found="both",
                fix="Say one, and why.",
            )
        if self.approved_by:
            return ApprovalDecision("approve", self.approved_by, self.reason, self.evidence)
        if self.rejected_by:
            return ApprovalDecision("reject", self.rejected_by, self.reason, self.evidence)
        if self.reason:
            raise ApprovalError(
                "Configuration of the champion",
                expected="who decides, beside the reason",
                found="a reason alone",
                fix="Fill in approved_by or rejected_by too, or neither.",
            )
        return None


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
        partitions_def=partitions_definition(model.declared.partitions),
        deps=[model.key("evaluation"), model.key("model_card")],
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(APPROVED, asset=key, description="Whoever must agree to the new champion has agreed.")
        ],
        **model.shared_arguments("mlflow"),
    )
    def _champion(
        context: dg.AssetExecutionContext,
        config: ChampionConfig,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.steps.model_card import refresh_model_card
        from ml_platform.steps.promotion import NotPromoted, promote_candidate
        from ml_platform.steps.release import release_champion

        promoted = promote_candidate(
            model,
            context.partition_key,
            registry=mlflow.models,
            audit=home.audit(),
            verdicts=home.home().verdicts,
            decision=config.decision(),
            decided_by=f"dagster run {context.run_id}",
            now=datetime.now(UTC),
        )
        if isinstance(promoted, NotPromoted):
            yield _not_promoted(promoted)
            return
        release = release_champion(
            model, promoted, lake=lake.lake(), registry=mlflow.models, folders=home.home(), repository=home.code
        )
        yield dg.MaterializeResult(
            metadata={
                "version": promoted.version,
                "previous_version": promoted.previous_version or 0,
                "champion_since": promoted.since.isoformat(),
                "decided_by": promoted.decided_by,
                "approved_by": list(promoted.approved_by),
                "reason": promoted.reason,
                "release": release.message,
                "model_card": refresh_model_card(lambda: write_month_card(model, context.partition_key, mlflow, home)),
            },
            data_version=dg.DataVersion(promoted.content_digest),
        )
        yield dg.AssetCheckResult(
            check_name=APPROVED,
            passed=True,
            description=f"Approved by {', '.join(promoted.approved_by)}."
            if promoted.approved_by
            else "On the verdict.",
            metadata={"version": promoted.version},
        )

    return _champion


def _not_promoted(result: "NotPromoted") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=APPROVED,
        passed=False,
        # Waiting is nobody's fault; a rejection is an answer.
        severity=dg.AssetCheckSeverity.ERROR if result.rejected else dg.AssetCheckSeverity.WARN,
        description=result.reason,
        metadata={"version": result.version, "state": "rejected" if result.rejected else "waits as challenger"},
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
        from ml_platform.steps.reproduction import reproduce_champion

        if key in (context.run.asset_selection or ()):
            # Dagster runs an asset's checks with it; a rebuild takes as long as the training did.
            return
        champion, found = reproduce_champion(
            model, lake=lake.lake(), registry=mlflow.models, folders=home.home(), repository=home.code
        )
        differing = [one.item for one in found.comparisons if not one.equal]
        yield dg.AssetCheckResult(
            check_name=REPRODUCIBLE,
            asset_key=key,
            passed=found.equal,
            description=f"Not equal: {', '.join(differing)}." if differing else "Everything came out as it was.",
            metadata={
                "version": champion.version,
                "environment_differences": found.environment_differences,
                "comparisons": dg.MetadataValue.table(
                    [dg.TableRecord(asdict(one)) for one in found.comparisons],
                    schema=dg.TableSchema([dg.TableColumn(name) for name in ("item", "recorded", "rebuilt", "equal")]),
                ),
            },
        )

    return _reproducible


def reproduce_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """`<model>_reproduce`, and the job of that name: off until somebody turns it on, for it costs a training."""
    name, description = (
        f"{model.name}_reproduce",
        f"Rebuilds the champion of {model.name} from its manifest and compares.",
    )
    check = dg.AssetCheckKey(model.key("champion"), REPRODUCIBLE)
    job = dg.define_asset_job(name, selection=dg.AssetSelection.checks(check), description=description)
    return dg.ScheduleDefinition(
        name=name,
        cron_schedule=cron,
        job=job,
        description=description,
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
