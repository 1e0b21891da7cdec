"""From the lines that services write to the predictions table of the lake: each once, the broken ones set aside.

A service appends one JSON object per predicted row and never waits for this reader. Files are read from a cursor that
moves only after the lake has what it passed, so that a crash reads some lines twice and the table takes them once.
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
"""What makes a prediction: a shadow answers the same request and row under another role."""

QUARANTINE_SUFFIX = "_quarantine"
"""Appended to the predictions table for the table of lines that could not be read."""

_CHUNK_BYTES = 32 * 2**20
_HEAD_BYTES = 1_024
_LINE_SHOWN = 2_000

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
_AS_TEXT = ("watermarks", "ages", "request", "features")
"""Columns of JSON text: their keys differ from model to model, and no other table is needed for another one."""

_QUARANTINE_SCHEMA = {"file": pl.String, "offset": pl.Int64, "reason": pl.String, "line": pl.String}


class LoggedPrediction(BaseModel):
    """One line of a service's log. Keys not named here are let pass: a newer service may log more."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    request_id: str = Field(min_length=1, description="The request's id, shared by stable, candidate and shadow.")
    row: int = Field(ge=0, description="Place of the row in the request.")
    model: str = Field(min_length=1, description="Name of the model.")
    version: str = Field(min_length=1, coerce_numbers_to_str=True, description="Version that answered.")
    role: str = Field(min_length=1, description="stable, candidate or shadow.")
    predict_at: AwareDatetime = Field(description="The time of which the features were meant to be known.")
    as_of: AwareDatetime = Field(description="The time up to which the online store was filled.")
    logged_at: AwareDatetime = Field(description="When the line was written.")
    watermarks: dict[str, AwareDatetime] = Field(
        default_factory=dict, description="By feature view, the time before which its facts were known to the store."
    )
    ages: dict[str, float | None] = Field(
        default_factory=dict, description="By feature view, the age of what was served in minutes; null: nothing was."
    )
    request: dict[str, Any] = Field(description="The request's fields, as received.")
    features: dict[str, Any] = Field(description="The feature values that were used.")
    score: float = Field(description="What the model answered.")
    label: float | None = Field(default=None, description="The class that was answered, where there is one.")


class Ingested(BaseModel):
    """What one ingestion did; the counts of lines add up to ``lines``."""

    model_config = ConfigDict(frozen=True)

    lines: int = Field(description="Complete lines read.")
    added: int = Field(description="Predictions new to the table.")
    duplicates: int = Field(description="Predictions that the table had already, or that stood twice.")
    corrupt: int = Field(description="Lines set aside in the quarantine table.")
    pending_bytes: int = Field(description="Bytes after the last complete line: being written, or cut by a crash.")
    rows: int = Field(description="Predictions in the table now.")
    partitions: list[str] = Field(description="Months of the predictions table that changed.")


def predictions_table(model: str) -> str:
    """Return the lake table of what ``model`` answered."""
    return f"models/{model}/predictions"


def ingest(lake: Lake, table: str, files: Sequence[Path], cursor: Path) -> Ingested:
    """Bring what ``files`` hold beyond ``cursor`` into ``table`` and return what was found.

    ``table`` is partitioned by the UTC month of ``predict_at``. Request, features, watermarks and ages are kept as JSON
    text, so that a model with other features needs no other table; :mod:`~ml_platform.monitoring.logged_fields` opens
    them. A line that is not a valid :class:`LoggedPrediction` goes to ``<table>_quarantine`` with file, offset and
    reason; a last line without its end is left for the next time. A file that no longer begins as it did, or became
    shorter, was rotated and is read from its start. Two ingestions with one cursor wait for each other. Running it
    twice changes nothing.
    """
    cursor.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cursor}.lock"):
        places: dict[str, dict[str, Any]] = json.loads(cursor.read_text()) if cursor.exists() else {}
        steps = []
        for file in sorted(files):
            start = _resumed_at(file, places.get(str(file)))
            while True:
                step, stop = _ingest_chunk(lake, table, file, start)
                steps.append(step)
                if stop == start:
                    break
                start = stop
                places[str(file)] = {"offset": stop, "head": _head(file, stop)}
                write_json(cursor, places)
        return Ingested(
            lines=sum(step.lines for step in steps),
            added=sum(step.added for step in steps),
            duplicates=sum(step.duplicates for step in steps),
            corrupt=sum(step.corrupt for step in steps),
            # The last chunk of each file is empty but for its unfinished line.
            pending_bytes=sum(step.pending_bytes for step in steps if not step.lines),
            rows=lake.scan(table).select(pl.len()).collect().item() if lake.exists(table) else 0,
            partitions=sorted({partition for step in steps for partition in step.partitions}),
        )


