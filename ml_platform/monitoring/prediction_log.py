"""Ingestion of the log files of services into the predictions table of the lake.

A service appends blocks of predictions and never waits for this reader. Predictions are facts: each is
stored once, in the partition of the UTC day on which it was logged, and never changes. That day comes from the clock of
the service; the prediction time comes from the client, who could touch thousands of partitions with one request.

A cursor in the state store keeps the position in each file. It moves in the transaction that adds the lines before it,
so each line is stored exactly once, wherever the process is killed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.lake import PARTITION, Lake, StagedRows
from ml_platform.monitoring.fact_tables import writing_facts
from ml_platform.monitoring.known_ids import PREDICTION_ID, KnownIds, hashed_ids
from ml_platform.monitoring.log_lines import DETAILS, LATER_COLUMNS, PREDICTION_SCHEMA, parse_lines
from ml_platform.monitoring.prediction_days import add_predictions, day_name
from ml_platform.monitoring.sampling_weights import WEIGHT, with_weights
from ml_platform.state.cursors import cursors_below, delete_cursors, read_cursor, write_cursor

QUARANTINE_SUFFIX = "_quarantine"
"""Suffix of the table that stores the corrupt lines of a predictions table."""

_CHUNK_BYTES = 4 * 2**20
"""Bytes of a file that are in memory together; as rows they take about thirty times as many."""

_HEAD_BYTES = 1_024


class IngestionResult(BaseModel):
    """Counts of one ingestion; ``added``, ``duplicates`` and ``corrupt`` add up to ``lines``."""

    model_config = ConfigDict(frozen=True)

    lines: int = Field(description="Complete lines read.")
    added: int = Field(description="Predictions added to the table.")
    duplicates: int = Field(description="Predictions that the table already contained, or that occurred twice.")
    corrupt: int = Field(description="Corrupt lines, which go to the quarantine table.")
    pending_bytes: int = Field(
        description="Bytes after the last complete line: still being written, or cut by a crash."
    )
    rows: int = Field(description="Predictions in the table after the ingestion.")
    represented: int = Field(description="Predictions for which these rows stand: the sum of their weights.")
    partitions: list[str] = Field(description="Partitions (UTC days of logged_at) of the table that changed.")

    def plus(self, other: "IngestionResult") -> "IngestionResult":
        """Return the counts of both ingestions into one table; ``other`` came later."""
        names = ("lines", "added", "duplicates", "corrupt", "pending_bytes")
        return IngestionResult(
            **{name: getattr(self, name) + getattr(other, name) for name in names},
            rows=other.rows,
            represented=other.represented,
            partitions=sorted({*self.partitions, *other.partitions}),
        )


def predictions_table(model: str) -> str:
    """Return the lake table of the predictions of ``model``."""
    return f"models/{model}/predictions"


def ingest_log_files(lake: Lake, model: str, folder: Path, *, logged_as: str | None = None) -> IngestionResult:
    """Add the new lines of the log files in ``folder`` to the predictions of ``model`` and return their counts.

    Request, features, watermarks and ages are stored as JSON text, so that all models have one table schema;
    :mod:`~ml_platform.monitoring.logged_fields` unpacks them. An invalid line goes to the quarantine table with file,
    offset and reason. An incomplete last line is left for the next ingestion. A file whose first bytes changed, or that
    became shorter, was rotated and is read from its start. A prediction whose id the day already contains is a
    duplicate, for example after a file was copied.

    ``logged_as`` is the former name of a renamed model whose service still wrote these files.

    The memory depends on neither the number nor the size of the files. Two ingestions of one model wait for each other.
    """
    table = predictions_table(model)
    counts = _Counts()
    with writing_facts(lake, table):
        files = sorted(folder.glob("*.jsonl"))
        prefix = _cursor_name(logged_as or model, "")
        positions = cursors_below(lake.state, prefix)
        known = KnownIds(lambda day: _stored_ids(lake, table, day))
        for file in files:
            for chunk in _chunks(file, positions.get(file.name)):
                _ingest_chunk(lake, model, chunk, known, counts, prefix)
        deleted = positions.keys() - {file.name for file in files}
        if deleted:
            delete_cursors(lake.state, (prefix + name for name in deleted))
        for name in (table, table + QUARANTINE_SUFFIX):
            lake.publish(name)
    return IngestionResult(
        lines=counts.lines,
        added=counts.added,
        duplicates=counts.lines - counts.added - counts.corrupt,
        corrupt=counts.corrupt,
        pending_bytes=counts.pending_bytes,
        rows=lake.summary(table).rows if lake.exists(table) else 0,
        represented=_represented(lake, table),
        partitions=sorted(counts.days),
    )


def ingested_position(lake: Lake, model: str, file_name: str) -> dict[str, Any] | None:
    """Return how far the log file ``file_name`` of ``model`` was read, or None before its first ingestion.

    ``read_to`` is the size in bytes and the modification time (nanoseconds since 1970) of the file that was read to its
    end, and None for a file that was not.
    """
    position: dict[str, Any] | None = read_cursor(lake.state, _cursor_name(model, file_name))
    return position


def with_details(predictions: pl.LazyFrame) -> pl.LazyFrame:
    """Return ``predictions`` with the column ``details``, null in a table whose task has none."""
    if DETAILS in predictions.collect_schema():
        return predictions
    return predictions.with_columns(pl.lit(None, pl.String).alias(DETAILS))


def pair_by_role(predictions: pl.DataFrame, role: str, other_role: str) -> pl.DataFrame:
    """Return one row per request row that both roles scored.

    The columns are ``model``, ``request_id``, ``row``, ``score_<role>`` and ``score_<other_role>``. A client may reuse
    a request id; only predictions of the same fields are a pair, and of several the one logged last counts. The gateway
    discards the responses of a shadow, so this join is how its scores are compared.
    """
    same = ["model", "request_id", "row", "request"]
    sides = [
        predictions.filter(pl.col("role") == name)
        .sort("logged_at")
        .unique(same, keep="last")
        .select(*same, pl.col("score").alias(f"score_{name}"))
        for name in (role, other_role)
    ]
    return sides[0].join(sides[1], on=same).sort(same).drop("request")


@dataclass
class _Counts:
    lines: int = 0
    added: int = 0
    corrupt: int = 0
    pending_bytes: int = 0
    days: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Chunk:
    """Complete lines of a file from ``start``; ``position`` is the cursor after them."""

    file: Path
    start: int
    data: bytes
    pending_bytes: int
    position: dict[str, Any]
    first_line: bytes = b""


def _cursor_name(model: str, file_name: str) -> str:
    # Only the name of the file: a home may be moved.
    return f"predictions/{model}/{file_name}"


def _represented(lake: Lake, table: str) -> int:
    if not lake.exists(table):
        return 0
    weights = with_weights(lake.scan(table)).select(pl.col(WEIGHT).sum())
    return round(float(weights.collect(engine="streaming").item()))


def _stored_ids(lake: Lake, table: str, day: str) -> pl.Series:
    if not lake.exists(table) or not lake.digests(table, [day]):
        return pl.Series(PREDICTION_ID, [], pl.UInt64)
    return lake.scan(table, partitions=[day]).select(hashed_ids()).collect(engine="streaming").to_series()


def _chunks(file: Path, position: dict[str, Any] | None) -> Iterator[_Chunk]:
    """Yield the lines after ``position``, at last with the bytes after the last complete line; nothing if unchanged."""
    status = file.stat()
    unchanged = [status.st_size, status.st_mtime_ns]
    if position is not None and position["read_to"] == unchanged:
        yield _Chunk(file, position["offset"], b"", status.st_size - position["offset"], position)
        return
    with file.open("rb") as opened:
        first_line = opened.readline()
        opened.seek(0)
        start = _resume_offset(opened.read(_HEAD_BYTES), status.st_size, position)
        while True:
            opened.seek(start)
            data = opened.read(_CHUNK_BYTES)
            if data and b"\n" not in data:
                data += opened.readline()  # one line may be longer than a chunk
            end = data.rfind(b"\n") + 1
            reached_end = start + len(data) == status.st_size
            position = {
                "offset": start + end,
                "head": _head_digest(opened, start + end),
                "read_to": unchanged if reached_end else None,
            }
            yield _Chunk(file, start, data[:end], len(data) - end, position, first_line)
            start += end
            if not end or reached_end:
                return


def _resume_offset(head: bytes, size: int, position: dict[str, Any] | None) -> int:
    if position is None or size < position["offset"]:
        return 0
    same_start = hashlib.sha256(head[: position["offset"]]).hexdigest() == position["head"]
    return int(position["offset"]) if same_start else 0


def _head_digest(opened: Any, offset: int) -> str:
    """Return the hash of the first bytes of a file, which include an id and so identify a rotated file."""
    opened.seek(0)
    return hashlib.sha256(opened.read(min(offset, _HEAD_BYTES))).hexdigest()


def _ingest_chunk(lake: Lake, model: str, chunk: _Chunk, known: KnownIds, counts: _Counts, cursors: str) -> None:
    counts.pending_bytes += chunk.pending_bytes if chunk.position["read_to"] or not chunk.data else 0
    if not chunk.data:
        return
    table = predictions_table(model)
    parsed = parse_lines(chunk.data, chunk.start, chunk.first_line)
    new = {}
    predictions = parsed.predictions.unique(PREDICTION_ID, keep="first", maintain_order=True)
    for (day,), rows in predictions.group_by(day_name("logged_at"), maintain_order=True):
        kept = rows.filter(known.are_new(str(day), rows))
        if kept.height:
            new[str(day)] = kept
    if new:
        _add_later_columns(lake, table)
    staged = [lake.stage(table, _in_columns_of(lake, table, rows), day) for day, rows in new.items()]
    staged += _quarantined(lake, table + QUARANTINE_SUFFIX, chunk.file, parsed.corrupt)
    with lake.state.write():
        for each in staged:
            lake.record(each, replace=False)
        for rows in new.values():
            add_predictions(lake.state, model, rows)
        write_cursor(lake.state, cursors + chunk.file.name, chunk.position)
    for day, rows in new.items():
        known.add(day, rows)
        counts.days.add(day)
        counts.added += rows.height
    counts.lines += parsed.lines
    counts.corrupt += parsed.corrupt.height


def _in_columns_of(lake: Lake, table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``rows`` with the column ``details`` exactly if the stored table has it, as its first predictions had."""
    if not lake.exists(table):
        return rows
    if DETAILS not in lake.scan(table).collect_schema():
        return rows.drop(DETAILS, strict=False)
    return with_details(rows.lazy()).collect()


