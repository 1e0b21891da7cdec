"""Parsing of log lines: valid predictions become rows of the predictions table, an invalid line gets the reason.

Services write blocks of predictions (:mod:`ml_platform.data.log_block`). Services of earlier releases wrote a line for
each prediction; these are decoded with msgspec, about 20 times as fast as with pydantic. Every other line goes through
:class:`LoggedPrediction`, which also accepts other forms of times and numbers, and names the fault.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import polars as pl
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from ml_platform.data.instants import microseconds_of
from ml_platform.data.log_block import BLOCK_START, LAYOUT_START, BlockError, Layout, unpack_block
from ml_platform.monitoring.sampling_weights import WEIGHT

PREDICTION_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "prediction_id": pl.String,
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
    "client": pl.String,
    "latency_ms": pl.Float64,
    "trace_id": pl.String,
    WEIGHT: pl.Float64,
}
"""Columns of the predictions table. Objects are JSON text, because their keys differ by model."""

LATER_COLUMNS = ("client", "latency_ms", "trace_id", WEIGHT)
"""Columns that tables of earlier releases lack."""

DETAILS = "details"
"""Column of the predictions table of a task whose answers have more than score and label: JSON text."""

CORRUPT_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "offset": pl.Int64,
    "reason": pl.String,
    "line": pl.String,
}

MAX_ROW = 2**63 - 1
MAX_PREDICTION_ID_LENGTH = 200

_MAX_LINE_BYTES_KEPT = 2_000
_MAX_NUMBER_DIGITS = 4_300
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % _MAX_NUMBER_DIGITS)


class LoggedPrediction(BaseModel):
    """One line of a service's log. Unknown keys are ignored, because a newer service may log more."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prediction_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_PREDICTION_ID_LENGTH,
        description="Id of this prediction alone; lines of earlier releases have none.",
    )
    request_id: str = Field(min_length=1, description="Id of the request; stable, candidate and shadow share it.")
    row: int = Field(ge=0, le=MAX_ROW, description="Position of the row in the request, from 0.")
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
    label: float | None = Field(default=None, description="Answer of a task with two classes, else null.")
    client: str | None = Field(default=None, description="Client whose key the gateway accepted; null: none.")
    latency_ms: float | None = Field(default=None, ge=0, description="Milliseconds from the request to its answer.")
    trace_id: str | None = Field(default=None, description="Id of the trace that the request belongs to; null: none.")
    weight: float = Field(default=1.0, ge=1, description="Number of requests for which this one stands.")
    details: dict[str, Any] | None = Field(
        default=None, description="Further fields of the answer, for example the probability of each class."
    )


@dataclass(frozen=True)
class ParsedLines:
    """The rows of valid lines (columns of ``PREDICTION_SCHEMA``), and the others (columns of ``CORRUPT_SCHEMA``)."""

    predictions: pl.DataFrame
    corrupt: pl.DataFrame

    @property
    def lines(self) -> int:
        return self.predictions.height + self.corrupt.height


def parse_lines(data: bytes, start: int, first_line: bytes = b"") -> ParsedLines:
    """Parse the complete lines ``data``; ``start`` is the position of the first one in its file.

    ``first_line`` is that of the file: it has the layout of its blocks.

    Request and features are stored as the text that was logged, so their numbers stay equal bit by bit. A prediction
    without an id gets :func:`derived_prediction_id`.
    """
    valid: list[_Line] = []
    corrupt: list[tuple[int, str, str]] = []
    offset = start
    for line in data.split(b"\n")[:-1]:
        if line.startswith((BLOCK_START, LAYOUT_START)):
            try:
                valid += _block_lines(line, first_line)
            except BlockError as error:
                corrupt.append((offset, str(error), line[:_MAX_LINE_BYTES_KEPT].decode(errors="replace")))
            offset += len(line) + 1
            continue
        parsed = _decode(line)
        if parsed is None:
            try:
                parsed = _validated(line)
            except ValidationError as error:
                text = line[:_MAX_LINE_BYTES_KEPT].decode(errors="replace").rstrip()
                corrupt.append((offset, _reason(error), text))
        if parsed is not None:
            valid.append(parsed)
        offset += len(line) + 1
    return ParsedLines(_table(valid), pl.DataFrame(corrupt, schema=CORRUPT_SCHEMA, orient="row"))


def read_records(path: Path, needle: bytes = b"") -> Iterator[dict[str, Any]]:
    """Yield the predictions of the log file at ``path`` as plain values; lines that are incomplete are left out.

    ``needle`` skips lines of single predictions that do not contain it: parsing every line would take minutes.
    """
    with path.open("rb") as lines:
        first_line = b""
        for line in lines:
            first_line = first_line or line
            try:
                if line.startswith(BLOCK_START):
                    yield from unpack_block(line, Layout.from_line(first_line))
                elif needle in line and not line.startswith(LAYOUT_START):
                    yield LoggedPrediction.model_validate_json(line).model_dump()
            except (BlockError, ValidationError):
                continue


