"""The runs that failed last, with their reasons, from the instance of Dagster."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import dagster as dg

from ml_platform.console.runs import failure_cause

RUNS_SHOWN, REASONS_KEPT = 8, 100


@dataclass(frozen=True)
class FailedRun:
    """A run that failed: its id, its assets as a title, when it ended, and the message of its first failure."""

    run_id: str
    title: str
    at: datetime
    reason: str = ""


class FailedRuns:
    """The runs of ``instance`` that failed last. The reason of a run is read once, since a run that ended stays."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._reason = lru_cache(REASONS_KEPT)(self._read_reason)

    def last(self, limit: int = RUNS_SHOWN) -> list[FailedRun]:
        """Return the last ``limit`` runs that failed, latest first."""
        failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
        return [
            FailedRun(
                record.dagster_run.run_id,
                _title(record.dagster_run),
                datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp,
                self._reason(record.dagster_run.run_id),
            )
            for record in self._instance.get_run_records(failed, limit=limit)
        ]

    def _read_reason(self, run_id: str) -> str:
        types = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
        events = [entry.dagster_event for entry in self._instance.all_logs(run_id, of_type=types)]
        steps = [event for event in events if event and event.event_type == dg.DagsterEventType.STEP_FAILURE]
        if steps:
            return failure_cause(steps[0])
        return next((event.message or "" for event in events if event), "")


def _title(run: dg.DagsterRun) -> str:
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    more = f" and {len(assets) - 2} more" if len(assets) > 2 else ""
    return f"{', '.join(assets[:2]) or run.job_name}{more}"
