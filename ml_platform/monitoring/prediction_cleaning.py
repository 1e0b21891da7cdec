"""Finds what logged predictions and their outcomes no longer need: old days, personal values, ingested log files.

Values that identify a person are replaced by nulls earlier than the predictions are removed. A day is rewritten once;
the rows, their ids, scores and outcomes stay.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl

from ml_platform.data.lake import PARTITION, Lake
from ml_platform.data.lake_catalog import NewSegment, Segment
from ml_platform.data.lake_cleaning import partitions_written_before
from ml_platform.data.leftovers import Leftover
from ml_platform.monitoring.fact_tables import COMPACTED_BYTES, MAX_SMALL_SEGMENTS, writing_facts
from ml_platform.monitoring.outcomes import outcomes_table
from ml_platform.monitoring.prediction_log import QUARANTINE_SUFFIX, ingested_position, predictions_table
from ml_platform.state.cursors import read_cursor, write_cursor

PREDICTIONS = "predictions"
PERSONAL_VALUES = "personal values in predictions"
OUTCOMES = "outcomes"
PREDICTION_LOGS = "prediction logs"
SMALL_FILES = "small files of fact tables"

CLOSED_SECONDS = 3_600
"""Age of the last change of a log file after which no service writes to it any more."""

DAYS_COMPACTED_AT_ONCE = 100
"""Largest number of day partitions that one cleaning compacts in each table."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL = msgspec.Raw(b"null")


def old_predictions(lake: Lake, model: str, limit: datetime | None) -> Iterator[Leftover]:
    """Yield the days of predictions of ``model`` before the UTC day of ``limit``.

    Their counts by day stay, so that the performance of their periods stays known.
    """
    yield from _old_days(lake, PREDICTIONS, predictions_table(model), limit)


def old_outcomes(lake: Lake, model: str, limit: datetime | None) -> Iterator[Leftover]:
    """Yield the days of outcomes of ``model`` before the UTC day of ``limit``."""
    yield from _old_days(lake, OUTCOMES, outcomes_table(model), limit)


def old_corrupt_lines(lake: Lake, model: str, limit: datetime | None) -> Iterator[Leftover]:
    """Yield the corrupt log lines of ``model`` that were ingested before ``limit``; they may contain any value."""
    table = predictions_table(model) + QUARANTINE_SUFFIX
    if limit is None or not lake.exists(table):
        return
    partitions = partitions_written_before(lake, table, limit)
    if partitions:
        yield Leftover(PREDICTIONS, [f"{table} {name}" for name in partitions], 0, None, _drop(lake, table, partitions))


def personal_values(
    lake: Lake,
    model: str,
    columns: Collection[str],
    identity: Collection[str],
    limit: datetime | None,
    since: datetime | None = None,
) -> Iterator[Leftover]:
    """Yield the days from ``since`` until before ``limit`` whose predictions still have values of ``columns``.

    These request fields and features become null. If one of them belongs to the ``identity`` of an example, the whole
    request does, because a half identity could match another label; known outcomes stay.
    """
    table = predictions_table(model)
    if limit is None or not columns or not lake.exists(table):
        return
    wanted = {"columns": sorted(columns), "identity": sorted(identity)}
    last_day = _day(limit)
    done = read_cursor(lake.state, _cursor(model)) or {}
    if {name: done.get(name) for name in wanted} != wanted:
        done = {"before": "", "segment": 0}
    first_day = "" if since is None else _day(since)
    current = lake.catalog.segments(table, with_files=False)
    segments = [each for each in current if first_day <= each.partition < last_day]
    # Rows that were ingested late lie in a later segment of an earlier day.
    due = sorted({each.partition for each in segments if each.partition >= done["before"] or each.id > done["segment"]})

    def rewrite(days: Sequence[str], until: str, settings: dict[str, list[str]]) -> None:
        seen: set[int] = set()
        for day in days:
            with writing_facts(lake, table):
                _remove_values(lake, table, day, columns, identity)
                seen |= {each.id for each in lake.catalog.segments(table, partitions=[day], with_files=False)}
        lake.publish(table)
        newer = {each.id for each in lake.catalog.segments(table, partitions=days, with_files=False)} - seen
        segment = min(newer) - 1 if newer else max(seen, default=0)
        write_cursor(lake.state, _cursor(model), {**settings, "before": until, "segment": segment})

    if due:
        oldest = datetime.fromisoformat(due[0]).replace(tzinfo=UTC)
        yield Leftover(
            PERSONAL_VALUES, [f"{table} {day}" for day in due], 0, oldest, lambda: rewrite(due, last_day, wanted)
        )