def derived_prediction_id(identity: Sequence[str | int], logged_at_us: int) -> str:
    """Return the id of a prediction that was logged without one.

    ``identity`` is request_id, row, model, version and role; ``logged_at_us`` counts microseconds since 1970. The same
    line has the same id, wherever it is read.
    """
    return hashlib.sha256(json.dumps([*identity, logged_at_us], ensure_ascii=False).encode()).hexdigest()[:32]


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Line(msgspec.Struct, gc=False):
    request_id: _Text
    row: Annotated[int, msgspec.Meta(ge=0, le=MAX_ROW)]
    model: _Text
    version: _Text
    role: _Text
    predict_at: _Time
    as_of: _Time
    logged_at: _Time
    # Raw keeps the logged text; the decoder checks its syntax.
    request: msgspec.Raw
    features: msgspec.Raw
    score: float
    watermarks: msgspec.Raw = msgspec.Raw(b"{}")
    ages: msgspec.Raw = msgspec.Raw(b"{}")
    label: float | None = None
    details: msgspec.Raw = msgspec.Raw(b"null")
    client: str | None = None
    latency_ms: float | None = None
    trace_id: str | None = None
    weight: Annotated[float, msgspec.Meta(ge=1)] = 1.0
    prediction_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PREDICTION_ID_LENGTH)] | None = None


_LINE_DECODER = msgspec.json.Decoder(_Line)
_AGES_DECODER = msgspec.json.Decoder(dict[str, float | None])
_WATERMARKS = TypeAdapter(dict[str, AwareDatetime])


def _decode(line: bytes) -> _Line | None:
    """Return the line if it has the form that services write, otherwise None."""
    # Escapes may form no valid text, and Python refuses to read a number of so many digits.
    if b"\\u" in line or (len(line) > _MAX_NUMBER_DIGITS and _LONG_NUMBER.search(line)):
        return None
    try:
        parsed = _LINE_DECODER.decode(line)
        _AGES_DECODER.decode(parsed.ages)
        parsed.watermarks = _watermarks(bytes(parsed.watermarks))
        line.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValidationError):
        return None
    is_object = bytes(parsed.request)[:1] == b"{" and bytes(parsed.features)[:1] == b"{"
    return parsed if is_object else None


@lru_cache(maxsize=1024)
def _watermarks(text: bytes) -> msgspec.Raw:
    """Return watermarks in one form, so that predictions with equal watermarks have equal text."""
    return msgspec.Raw(to_json(_WATERMARKS.validate_json(text)))


def _block_lines(line: bytes, first_line: bytes) -> list[_Line]:
    layout = Layout.from_line(first_line)
    if line.startswith(LAYOUT_START):
        return []
    found = []
    for record in unpack_block(line, layout):
        texts = {
            name: msgspec.Raw(orjson.dumps(record[name]))
            for name in ("ages", "request", "features", DETAILS)
            if name in record
        }
        texts["watermarks"] = _watermarks(orjson.dumps(record["watermarks"]))
        label = None if record["label"] is None else float(record["label"])
        found.append(_Line(**{**record, **texts, "label": label}))
    return found


def _validated(line: bytes) -> _Line:
    checked = LoggedPrediction.model_validate_json(line)
    objects: dict[str, Any] = {
        name: msgspec.Raw(to_json(getattr(checked, name), inf_nan_mode="constants"))
        for name in ("watermarks", "ages", "request", "features", "details")
    }
    others = {name: getattr(checked, name) for name in LoggedPrediction.model_fields if name not in objects}
    return _Line(**others, **objects)


def _table(lines: Sequence[_Line]) -> pl.DataFrame:
    logged_us = [microseconds_of(line.logged_at) for line in lines]
    columns: dict[str, list[Any]] = {
        "prediction_id": [
            line.prediction_id
            or derived_prediction_id((line.request_id, line.row, line.model, line.version, line.role), logged)
            for line, logged in zip(lines, logged_us, strict=True)
        ],
        **{
            name: [getattr(line, name) for line in lines]
            for name in (
                "request_id",
                "row",
                "model",
                "version",
                "role",
                "score",
                "label",
                "client",
                "latency_ms",
                "trace_id",
                WEIGHT,
            )
        },
        # Whole numbers: Polars converts them many times faster than datetime objects.
        "predict_at": [microseconds_of(line.predict_at) for line in lines],
        "as_of": [microseconds_of(line.as_of) for line in lines],
        "logged_at": logged_us,
        "watermarks": [bytes(line.watermarks).decode() for line in lines],
        "ages": [bytes(line.ages).decode() for line in lines],
        "request": [bytes(line.request).decode() for line in lines],
        "features": [bytes(line.features).decode() for line in lines],
    }
    schema = dict(PREDICTION_SCHEMA)
    if any(bytes(line.details) != b"null" for line in lines):
        columns[DETAILS] = [bytes(line.details).decode() for line in lines]
        schema[DETAILS] = pl.String
    return pl.DataFrame(
        [
            pl.Series(name, columns[name], pl.Int64).cast(dtype)
            if isinstance(dtype, pl.Datetime)
            else pl.Series(name, columns[name], dtype)
            for name, dtype in schema.items()
        ]
    )


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'line'}: {first['msg']}"
