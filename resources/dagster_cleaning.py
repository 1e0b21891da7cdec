"""Finds Dagster runs that are no longer needed; deleting one removes its events and the output of its steps.

The latest materialization, observation and check result of each asset partition decides what is up to date. The run
that has one of them stays, whatever its age, and so does a run that has not ended.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from ml_platform.data.leftovers import Leftover, folder_size

RUNS = "runs of Dagster"

LATEST_EVENTS = ("ASSET_MATERIALIZATION", "ASSET_OBSERVATION")
"""Events of which the latest one of each asset partition stays."""

RUNS_PER_PAGE = 500


def old_runs(instance: dg.DagsterInstance, ended_before: datetime | None) -> Iterator[Leftover]:
    """Yield the runs that ended before the given time, oldest first, without those that have a latest result."""
    if ended_before is None:
        return
    filters = dg.RunsFilter(statuses=list(FINISHED_STATUSES), created_before=ended_before, updated_before=ended_before)
    old = instance.get_run_ids(filters)
    if not old:
        return
    kept = runs_with_latest_results(instance)
    for start in range(0, len(old), RUNS_PER_PAGE):
        chosen = [run_id for run_id in reversed(old[start : start + RUNS_PER_PAGE]) if run_id not in kept]
        if not chosen:
            continue
        for record in instance.get_run_records(dg.RunsFilter(run_ids=chosen)):
            run_id = record.dagster_run.run_id
            created = record.create_timestamp.astimezone(UTC)
            yield Leftover(RUNS, [run_id], run_bytes(instance, run_id), created, _removal(instance, run_id))


def runs_with_latest_results(instance: dg.DagsterInstance) -> set[str]:
    """Return the ids of the runs with the latest materialization, observation or check result of an asset partition."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"expected an event log in a database, found {type(storage).__name__}")
    events, checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    latest_events = (
        sa.select(sa.func.max(events.id))
        .where(events.dagster_event_type.in_(LATEST_EVENTS), events.asset_key.is_not(None))
        .group_by(events.dagster_event_type, events.asset_key, events.partition)
    )
    latest_checks = sa.select(sa.func.max(checks.id)).group_by(checks.asset_key, checks.check_name, checks.partition)
    queries = [
        sa.select(events.run_id).where(events.id.in_(latest_events)).distinct(),
        sa.select(checks.run_id).where(checks.id.in_(latest_checks)).distinct(),
    ]
    with storage.index_connection() as connection:
        return {str(run_id) for query in queries for run_id in connection.scalars(query)}


def run_bytes(instance: dg.DagsterInstance, run_id: str) -> int:
    """Return the size of the files of a run in bytes: its events on SQLite, and the output of its steps."""
    size = sum(path.stat().st_size for path in _event_files(instance, run_id))
    output = _output_folder(instance, run_id)
    return size + (folder_size(output)[0] if output is not None and output.is_dir() else 0)


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete an ended run with its events and the output of its steps; a repeat is harmless.

    The run goes last, so a deletion that was killed is found again.
    """
    if _output_folder(instance, run_id) is not None:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        # Each run has a file of events; only events of assets are in the index too.
        with storage.index_connection() as connection:
            storage.delete_events_for_run(connection, run_id)
        for path in _event_files(instance, run_id):
            path.unlink(missing_ok=True)
        storage.free_concurrency_slots_for_run(run_id)
    else:
        storage.delete_events(run_id)
    if isinstance(storage, SqlEventLogStorage):
        # Dagster leaves the rows of check results.
        with storage.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.delete().where(AssetCheckExecutionsTable.c.run_id == run_id))
    instance.run_storage.delete_run(run_id)


def _removal(instance: dg.DagsterInstance, run_id: str) -> Callable[[], None]:
    return lambda: delete_run(instance, run_id)


def _event_files(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return []
    file = Path(storage.path_for_shard(run_id))
    return [path for path in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))) if path.exists()]


def _output_folder(instance: dg.DagsterInstance, run_id: str) -> Path | None:
    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return None
    return Path(manager._base_dir) / run_id
