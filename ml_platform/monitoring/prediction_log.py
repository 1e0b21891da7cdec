"""Ingestion of the log files of services into the predictions table of the lake.

A service appends one JSON object per predicted row and never waits for this reader. A cursor keeps the position in each
file. It moves only after the lake contains the lines before it. After a crash some lines are read again, but each
prediction is stored once. Corrupt lines go to a quarantine table.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from ml_platform.data.atomic import write_json
from ml_platform.data.lake import PARTITION, Lake

IDENTITY = ("request_id", "row", "model", "version", "role")
"""Columns that identify a prediction. A shadow scores the same request and row under another role."""

QUARANTINE_SUFFIX = "_quarantine"
"""Suffix of the table that stores the corrupt lines of a predictions table."""

_CHUNK_BYTES = 32 * 2**20
_HEAD_BYTES = 1_024
_MAX_LINE_BYTES_KEPT = 2_000

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "request_id": pl.String,
    "row": pl.Int64,
    "model": pl.String,
    "version": pl.String,
    "role": pl.String,
    "predict_at": pl.Datetime("us", "UTC"),
    "as_of": pl.Datetime("us", "UTC"),
    "logged_at": pl.Datetime("us", "UTC"),
    "watermarks": pl.String,
    "ages": pl.String,
    "score": pl.Float64,
    "label": pl.Float64,
    "request": pl.String,
    "features": pl.String,
}
_JSON_COLUMNS = ("watermarks", "ages", "request", "features")
"""Columns of JSON text. Their keys differ by model, so that all models have the same table schema."""

_QUARANTINE_SCHEMA = {"file": pl.String, "offset": pl.Int64, "reason": pl.String, "line": pl.String}


class LoggedPrediction(BaseModel):
    """One line of a service's log. Unknown keys are ignored, because a newer service may log more."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    request_id: str = Field(min_length=1, description="Id of the request; stable, candidate and shadow share it.")
    row: int = Field(ge=0, description="Position of the row in the request, from 0.")
    model: str = Field(min_length=1, description="Name of the model.")
    version: str = Field(
        min_length=1, coerce_numbers_to_str=True, description="Version of the model that made the prediction."
    )
    role: str = Field(min_length=1, description="Role of the version: stable, candidate or shadow.")
    predict_at: AwareDatetime = Field(description="Prediction time: the features are those known at this time.")
    as_of: AwareDatetime = Field(description="Time up to which the online store contained facts.")
    logged_at: AwareDatetime = Field(description="Time at which the line was written.")
    watermarks: dict[str, AwareDatetime] = Field(
        default_factory=dict, description="By feature view, the time up to which the online store contained its facts."
    )
    ages: dict[str, float | None] = Field(
        default_factory=dict,
        description="By feature view, the age of the served fact in minutes; null: no fact was served.",
    )
    request: dict[str, Any] = Field(description="Fields of the request, as received.")
    features: dict[str, Any] = Field(description="Feature values that the model received.")
    score: float = Field(description="Prediction of the model: a probability or a number.")
    label: float | None = Field(default=None, description="Predicted class; null for a task without classes.")


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
    partitions: list[str] = Field(description="Partitions (months) of the predictions table that changed.")


def predictions_table(model: str) -> str:
    """Return the lake table of the predictions of ``model``."""
    return f"models/{model}/predictions"


def ingest_log_files(lake: Lake, table: str, files: Sequence[Path], cursor: Path) -> IngestionResult:
    """Add the lines of ``files`` after ``cursor`` to ``table`` and return their counts.

    ``table`` is partitioned by the UTC month of ``predict_at``. Request, features, watermarks and ages are stored as
    JSON text, so that all models have one table schema; :mod:`~ml_platform.monitoring.logged_fields` unpacks them. An
    invalid line goes to ``<table>_quarantine`` with file, offset and reason. An incomplete last line is left for the
    next ingestion. A file whose first bytes changed, or that became shorter, was rotated and is read from its start.

    Two ingestions with the same cursor wait for each other. A second ingestion of the same files changes nothing.
    """
    cursor.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cursor}.lock"):
        positions: dict[str, dict[str, Any]] = json.loads(cursor.read_text()) if cursor.exists() else {}
        steps = []
        for file in sorted(files):
            start = _resume_offset(file, positions.get(str(file)))
            while True:
                step, end = _ingest_chunk(lake, table, file, start)
                steps.append(step)
                if end == start:
                    break
                start = end
                positions[str(file)] = {"offset": end, "head": _head_digest(file, end)}
                write_json(cursor, positions)
        return IngestionResult(
            lines=sum(step.lines for step in steps),
            added=sum(step.added for step in steps),
            duplicates=sum(step.duplicates for step in steps),
            corrupt=sum(step.corrupt for step in steps),
            # The last chunk of each file contains no complete line.
            pending_bytes=sum(step.pending_bytes for step in steps if not step.lines),
            rows=lake.scan(table).select(pl.len()).collect().item() if lake.exists(table) else 0,
            partitions=sorted({partition for step in steps for partition in step.partitions}),
        )


