"""Execution of a Dagster run in this process, with an event for each step.

The instance of the home records these runs like all others, so the Dagster UI shows them.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from ml_platform.errors import PlatformError, listed
from resources.run_failures import failure_cause
from resources.run_monitoring import command_line_tags, ending_dead_runs

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


class RunFailedError(PlatformError):
    """Raised when a run of assets failed; the message names the failed assets with their causes."""


@dataclass(frozen=True)
class StepTiming:
    """One step of a run: its asset and its duration in seconds."""

    asset: str
    seconds: float


@dataclass
class RunReport:
    """A finished run: its duration in seconds, and its steps that made something, in the order in which they ended.

    ``warnings`` are the checks that did not pass and stopped nothing, such as the gates of a candidate on HOLD.
    """

    run_id: str
    seconds: float = 0.0
    steps: list[StepTiming] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StepEvent:
    """An event for a listener: ``kind`` is 'start', 'log', 'success', 'skipped' or 'failure'.

    A step is skipped when it ended well and made nothing, as `champion` does after a verdict of HOLD. ``message`` is a
    line of the step's log, or the cause of a failure.
    """

    asset: str
    kind: str
    seconds: float | None = None
    message: str = ""


Listener = Callable[[StepEvent], None]


def execute(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    keys: Sequence[dg.AssetKey],
    *,
    partitions: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
) -> RunReport:
    """Materialize ``keys`` in one run and return its timings.

    ``partitions`` is empty for unpartitioned assets, one key, or an ascending list without gaps, which runs as one
    range. Runs whose process is gone end first. Raises :class:`RunFailedError` when a step fails; materializations
    before the failure are kept.
    """
    job = definitions.resolve_implicit_global_asset_job_def()
    run_id = str(uuid.uuid4())
    report = RunReport(run_id)
    assets = {key.to_python_identifier(): key.to_user_string() for key in keys}
    failures: dict[str, str] = {}
    started: dict[str, float] = {}
    made: set[str] = set()

    def on_event(event: dg.EventLogEntry) -> None:
        step = event.dagster_event
        if step is None and event.step_key is not None and int(event.level) >= logging.INFO:
            asset = assets.get(event.step_key) or event.step_key.replace("__", "/")
            if asset in started:  # Dagster itself logs steps that it leaves out
                _notify(listener, StepEvent(asset, "log", message=event.user_message))
        if step is None or step.step_key is None:
            return
        if step.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            made.add(step.step_key)
        if step.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = step.asset_check_evaluation_data
            if not check.passed and check.severity is dg.AssetCheckSeverity.WARN:
                name = f"{check.asset_key.to_user_string()}, {check.check_name}"
                report.warnings.append(f"{name}: {check.description or 'did not pass'}")
            return
        asset = assets.get(step.step_key) or step.step_key.replace("__", "/")
        if step.event_type == dg.DagsterEventType.STEP_START:
            started[asset] = event.timestamp
            _notify(listener, StepEvent(asset, "start"))
        elif step.event_type == dg.DagsterEventType.STEP_SUCCESS:
            seconds = event.timestamp - started.get(asset, event.timestamp)
            if step.step_key in made:
                report.steps.append(StepTiming(asset, seconds))
            _notify(listener, StepEvent(asset, "success" if step.step_key in made else "skipped", seconds))
        elif step.event_type == dg.DagsterEventType.STEP_FAILURE:
            failures[asset] = failure_cause(step)
            _notify(listener, StepEvent(asset, "failure", message=failures[asset]))

    instance.add_event_listener(run_id, on_event)
    started_at = time.monotonic()
    with ending_dead_runs(instance):
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            asset_selection=list(keys),
            partition_key=partitions[0] if len(partitions) == 1 else None,
            tags={**command_line_tags(run_id), **_range_tags(partitions)},
            run_config=dict(config or {}),
            raise_on_error=False,
        )
    report.seconds = time.monotonic() - started_at
    if not result.success:
        reasons = "; ".join(f"{asset}: {reason}" for asset, reason in failures.items()) or "the run could not start"
        raise RunFailedError(
            f"Run {run_id[:8]}",
            expected=f"{len(keys)} asset{'s' * (len(keys) != 1)} materialized",
            found=f"a failure in {listed(failures)}. {reasons.rstrip('.')}",
            fix="Fix the cause and run the same command again; assets that are up to date are skipped.",
        )
    return report


def _range_tags(partitions: Sequence[str]) -> dict[str, str]:
    return {RANGE_START_TAG: partitions[0], RANGE_END_TAG: partitions[-1]} if len(partitions) > 1 else {}


def _notify(listener: Listener | None, event: StepEvent) -> None:
    if listener is not None:
        listener(event)
