"""The asset `champion`, its checks `approved` and `reproducible`, and the schedule of the latter."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_platform.components.metadata import records_table
from ml_platform.components.metered import metered
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.model_card import write_window_card
from ml_platform.components.stores import open_stores
from ml_platform.data.names import identifier
from ml_platform.registry.approvals import ApprovalError
from resources.dagster_home import HomeResource
from resources.decision_events import APPROVED, RUN_ACTOR, note_reported, report_decisions
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.steps.promotion import ApprovalDecision, NotPromoted

STATES: Mapping[str, str] = {
    "challenger": "waits as challenger",
    "rejected": "rejected",
    "hold": "on hold",
    "refused": "refused by its gates",
}
"""Why a version is not promoted, as the check shows it."""

REPRODUCIBLE = "reproducible"
"""Name of the check that rebuilds the champion."""


class ChampionConfig(dg.Config):
    """The decision of a person, for manual approval."""

    approved_by: str = Field(default="", description="Name of the person who approves (manual approval).")
    rejected_by: str = Field(default="", description="Name of the person who rejects.")
    reason: str = Field(default="", description="Reason of the decision; it is recorded.")
    evidence: str = Field(
        default="",
        description="First digits of the evidence digest on the inspected model card; empty accepts the latest.",
    )

    def decision(self) -> "ApprovalDecision | None":
        """Return the decision of a person, or None without one.

        Raises :class:`ApprovalError` when both names are given, or a reason without a name.
        """
        from ml_platform.steps.promotion import ApprovalDecision

        if self.approved_by and self.rejected_by:
            raise ApprovalError(
                "Configuration of the champion",
                expected="approved_by or rejected_by",
                found="both",
                fix="Remove one of the two, and give the reason.",
            )
        if self.approved_by:
            return ApprovalDecision("approve", self.approved_by, self.reason, self.evidence)
        if self.rejected_by:
            return ApprovalDecision("reject", self.rejected_by, self.reason, self.evidence)
        if self.reason:
            raise ApprovalError(
                "Configuration of the champion",
                expected="approved_by or rejected_by beside the reason",
                found="a reason alone",
                fix="Give approved_by or rejected_by, or remove the reason.",
            )
        return None


def champion(model: ModelAssets) -> dg.AssetsDefinition:
    """Return `<model>/champion`: the version that serves, promoted only on a verified verdict."""
    key = model.key("champion")

    @dg.asset(
        key=key,
        description=(
            "The version that serves the apps. Promotion reads the recorded verdict back and verifies it. After a "
            "verdict of HOLD or REJECT, and until a manual approval, neither this asset nor those downstream are "
            "materialized; the check says why. To decide, materialize it with approved_by or rejected_by, and reason."
        ),
        partitions_def=model.partitions_def,
        deps=[model.key("evaluation"), model.key("model_card")],
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(APPROVED, asset=key, description="The version passed its gates and has all approvals.")
        ],
        **model.shared_arguments("mlflow"),
    )
    @metered
    def _champion(
        context: dg.AssetExecutionContext,
        config: ChampionConfig,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.steps.model_card import card_page, refresh_model_card
        from ml_platform.steps.promotion import NotPromoted, promote_candidate
        from ml_platform.steps.release import release_champion

        stores = open_stores(home, lake, mlflow, online_store)
        key_of_run = model.key_of_run(context, stores.lake)
        # Decisions before this one are shown first, so that the last event is that of the last decision.
        report_decisions(context.instance, stores.state, model.name)
        promoted = promote_candidate(
            model,
            key_of_run,
            stores,
            decision=config.decision(),
            decided_by=f"{RUN_ACTOR}{context.run.run_id}",
            now=datetime.now(UTC),
        )
        decided = stores.audit.head().sequence
        if isinstance(promoted, NotPromoted):
            yield _not_promoted(promoted)
            note_reported(stores.state, model.name, decided)
            return
        release = release_champion(model, promoted, stores)
        yield dg.MaterializeResult(
            metadata={
                "version": promoted.version,
                "previous_version": promoted.previous_version or 0,
                "champion_since": promoted.since.isoformat(),
                "decided_by": promoted.decided_by,
                "approved_by": list(promoted.approved_by),
                "reason": promoted.reason,
                "release": release.message,
                "model_card": home.link(card_page(model, key_of_run, stores)),
                "card_written": refresh_model_card(lambda: write_window_card(model, key_of_run, stores)),
            },
            data_version=dg.DataVersion(promoted.content_digest),
        )
        yield dg.AssetCheckResult(
            check_name=APPROVED,
            passed=True,
            description=f"Approved by {', '.join(promoted.approved_by)}."
            if promoted.approved_by
            else "Approved automatically, by the verdict.",
            metadata={"version": promoted.version},
        )
        note_reported(stores.state, model.name, decided)

    return _champion


def _not_promoted(result: "NotPromoted") -> dg.AssetCheckResult:
    # A verdict and a missing approval are results, and need no repair.
    return dg.AssetCheckResult(
        check_name=APPROVED,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=result.reason,
        metadata={"version": result.version, "state": STATES[result.state]},
    )


def reproducible(model: ModelAssets) -> dg.AssetChecksDefinition:
    """Return `reproducible` on `<model>/champion`: a rebuild from the manifest is equal. It runs only on request."""
    key = model.key("champion")

    @dg.multi_asset_check(
        name=f"{identifier(model.name)}__{REPRODUCIBLE}",
        specs=[
            dg.AssetCheckSpec(
                REPRODUCIBLE,
                asset=key,
                description="A rebuild of the champion from the versions that its manifest pins is equal.",
            )
        ],
        can_subset=True,
    )
    @metered
    def _reproducible(
        context: dg.AssetCheckExecutionContext,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.AssetCheckResult]:
        from ml_platform.steps.reproduction import reproduce_champion

        if key in (context.run.asset_selection or ()):
            # Dagster runs the checks with the asset, but a rebuild takes as long as training.
            return
        champion, found = reproduce_champion(model, open_stores(home, lake, mlflow, online_store), context.log.info)
        differing = [one.item for one in found.comparisons if not one.equal]
        yield dg.AssetCheckResult(
            check_name=REPRODUCIBLE,
            asset_key=key,
            passed=found.equal,
            description=f"Not equal: {', '.join(differing)}." if differing else "The rebuild is equal.",
            metadata={
                "version": champion.version,
                "environment_differences": found.environment_differences,
                "comparisons": records_table(map(asdict, found.comparisons), ("item", "recorded", "rebuilt", "equal")),
            },
        )

    return _reproducible


def reproduce_schedule(model: ModelAssets, cron: str) -> dg.ScheduleDefinition:
    """Return the schedule `<model>_reproduce` with its job; it is off by default, because a run costs a training."""
    name = f"{identifier(model.name)}_reproduce"
    description = f"Rebuilds the champion of {model.name} from its manifest and compares the results."
    check = dg.AssetCheckKey(model.key("champion"), REPRODUCIBLE)
    job = dg.define_asset_job(name, selection=dg.AssetSelection.checks(check), description=description)
    return dg.ScheduleDefinition(
        name=name,
        cron_schedule=cron,
        job=job,
        description=description,
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