def paired(predictions: pl.DataFrame, role: str, other_role: str) -> pl.DataFrame:
    """Return one row per request row answered in both roles: identity, ``score_<role>``, ``score_<other_role>``.

    The gateway drops a shadow's answers; here the two that belong together meet again.
    """
    sides = [
        predictions.filter(pl.col("role") == name)
        .sort("logged_at")
        .unique(["model", "request_id", "row"], keep="last")
        .select("model", "request_id", "row", pl.col("score").alias(f"score_{name}"))
        for name in (role, other_role)
    ]
    return sides[0].join(sides[1], on=["model", "request_id", "row"]).sort("model", "request_id", "row")


def _resumed_at(file: Path, place: dict[str, Any] | None) -> int:
    if place is None or _head(file, place["offset"]) != place["head"] or file.stat().st_size < place["offset"]:
        return 0
    return int(place["offset"])


def _head(file: Path, offset: int) -> str:
    """Tell one file from another of the same name: the hash of its first bytes, which hold a request's id."""
    with file.open("rb") as opened:
        return hashlib.sha256(opened.read(min(offset, _HEAD_BYTES))).hexdigest()


def _ingest_chunk(lake: Lake, table: str, file: Path, start: int) -> tuple[Ingested, int]:
    data, pending = _complete_lines(file, start)
    good, broken, offset = [], [], start
    for line in data.splitlines(keepends=True):
        try:
            good.append(_stored(LoggedPrediction.model_validate_json(line)))
        except ValidationError as error:
            broken.append((str(file), offset, _reason(error), line[:_LINE_SHOWN].decode(errors="replace").rstrip()))
        offset += len(line)
    months = pl.DataFrame(good, schema=_SCHEMA, orient="row").with_columns(
        pl.col("predict_at").dt.strftime("%Y-%m").alias(PARTITION)
    )
    added = {
        month: _merge(lake, table, rows.drop(PARTITION), month, IDENTITY)
        for (month,), rows in months.sort(PARTITION).group_by(PARTITION, maintain_order=True)
    }
    if broken:
        rows = pl.DataFrame(broken, schema=_QUARANTINE_SCHEMA, orient="row")
        _merge(lake, table + QUARANTINE_SUFFIX, rows, file.stem, ("file", "offset", "line"))
    step = Ingested(
        lines=len(good) + len(broken),
        added=sum(added.values()),
        duplicates=len(good) - sum(added.values()),
        corrupt=len(broken),
        pending_bytes=pending,
        rows=0,
        partitions=[month for month, count in added.items() if count],
    )
    return step, start + len(data)


def _complete_lines(file: Path, start: int) -> tuple[bytes, int]:
    """Return the whole lines of about one chunk from ``start``, and how many bytes were read after the last of them."""
    with file.open("rb") as opened:
        opened.seek(start)
        data = opened.read(_CHUNK_BYTES)
        if data and b"\n" not in data:
            data += opened.readline()  # a single line longer than a chunk
    end = data.rfind(b"\n") + 1
    return data[:end], len(data) - end


def _stored(line: LoggedPrediction) -> tuple[Any, ...]:
    return tuple(
        to_json(getattr(line, name), inf_nan_mode="constants").decode() if name in _AS_TEXT else getattr(line, name)
        for name in _SCHEMA
    )


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'line'}: {first['msg']}"


def _merge(lake: Lake, table: str, rows: pl.DataFrame, partition: str, identity: Sequence[str]) -> int:
    """Add those of ``rows`` that ``partition`` lacks; return how many. The first to come stays."""
    new = rows.unique(identity, keep="first", maintain_order=True)
    if partition in lake.partitions(table):
        held = lake.scan(table, partitions=[partition]).drop(PARTITION).collect()
        new = new.join(held, on=list(identity), how="anti", maintain_order="left")
        rows = pl.concat([held.select(new.columns), new])
    else:
        rows = new
    if new.height:
        lake.write(table, rows, partition)
    return new.height