def ingested_logs(lake: Lake, model: str, folder: Path, limit: datetime | None, now: datetime) -> Iterator[Leftover]:
    """Yield the log files of ``model`` in ``folder`` that were read to their end and are closed since ``limit``.

    A file is closed when no service writes to it; the end of a line that a killed service did not finish never comes.
    """
    if limit is None or not folder.is_dir():
        return
    closed = min(limit, now - timedelta(seconds=CLOSED_SECONDS))
    for path in sorted(folder.glob("*.jsonl")):
        status = path.stat()
        changed = datetime.fromtimestamp(status.st_mtime, UTC)
        if changed < closed and _is_ingested(lake, model, path):
            yield Leftover(PREDICTION_LOGS, [path.name], status.st_size, changed, _log_removal(lake, model, path))


def small_files(lake: Lake, today: date) -> Iterator[Leftover]:
    """Yield the closed days of fact tables with many small files, a limited number of each table.

    Ingestion compacts them too; this covers models that predict no more.
    """
    for table in lake.catalog.tables():
        if not table.endswith(("/predictions", "/outcomes")):
            continue
        small = lake.catalog.small_segments(table, COMPACTED_BYTES)
        days = sorted(day for day, count in small.items() if day < today.isoformat() and count > MAX_SMALL_SEGMENTS)
        for day in days[:DAYS_COMPACTED_AT_ONCE]:
            yield Leftover(SMALL_FILES, [f"{table} {day}"], 0, None, _compaction(lake, table, day))


def _old_days(lake: Lake, kind: str, table: str, limit: datetime | None) -> Iterator[Leftover]:
    if limit is None or not lake.exists(table):
        return
    days = [day for day in lake.partitions(table) if day < _day(limit)]
    if days:
        oldest = datetime.fromisoformat(days[0]).replace(tzinfo=UTC)
        yield Leftover(kind, [f"{table} {day}" for day in days], 0, oldest, _drop(lake, table, days))


def _drop(lake: Lake, table: str, partitions: Sequence[str]) -> Callable[[], None]:
    def remove() -> None:
        with writing_facts(lake, table):
            lake.drop_partitions(table, partitions)

    return remove


def _day(limit: datetime) -> str:
    return limit.astimezone(UTC).date().isoformat()


def _cursor(model: str) -> str:
    return f"personal_values/{model}"


def _remove_values(lake: Lake, table: str, day: str, columns: Collection[str], identity: Collection[str]) -> None:
    """Replace the segments of ``day`` that have values of ``columns``, one after the other to bound the memory."""
    stored = lake.catalog.table(table)
    assert stored is not None
    added: list[NewSegment] = []
    replaced: list[int] = []
    for segment in lake.catalog.segments(table, partitions=[day]):
        rows = _rows(lake, table, segment)
        emptied = without_personal_values(rows, columns, identity)
        if not emptied.equals(rows):
            added.append(lake.stage(table, emptied, day).segment)
            replaced.append(segment.id)
    if replaced:
        with lake.state.write():
            lake.catalog.record(table, stored.columns, partitioned=True, added=added, replaced=replaced)


def _rows(lake: Lake, table: str, segment: Segment) -> pl.DataFrame:
    return lake.scan_segments(table, [segment]).drop(PARTITION).collect()


def without_personal_values(
    predictions: pl.DataFrame, columns: Collection[str], identity: Collection[str]
) -> pl.DataFrame:
    """Return ``predictions`` with null for each of ``columns`` in their requests and features.

    The text of all other values stays equal. With a column of the ``identity``, the whole request becomes null.
    """
    names = set(columns)
    request = (
        pl.Series("request", [None] * predictions.height, pl.String)
        if names & set(identity)
        else _without_keys(predictions["request"], names)
    )
    return predictions.with_columns(request, _without_keys(predictions["features"], names))


def _without_keys(texts: pl.Series, names: Collection[str]) -> pl.Series:
    return pl.Series(texts.name, [_without_key_values(text, names) for text in texts], pl.String)


def _without_key_values(text: str | None, names: Collection[str]) -> str | None:
    if text is None:
        return None
    values = _OBJECT.decode(text.encode())
    present = [name for name in names if bytes(values.get(name, _NULL)) != b"null"]
    if not present:
        return text
    return msgspec.json.encode(values | dict.fromkeys(present, _NULL)).decode()


def _is_ingested(lake: Lake, model: str, path: Path) -> bool:
    status = path.stat()
    position = ingested_position(lake, model, path.name)
    return position is not None and position["read_to"] == [status.st_size, status.st_mtime_ns]


def _log_removal(lake: Lake, model: str, path: Path) -> Callable[[], bool]:
    def remove() -> bool:
        # An ingestion that listed the folder reads each file later.
        with writing_facts(lake, predictions_table(model)):
            unchanged = path.exists() and _is_ingested(lake, model, path)
            if unchanged:
                path.unlink()
            return unchanged

    return remove


def _compaction(lake: Lake, table: str, day: str) -> Callable[[], None]:
    def compact() -> None:
        with writing_facts(lake, table):
            lake.compact(table, day, target_bytes=COMPACTED_BYTES)

    return compact
