"""Failed runs and failed ticks of schedules and sensors that no later success has replaced.

`ml-platform status`, the home page and alerts show them; a failure of a schedule is otherwise seen only by someone who
opens the page of its runs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import quote

import dagster as dg
from dagster._core.scheduler.instigation import TickStatus

from ml_platform.errors import listed
from resources.run_monitoring import RUN_ID_DIGITS

RUNS_READ = 300
"""Newest ended runs that are read; a failure before them is not shown."""

FAILURES_SHOWN = 5

PARTITION_TAG, SCHEDULE_TAG, SENSOR_TAG = "dagster/partition", "dagster/schedule_name", "dagster/sensor_name"


@dataclass(frozen=True)
class Failure:
    """One failure: ``subject`` stays the same when it happens again, and ``what`` names this one.

    ``kind`` is run, schedule or sensor. ``page`` is its path in the Dagster UI. ``run_id`` is None for a tick.
    ``requested_by`` is the schedule or sensor that requested the run; empty: a person. ``assets`` are those that a run
    should have made, if it names them, and those of its failed steps.
    """

    kind: str
    subject: str
    what: str
    at: datetime
    reason: str
    page: str
    run_id: str | None = None
    requested_by: str = ""
    assets: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the failure as a JSON object of `ml-platform status`."""
        at = self.at.isoformat(timespec="seconds")
        return {"what": self.what, "at": at, "reason": self.reason, "run_id": self.run_id}


def unresolved_failures(instance: dg.DagsterInstance, limit: int = FAILURES_SHOWN) -> list[dict[str, Any]]:
    """Return the latest failures as JSON objects, ticks before runs.

    ``what`` names it, ``at`` is in ISO 8601, ``reason`` is its cause, and ``run_id`` is None for a tick. A run is left
    out when later runs made all its assets of its partition, and so is one that later runs tried again. A tick is left
    out when a later one of its schedule or sensor did not fail.
    """
    ticks = sorted(failed_ticks(instance), key=lambda each: each.at, reverse=True)
    return [each.to_dict() for each in [*ticks[:limit], *islice(failed_runs(instance), limit)]]


def failed_runs_between(
    instance: dg.DagsterInstance, start: datetime, end: datetime, limit: int
) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of runs that failed from ``start`` until before ``end``, and the last ``limit`` of them.

    Runs count by the time at which they were created, also those that a later run replaced. Housekeeping deletes old
    runs, which are not counted.
    """
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=start, created_before=end)
    return instance.get_runs_count(failed), [
        _failed_run(record, _causes(instance, record.dagster_run.run_id)).to_dict()
        for record in instance.get_run_records(failed, limit=limit)
    ]


def failed_ticks(instance: dg.DagsterInstance) -> Iterator[Failure]:
    """Yield the last tick of each running schedule and sensor that failed."""
    for state in instance.all_instigator_state():
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2)
        last = next((each for each in ticks if each.status is not TickStatus.STARTED), None)
        if last is None or last.status is not TickStatus.FAILURE or not state.is_running:
            continue
        kind = state.instigator_type.value.lower()
        reason = "no error was recorded" if last.error is None else str(last.error.message).strip()
        repository = state.origin.repository_origin
        location = f"{repository.repository_name}@{repository.code_location_origin.location_name}"
        yield Failure(
            kind=kind,
            subject=f"{kind} {state.instigator_name}",
            what=f"{kind} {state.instigator_name}",
            at=datetime.fromtimestamp(last.timestamp, UTC),
            reason=reason,
            page=f"/locations/{quote(location)}/{kind}s/{quote(state.instigator_name)}",
        )


def failed_runs(instance: dg.DagsterInstance) -> Iterator[Failure]:
    """Yield the failed runs among the last :data:`RUNS_READ` that no later run has replaced, latest first."""
    ended = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE])
    replaced: set[tuple[str, str | None]] = set()
    for record in instance.get_run_records(ended, limit=RUNS_READ):
        run = record.dagster_run
        made = {(name, run.tags.get(PARTITION_TAG)) for name in _made_by(run)}
        if run.status is dg.DagsterRunStatus.FAILURE and not made <= replaced:
            causes = _causes(instance, run.run_id)
            failed = {(name, run.tags.get(PARTITION_TAG)) for name in causes}
            if not failed or not failed <= replaced:
                yield _failed_run(record, causes)
            made |= failed
        replaced |= made


def _made_by(run: dg.DagsterRun) -> list[str]:
    # A run of a job has no selection.
    return sorted(key.to_user_string() for key in run.asset_selection or ()) or [run.job_name]


def _failed_run(record: dg.RunRecord, causes: Mapping[str, str]) -> Failure:
    run = record.dagster_run
    by = run.tags.get(SCHEDULE_TAG) or run.tags.get(SENSOR_TAG)
    partition = f" for {run.tags[PARTITION_TAG]}" if PARTITION_TAG in run.tags else ""
    requested = f", requested by {by}" if by else ""
    made = f"{listed(_made_by(run))}{partition}"
    reason = " ".join(f"{name}: {cause}" for name, cause in causes.items())
    ended = record.end_time
    return Failure(
        kind="run",
        # Without quotes, because people type it.
        subject=made.replace("'", ""),
        what=f"run {run.run_id[:RUN_ID_DIGITS]} of {made}{requested}",
        at=record.create_timestamp if ended is None else datetime.fromtimestamp(ended, UTC),
        reason=reason or "no step failed; see its log in the Dagster UI",
        page=f"/runs/{run.run_id}",
        run_id=run.run_id,
        requested_by=by or "",
        assets=tuple({**dict.fromkeys(_made_by(run)), **dict.fromkeys(causes)}),
    )


def _causes(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Return the cause of each failed step of a run, by the asset of the step."""
    events = [each.dagster_event for each in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)]
    return {str(event.step_key).replace("__", "/"): failure_cause(event) for event in events if event is not None}


def failure_cause(event: dg.DagsterEvent) -> str:
    """Return the innermost message of a failed step; Dagster wraps the error of an asset in its own error."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return str(data.user_failure_data.description).strip()
    error = data.error
    if error is None:
        return "no error was recorded"
    while error.cause is not None:
        error = error.cause
    # Dagster puts the class and its module before the message; a PlatformError does not need them.
    text = str(error.message).strip()
    kind, _, own_message = text.partition(": ")
    return own_message if kind.startswith("ml_platform.") else text