def pair_by_role(predictions: pl.DataFrame, role: str, other_role: str) -> pl.DataFrame:
    """Return one row per request row that both roles scored.

    The columns are ``model``, ``request_id``, ``row``, ``score_<role>`` and ``score_<other_role>``. Of several
    predictions of one row by one role the one logged last counts. The gateway discards the responses of a shadow, so
    this join is how its scores are compared.
    """
    sides = [
        predictions.filter(pl.col("role") == name)
        .sort("logged_at")
        .unique(["model", "request_id", "row"], keep="last")
        .select("model", "request_id", "row", pl.col("score").alias(f"score_{name}"))
        for name in (role, other_role)
    ]
    return sides[0].join(sides[1], on=["model", "request_id", "row"]).sort("model", "request_id", "row")


def _resume_offset(file: Path, position: dict[str, Any] | None) -> int:
    if (
        position is None
        or _head_digest(file, position["offset"]) != position["head"]
        or file.stat().st_size < position["offset"]
    ):
        return 0
    return int(position["offset"])


def _head_digest(file: Path, offset: int) -> str:
    """Return the hash of the first bytes of ``file``, which include a request id and so identify a rotated file."""
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(min(offset, _HEAD_BYTES))).hexdigest()


def _ingest_chunk(lake: Lake, table: str, file: Path, start: int) -> tuple[IngestionResult, int]:
    data, pending = _complete_lines(file, start)
    valid, corrupt, offset = [], [], start
    for line in data.splitlines(keepends=True):
        try:
            valid.append(_to_row(LoggedPrediction.model_validate_json(line)))
        except ValidationError as error:
            corrupt.append(
                (str(file), offset, _reason(error), line[:_MAX_LINE_BYTES_KEPT].decode(errors="replace").rstrip())
            )
        offset += len(line)
    predictions = pl.DataFrame(valid, schema=_SCHEMA, orient="row").with_columns(
        pl.col("predict_at").dt.strftime("%Y-%m").alias(PARTITION)
    )
    added = {
        month: _append_new(lake, table, rows.drop(PARTITION), month, IDENTITY)
        for (month,), rows in predictions.sort(PARTITION).group_by(PARTITION, maintain_order=True)
    }
    if corrupt:
        rows = pl.DataFrame(corrupt, schema=_QUARANTINE_SCHEMA, orient="row")
        _append_new(lake, table + QUARANTINE_SUFFIX, rows, file.stem, ("file", "offset", "line"))
    step = IngestionResult(
        lines=len(valid) + len(corrupt),
        added=sum(added.values()),
        duplicates=len(valid) - sum(added.values()),
        corrupt=len(corrupt),
        pending_bytes=pending,
        rows=0,
        partitions=[month for month, count in added.items() if count],
    )
    return step, start + len(data)


def _complete_lines(file: Path, start: int) -> tuple[bytes, int]:
    """Return the complete lines of about one chunk from ``start``, and the number of bytes read after the last line."""
    with file.open("rb") as opened:
        opened.seek(start)
        data = opened.read(_CHUNK_BYTES)
        if data and b"\n" not in data:
            data += opened.readline()  # one line may be longer than a chunk
    end = data.rfind(b"\n") + 1
    return data[:end], len(data) - end


def _to_row(line: LoggedPrediction) -> tuple[Any, ...]:
    return tuple(
        to_json(getattr(line, name), inf_nan_mode="constants").decode()
        if name in _JSON_COLUMNS
        else getattr(line, name)
        for name in _SCHEMA
    )


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'line'}: {first['msg']}"


def _append_new(lake: Lake, table: str, rows: pl.DataFrame, partition: str, identity: Sequence[str]) -> int:
    """Add the rows whose ``identity`` the ``partition`` lacks and return their number; stored rows never change."""
    new = rows.unique(identity, keep="first", maintain_order=True)
    if partition in lake.partitions(table):
        existing = lake.scan(table, partitions=[partition]).drop(PARTITION).collect()
        new = new.join(existing, on=list(identity), how="anti", maintain_order="left")
        rows = pl.concat([existing.select(new.columns), new])
    else:
        rows = new
    if new.height:
        lake.write(table, rows, partition)
    return new.height
