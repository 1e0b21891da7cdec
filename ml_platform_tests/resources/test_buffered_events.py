"""Events that are stored in groups give the rows that Dagster stores one by one."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

from resources.buffered_events import BufferedEvents

INDEX_TABLES = ("event_logs", "asset_keys", "asset_event_tags", "asset_check_executions")
TIMES = {"create_timestamp"}
"""Columns with the time of the insertion."""


@dg.asset(
    partitions_def=dg.StaticPartitionsDefinition(["a", "b"]),
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("small", asset="table"), dg.AssetCheckSpec("large", asset="table")],
)
def table(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info("a line of the log")
    return dg.MaterializeResult(
        tags={"kind": "test"},
        data_version=dg.DataVersion("7"),
        check_results=[
            dg.AssetCheckResult(passed=True, check_name="small"),
            dg.AssetCheckResult(passed=False, check_name="large", severity=dg.AssetCheckSeverity.WARN),
        ],
    )


def recorded_events() -> list[dg.EventLogEntry]:
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [table],
            instance=instance,
            tags={"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"},
        )
        return list(instance.all_logs(result.run_id))


def rows(folder: Path, shard: str, name: str) -> list[dict[str, object]]:
    with sqlite3.connect(folder / f"{shard}.db") as connection:
        connection.row_factory = sqlite3.Row
        return [
            {column: row[column] for column in row.keys() if column not in TIMES}  # noqa: SIM118
            for row in connection.execute(f"SELECT * FROM {name} ORDER BY id")
        ]


def stored(kind: Callable[[str], SqliteEventLogStorage], folder: Path, events: list[dg.EventLogEntry]) -> object:
    storage = kind(str(folder))
    for each in events:
        storage.store_event(each)
    if isinstance(storage, BufferedEvents):
        storage.flush()
    run_id = events[0].run_id
    return {"run": rows(folder, run_id, "event_logs")} | {name: rows(folder, "index", name) for name in INDEX_TABLES}


def test_groups_give_the_rows_that_dagster_stores_one_by_one(tmp_path: Path) -> None:
    events = recorded_events()
    one_by_one = stored(SqliteEventLogStorage, tmp_path / "one_by_one", events)
    in_groups = stored(BufferedEvents, tmp_path / "in_groups", events)
    assert isinstance(one_by_one, dict)
    assert len(one_by_one["run"]) == len(events)
    assert [len(one_by_one[name]) for name in INDEX_TABLES[1:]] == [1, 2, 2]
    # The index has run events too, which the group stores among those of the steps; the order of its ids differs.
    assert in_groups == one_by_one


def test_read_sees_the_events_that_wait(tmp_path: Path) -> None:
    events = [each for each in recorded_events() if each.dagster_event and not each.dagster_event.is_job_event]
    storage = BufferedEvents(str(tmp_path))
    for each in events:
        storage.store_event(each)
    found = storage.get_latest_materialization_events([table.key])[table.key]
    assert found is not None
    assert found.run_id == events[0].run_id
