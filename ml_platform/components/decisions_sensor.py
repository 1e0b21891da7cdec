"""The sensor `decisions`: it shows in Dagster the decisions of the guard, and those that a killed command did not."""

import dagster as dg

from ml_platform.components.platform_assets import HOUSEKEEPING
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.registry.audit import AuditLog
from resources.decision_events import report_decisions
from resources.lake import LakeResource


def decisions_sensor() -> dg.SensorDefinition:
    """Return the sensor `decisions`; usually a command has written the events already."""

    @dg.sensor(
        name="decisions",
        # Dagster wants a target; the sensor requests no run.
        target=dg.AssetSelection.assets(HOUSEKEEPING),
        description="Shows decisions of the command line and of the guard on the pages of champion and rollout.",
        minimum_interval_seconds=sensor_seconds(10),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def _decisions(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SkipReason:
        state = lake.lake().state
        last = str(AuditLog(state).head().sequence)
        if context.cursor == last:
            return dg.SkipReason("The audit log has no new record.")
        shown = report_decisions(context.instance, state)
        context.update_cursor(last)
        return dg.SkipReason(" ".join(shown) or "Dagster shows all decisions.")

    return _decisions
