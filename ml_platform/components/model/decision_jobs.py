"""The jobs `<model>_approve`, `<model>_reject` and `<model>_rollback`: the verbs of the command line in the Dagster UI.

Each calls the function that its verb calls, and writes the same events.
"""

from datetime import UTC, datetime
from typing import Literal

import dagster as dg
from pydantic import Field

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from ml_platform.data.names import identifier
from resources.dagster_home import HomeResource
from resources.decision_events import report_decisions
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource


class RollbackConfig(dg.Config):
    """The decision of a person."""

    decided_by: str = Field(description="Name of the person who decides.")
    reason: str = Field(description="Reason of the decision; it is recorded.")


class ApprovalConfig(dg.Config):
    """The decision of a person on one version."""

    version: int = Field(description="Number of the version in the registry, as on its model card.", ge=1)
    decided_by: str = Field(description="Name of the person who decides.")
    reason: str = Field(description="Reason of the decision; it is recorded.")
    evidence: str = Field(
        default="",
        description="First digits of the evidence digest on the inspected model card; empty accepts the latest.",
    )


def decision_jobs(model: ModelAssets) -> list[dg.JobDefinition]:
    """Return the jobs of the decisions of a person on ``model``."""
    return [approval_job(model, "approve"), approval_job(model, "reject"), rollback_job(model)]


def approval_job(model: ModelAssets, decision: Literal["approve", "reject"]) -> dg.JobDefinition:
    """Return the job that records the decision of a person on a version, and promotes it if nothing else is missing."""
    name = f"{identifier(model.name)}_{decision}"
    does = "Approves a version" if decision == "approve" else "Rejects a version"

    @dg.op(name=f"{name}_step", description=f"{does} on its latest verdict.")
    def _decide(
        context: dg.OpExecutionContext,
        config: ApprovalConfig,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> None:
        from ml_platform.steps.promotion import ApprovalDecision, NotPromoted, record_decision

        stores = open_stores(home, lake, mlflow, online_store)
        given = ApprovalDecision(decision, config.decided_by, config.reason, config.evidence)
        outcome = record_decision(model, config.version, given, stores, now=datetime.now(UTC))
        report_decisions(context.instance, stores.state, model.name)
        text = f"Version {config.version} is champion. Materialize {model.name}/bento and {model.name}/rollout."
        if isinstance(outcome, NotPromoted):
            text = f"Version {config.version} is not champion: {outcome.reason}"
        context.log.info(text)

    @dg.job(
        name=name,
        description=f"{does} of {model.name}, as `ml-platform {decision}` does.",
        executor_def=dg.in_process_executor,
    )
    def _approval() -> None:
        _decide()

    return _approval


def rollback_job(model: ModelAssets) -> dg.JobDefinition:
    """Return the job that makes the previous champion champion and stable again.

    Its only step is one transaction, which needs neither MLflow nor a build.
    """
    name = f"{identifier(model.name)}_rollback"

    @dg.op(name=f"{name}_step", description="Makes the previous champion champion again.")
    def _roll_back(
        context: dg.OpExecutionContext, config: RollbackConfig, home: HomeResource, lake: LakeResource
    ) -> None:
        from ml_platform.steps.rollback import roll_back_champion

        state = lake.lake().state
        champion, desired = roll_back_champion(
            model.name,
            home.home(),
            state,
            decided_by=config.decided_by,
            reason=config.reason,
            at=datetime.now(UTC),
        )
        report_decisions(context.instance, state, model.name)
        context.log.info(f"Version {champion.version} is champion again; the state is generation {desired.generation}.")

    @dg.job(
        name=name,
        description=f"Makes the previous champion of {model.name} champion again, and the stable version of its "
        "endpoint, as `ml-platform rollback` does.",
        executor_def=dg.in_process_executor,
    )
    def _rollback() -> None:
        _roll_back()

    return _rollback
