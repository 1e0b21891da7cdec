"""The traces of Dagster's runs: a span for the wait in the queue, one for the run, and one for each measured step.

The id of a trace is the id of its run without hyphens. A run of a schedule or sensor names it, and a run that was tried
again continues the trace of the first one. The spans are made from what the run storage and the ledger of costs have
recorded, after the run has ended, so no step waits for them, and a repeated export gives equal ids.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.data.traces import Attribute, Span, span_id
from ml_platform.monitoring.cost_records import StepCost, steps_of_runs
from resources.run_failures import PARTITION_TAG, SCHEDULE_TAG, SENSOR_TAG

if TYPE_CHECKING:
    from ml_platform.state.store import StateStore

RUNS_AT_ONCE = 50
"""Runs whose spans one tick of the sensor sends."""

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def ended_runs(instance: dg.DagsterInstance, since: float) -> list[dg.RunRecord]:
    """Return the first runs that ended after ``since`` (seconds since 1970), oldest first, at most 50."""
    ended = dg.RunsFilter(statuses=ENDED, updated_after=datetime.fromtimestamp(since, UTC))
    return list(instance.get_run_records(ended, limit=RUNS_AT_ONCE, order_by="update_timestamp", ascending=True))


def spans_of(records: Sequence[dg.RunRecord], state: "StateStore") -> list[Span]:
    """Return the spans of the ended runs ``records``; a run that never started has none."""
    steps: dict[str, list[StepCost]] = {}
    for each in steps_of_runs(state, [record.dagster_run.run_id for record in records]):
        steps.setdefault(each.run_id, []).append(each)
    return [
        span
        for record in records
        if record.start_time is not None and record.end_time is not None
        for span in _spans(record, steps.get(record.dagster_run.run_id, []))
    ]


def trace_id_of(run: dg.DagsterRun) -> str:
    """Return the id of the trace of ``run``: that of the first of the runs that tried its work."""
    return (run.root_run_id or run.run_id).replace("-", "")


def _spans(record: dg.RunRecord, steps: Sequence[StepCost]) -> Iterator[Span]:
    run = record.dagster_run
    assert record.start_time is not None
    assert record.end_time is not None
    trace, own = trace_id_of(run), span_id(run.run_id)
    failed = run.status is dg.DagsterRunStatus.FAILURE
    created, started, ended = (
        int(each * 1e9) for each in (record.create_timestamp.timestamp(), record.start_time, record.end_time)
    )
    requested_by = run.tags.get(SCHEDULE_TAG) or run.tags.get(SENSOR_TAG) or "person"
    attributes: dict[str, Attribute] = {
        "dagster.run_id": run.run_id,
        "dagster.job": run.job_name,
        "dagster.status": run.status.value,
        "dagster.requested_by": requested_by,
        **({"dagster.partition": run.tags[PARTITION_TAG]} if PARTITION_TAG in run.tags else {}),
    }
    yield Span("run", trace, own, "", min(created, started), ended, attributes, failed=failed)
    yield Span("queue", trace, span_id(run.run_id, "queue"), own, min(created, started), started)
    for step in steps:
        step_ended = int(step.ended_at.timestamp() * 1e9)
        yield Span(
            step.asset,
            trace,
            span_id(run.run_id, step.asset, str(step.attempt)),
            own,
            step_ended - int(step.used.wall_seconds * 1e9),
            step_ended,
            {
                "ml_platform.domain": step.domain,
                "ml_platform.model": step.model,
                "ml_platform.attempt": step.attempt,
                "ml_platform.cpu_seconds": step.used.cpu_seconds,
                "ml_platform.peak_memory_bytes": step.used.peak_memory_bytes,
            },
            failed=step.failed,
        )