def _add_later_columns(lake: Lake, table: str) -> None:
    """Give a table of an earlier release the columns that it lacks; once, in one transaction.

    Nobody knows the client and the latency of its predictions; their weight is 1.
    """
    if not lake.exists(table):
        return
    stored = lake.scan(table).collect_schema()
    added = {name: 1.0 if name == WEIGHT else None for name in LATER_COLUMNS if name not in stored}
    if not added:
        return
    columns = [pl.lit(value, PREDICTION_SCHEMA[name]).alias(name) for name, value in added.items()]
    staged = [
        lake.stage(table, rows.drop(PARTITION).with_columns(columns), day)
        for day in lake.partitions(table)
        for rows in [lake.scan(table, partitions=[day]).collect()]
    ]
    with lake.state.write():
        lake.catalog.record(
            table,
            staged[0].columns,
            partitioned=True,
            added=[each.segment for each in staged],
            replaced=[each.id for each in lake.catalog.segments(table, with_files=False)],
        )
    if lake.files.local is not None:
        lake.rewrite_delta_log(table)


def _quarantined(lake: Lake, table: str, file: Path, corrupt: pl.DataFrame) -> list[StagedRows]:
    """Stage the corrupt lines of ``file`` that the quarantine table lacks; its partitions are the names of files."""
    if corrupt.is_empty():
        return []
    rows = corrupt.select(pl.lit(file.name).alias("file"), "offset", "reason", "line")
    if lake.exists(table) and lake.digests(table, [file.stem]):
        stored = lake.scan(table, partitions=[file.stem]).drop(PARTITION).select("offset", "line").collect()
        rows = rows.join(stored, on=["offset", "line"], how="anti", maintain_order="left")
    return [lake.stage(table, rows, file.stem)] if rows.height else []
