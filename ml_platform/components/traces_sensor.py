"""The sensor `traces`: it sends the spans of ended runs to the collector of OpenTelemetry."""

import functools
import json
from datetime import UTC, datetime

import dagster as dg

from ml_platform.components.platform_assets import HOUSEKEEPING
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.data.traces import SpanExporter, collector_address
from resources.dagster_home import HomeResource

INTERVAL_SECONDS = 30


def traces_sensors() -> list[dg.SensorDefinition]:
    """Return the sensor `traces`; none without an address of a collector in the environment."""
    address = collector_address()
    if not address:
        return []

    @dg.sensor(
        name="traces",
        # Dagster wants a target; the sensor requests no run.
        target=dg.AssetSelection.assets(HOUSEKEEPING),
        description="Sends the spans of ended runs and their steps to the collector of OpenTelemetry.",
        minimum_interval_seconds=sensor_seconds(INTERVAL_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def _traces(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SkipReason:
        from resources.run_traces import ended_runs, spans_of

        if context.cursor is None:
            # Runs from before the collector was chosen are not sent.
            context.update_cursor(_cursor(datetime.now(UTC).timestamp()))
            return dg.SkipReason("Runs that end from now on are sent.")
        runs = ended_runs(context.instance, json.loads(context.cursor)["since"])
        if not runs:
            return dg.SkipReason("No run has ended.")
        spans = spans_of(runs, home.audit().state)
        if not _exporter(address).send(spans):
            return dg.SkipReason(f"The collector at {address} does not answer; the spans are sent again.")
        context.update_cursor(_cursor(runs[-1].update_timestamp.timestamp()))
        return dg.SkipReason(f"{len(spans)} spans of {len(runs)} runs were sent.")

    return [_traces]


@functools.cache
def _exporter(address: str) -> SpanExporter:
    return SpanExporter(address, "runs")


def _cursor(since: float) -> str:
    return json.dumps({"since": since})
