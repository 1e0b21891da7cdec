"""The job `<model>_rollback`: the rollback of the command line, for the Dagster UI."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.names import identifier
from resources.dagster_home import HomeResource
from resources.lake import LakeResource


class RollbackConfig(dg.Config):
    """The decision of a person."""

    decided_by: str = Field(description="Name of the person who decides.")
    reason: str = Field(description="Reason of the decision; it is recorded.")


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

        champion, desired = roll_back_champion(
            model.name,
            home.home(),
            lake.lake().state,
            decided_by=config.decided_by,
            reason=config.reason,
            at=datetime.now(UTC),
        )
        observation = dg.AssetObservation(
            asset_key=model.key("rollout"),
            description=f"Version {champion.version} is champion again, and stable.",
            metadata={
                "version": champion.version,
                "decided_by": champion.decided_by,
                "reason": config.reason,
                "generation": desired.generation,
            },
        )
        context.log_event(observation)

    @dg.job(
        name=name,
        description=f"Makes the previous champion of {model.name} champion again, and the stable version of its "
        "endpoint, as `ml-platform rollback` does.",
        executor_def=dg.in_process_executor,
    )
    def _rollback() -> None:
        _roll_back()

    return _rollback
