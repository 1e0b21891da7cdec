"""The sensor `champion_aliases`: it sets MLflow's aliases after decisions that were recorded without MLflow."""

from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.components.platform_assets import HOUSEKEEPING
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.errors import listed
from resources.lake import LakeResource
from resources.mlflow import MlflowResource

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.models import ModelRegistry


def champion_aliases_sensor() -> dg.SensorDefinition:
    """Return the sensor. A rollback needs no MLflow, so the aliases follow here; usually there is nothing to do."""

    @dg.sensor(
        name="champion_aliases",
        # Dagster wants a target; the sensor requests no run.
        target=dg.AssetSelection.assets(HOUSEKEEPING),
        description="Sets the aliases of champions in MLflow after rollbacks, which are decided without MLflow.",
        minimum_interval_seconds=sensor_seconds(30),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def _champion_aliases(lake: LakeResource, mlflow: MlflowResource) -> dg.SkipReason:
        from ml_platform.registry.audit import AuditLog

        return followed_aliases(AuditLog(lake.lake().state), lambda: mlflow.models)

    return _champion_aliases


def followed_aliases(audit: "AuditLog", open_registry: "Callable[[], ModelRegistry]") -> dg.SkipReason:
    """Set the aliases that have to follow a decision, and say which. Without any, the registry is not opened."""
    from ml_platform.registry.following_aliases import set_pending_aliases
    from ml_platform.registry.pending_aliases import models_with_pending_aliases

    waiting = models_with_pending_aliases(audit.state)
    if not waiting:
        return dg.SkipReason("MLflow's aliases are those of the audit log.")
    done = set_pending_aliases(open_registry(), audit)
    left = [model for model in waiting if model not in done]
    waits = f" {listed(left)} must wait: MLflow does not answer, or lacks the champion's version." if left else ""
    return dg.SkipReason(f"The aliases of {listed(done)} were set.{waits}")
