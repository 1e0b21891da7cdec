"""What one request of a model's endpoint must hold: the path of every wrong field.

Apart because training declares it, the bento enforces it, and apps read it; it needs orjson and polars, nothing else.
Values are checked column by column, in loops of C speed: a request of a thousand rows costs under two milliseconds.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

import orjson
import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.online_store import FEW_ROWS
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import INSTANT

__all__ = [
    "MAX_REASONS",
    "MAX_ROWS_WITH_REASONS",
    "FieldError",
    "InvalidRequestError",
    "RequestContract",
    "RequestField",
    "ValidRequest",
    "instant_series",
]

FieldType = Literal["string", "int", "float", "bool", "datetime"]

MAX_REASONS = 20
"""Reasons that one prediction comes with at most."""

MAX_ROWS_WITH_REASONS = 50
"""Rows of a request that asks for reasons: each costs as much as a hundred predictions."""

MAX_ERRORS = 10
"""Wrong fields time_field in one answer; the rest are counted."""

MAX_VALUE_CHARACTERS = 60
"""Characters of a wrong value that are repeated in the answer."""

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_INT64 = range(-(2**63), 2**63)
_YEARS = range(1678, 2262)
"""Years that every table and log after the endpoint can hold, hours before and time zones away included."""

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(?P<offset>[Zz]|[+-]\d\d:\d\d)?")


class RequestField(Settings):
    """One field of a row."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the field in the JSON row.")
    type: FieldType = Field(description="string, int, float, bool, or datetime (ISO 8601 with an offset).")
    description: str = Field(default="", description="What it says, for the people who call the endpoint.")
    nullable: bool = Field(default=False, description="Whether it may be null; it must be there all the same.")
    examples: list[Any] = Field(default_factory=list, description="Values shown on the OpenAPI page.")

    @property
    def dtype(self) -> pl.DataType:
        return _TYPE_RULES[self.type].dtype

    @model_validator(mode="after")
    def _examples_are_valid(self) -> Self:
        for example in self.examples:
            # YAML reads an unquoted timestamp as a datetime; the endpoint takes text.
            problem = _TYPE_RULES[self.type].problem(example, self.nullable)
            if problem is not None:
                raise ValueError(f"field '{self.name}': example {example!r} is not a {self.type}: {problem}")
        return self


@dataclass(frozen=True)
class FieldError:
    """One wrong index of a request: where, what was expected there, what was found."""

    path: str
    expected: str
    found: str
    hint: str = ""


class InvalidRequestError(PlatformError):
    """Raised for a request that must be answered with ``status``: 400 (no JSON), 413 (too much), 422 (wrong fields).

    ``reason`` is a word for counting, ``details`` the wrong places in the order of the declaration, ``path`` the first.
    """

    def __init__(self, status: int, reason: str, details: Sequence[FieldError], total: int | None = None) -> None:
        first = details[0]
        more = (total or len(details)) - 1
        super().__init__(
            first.path,
            expected=first.expected,
            found=first.found,
            fix=f"{first.hint or 'Correct the request.'}{f' {more} more wrong places.' if more else ''}",
        )
        self.status = status
        self.reason = reason
        self.path = first.path
        self.details = list(details)

    def __reduce__(self) -> tuple[object, ...]:
        return InvalidRequestError, (self.status, self.reason, self.details)

    def to_dict(self) -> dict[str, Any]:
        """Return the body of the answer, without its request id."""
        details = [
            {"path": each.path, "expected": each.expected, "found": each.found, "hint": each.hint}
            for each in self.details
        ]
        return {"error": {"status": self.status, "reason": self.reason, "message": str(self), "details": details}}


@dataclass(frozen=True)
class ValidRequest:
    """Rows that keep the contract: ``rows`` as received, ``columns`` by field with times as aware datetimes."""

    rows: list[dict[str, Any]]
    columns: dict[str, list[Any]]
    dtypes: Mapping[str, pl.DataType]

    def frame(self) -> pl.DataFrame:
        """Return the rows as a table: one column per field in its declared type, times in UTC."""
        if len(self.rows) > FEW_ROWS:
            return pl.DataFrame([self._series(name, dtype) for name, dtype in self.dtypes.items()])
        # For a few rows, one table out of plain values is faster than a column after the other.
        times = [name for name, dtype in self.dtypes.items() if dtype == INSTANT]
        columns = [
            self.columns[name] if name not in times else to_microseconds(self.columns[name]) for name in self.dtypes
        ]
        rows = [dict(zip(self.dtypes, values, strict=True)) for values in zip(*columns, strict=True)]
        frame = pl.from_dicts(rows, schema=dict(self.dtypes) | dict.fromkeys(times, pl.Int64()))
        for name in times:
            frame.replace_column(frame.get_column_index(name), frame[name].cast(INSTANT))
        return frame

    def _series(self, name: str, dtype: pl.DataType) -> pl.Series:
        values = self.columns[name]
        return instant_series(name, values) if dtype == INSTANT else pl.Series(name, values, dtype=dtype, strict=False)


def instant_series(name: str, times: Sequence[datetime | None]) -> pl.Series:
    """Return aware ``times`` as a column of instants in UTC, null for None; microseconds are kept."""
    # By way of numbers: polars takes twenty times as long over datetimes with a time zone.
    return pl.Series(name, to_microseconds(times), dtype=pl.Int64).cast(INSTANT)


def to_microseconds(times: Sequence[datetime | None]) -> list[int | None]:
    """Return aware ``times`` as microseconds since 1970 in UTC."""
    return [None if time is None else (time - _EPOCH) // _MICROSECOND for time in times]


class RequestContract(Settings):
    """The request of one model's endpoint; `contract.json` of a model directory."""

    model: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the model, part of the path.")
    fields: list[RequestField] = Field(min_length=1, description="Fields of one row.")
    max_rows: int = Field(default=1000, ge=1, description="Rows that one request may hold.")
    max_bytes: int = Field(default=4 * 2**20, ge=1024, description="Size that one request may have (bytes).")
    prediction_time: PredictionTime | None = Field(
        default=None, description="When a prediction is made; none: when the request arrives."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [field.name for field in self.fields]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"fields {listed(repeated)} declared twice")
        if self.prediction_time is not None:
            time_field = self.prediction_time.field
            times = [field.name for field in self.fields if field.type == "datetime" and not field.nullable]
            if time_field not in times:
                raise ValueError(
                    f"prediction_time names '{time_field}'; it must be a datetime that is never null: {listed(times)}."
                    f"{did_you_mean(time_field, times)}"
                )
        return self

    @property
    def path(self) -> str:
        """The path of the endpoint."""
        return f"/v1/{self.model}/predict"

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        return {field.name: field.dtype for field in self.fields}

    def validate(self, body: bytes, max_rows: int | None = None) -> ValidRequest:  # type: ignore[override]
        """Return the rows of ``body``, JSON of the form ``{"rows": [{…}, …]}``.

        A null is allowed where the field is nullable; every field must be there, and no other. NaN and infinities are
        no JSON and no values: they are refused with the path of the field. ``max_rows`` lowers the declared limit for
        this request. Raises :class:`InvalidRequestError`.
        """
        if len(body) > self.max_bytes:
            raise _too_large("body", f"at most {self.max_bytes} bytes", f"{len(body)} bytes")
        rows = self._rows(_parse_json(body), min(self.max_rows, max_rows or self.max_rows))
        names = self.dtypes
        # Equal lengths and no missing key mean equal sets of keys.
        width = len(names)
        try:
            columns = {name: [row[name] for row in rows] for name in names}
            complete = all(len(row) == width for row in rows)
        except (KeyError, TypeError):
            complete = False
        if not complete:
            raise self._invalid_request(rows)
        for field in self.fields:
            read = _TYPE_RULES[field.type].read(columns[field.name], field.nullable)
            if read is None:
                raise self._invalid_request(rows)
            columns[field.name] = read
        return ValidRequest(rows, columns, names)

    def _rows(self, payload: Any, max_rows: int) -> list[dict[str, Any]]:
        if not isinstance(payload, dict):
            raise InvalidRequestError(422, "field", [FieldError("body", 'an object {"rows": […]}', _describe(payload))])
        field_errors = [FieldError(key, "only 'rows'", "another field", _suggestion(key, ["rows"])) for key in payload]
        errors = [each for each in field_errors if each.path != "rows"]
        if "rows" not in payload:
            errors.insert(0, FieldError("rows", "a list of rows", "nothing", 'Send {"rows": [{…}, …]}.'))
        if errors:
            raise InvalidRequestError(422, "field", errors[:MAX_ERRORS], len(errors))
        rows = payload["rows"]
        if not isinstance(rows, list) or not rows:
            found = "an empty list" if rows == [] else _describe(rows)
            raise InvalidRequestError(422, "field", [FieldError("rows", f"1 to {max_rows} rows", found)])
        if len(rows) > max_rows:
            raise _too_large("rows", f"at most {max_rows} rows", f"{len(rows)} rows")
        return rows

    def _invalid_request(self, rows: Sequence[Any]) -> InvalidRequestError:
        """Look again, slowly, for every wrong place of a request that is known to have one."""
        errors = list(self._field_errors(rows))
        return InvalidRequestError(422, "field", errors[:MAX_ERRORS], len(errors))

    def _field_errors(self, rows: Sequence[Any]) -> Iterator[FieldError]:
        names = [field.name for field in self.fields]
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                yield FieldError(f"rows[{index}]", "an object with the fields of a row", _describe(row))
                continue
            for field in self.fields:
                path = f"rows[{index}].{field.name}"
                expected = _TYPE_RULES[field.type].expected + (" or null" if field.nullable else "")
                if field.name not in row:
                    similar = [key for key in row if key not in names]
                    yield FieldError(path, expected, "nothing: the field is missing", _suggestion(field.name, similar))
                    continue
                problem = _TYPE_RULES[field.type].problem(row[field.name], field.nullable)
                if problem is not None:
                    yield FieldError(path, expected, problem)
            for key in row:
                if key not in names:
                    found = "a field that is not declared"
                    yield FieldError(
                        f"rows[{index}].{key}", f"only {listed(names, 20)}", found, _suggestion(key, names)
                    )


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        json_error = error
    # Python reads NaN and Infinity, which are no JSON: then the field that holds them can be named.
    try:
        payload = json.loads(body.decode())
        # Half of a surrogate pair is text to Python, and to nothing that comes after it.
        json.dumps(payload, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        found = f"{json_error.msg} (line {json_error.lineno}, column {json_error.colno})" if body else "an empty body"
        raise InvalidRequestError(400, "json", [FieldError("body", "JSON", found)]) from None
    return payload


def _too_large(path: str, expected: str, found: str) -> InvalidRequestError:
    return InvalidRequestError(413, "size", [FieldError(path, expected, found, "Send several smaller requests.")])


def _suggestion(name: str, candidates: Sequence[str]) -> str:
    return did_you_mean(name, candidates).strip()


def _describe(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "a flag", int: "an int", float: "a float", str: "a string"}
    if value is None:
        return "null"
    text = repr(value) if not isinstance(value, dict | list) else f"of {len(value)}"
    shortened = text[:MAX_VALUE_CHARACTERS] + ("…" if len(text) > MAX_VALUE_CHARACTERS else "")
    return f"{kinds.get(type(value), type(value).__name__)} {shortened}"


def _read_values(kind: type) -> Callable[[list[Any], bool], list[Any] | None]:
    def read(values: list[Any], nullable: bool) -> list[Any] | None:
        found = set(map(type, values))
        return values if found == {kind} or (nullable and found <= {kind, type(None)}) else None

    return read


def _read_ints(values: list[Any], nullable: bool) -> list[Any] | None:
    read = _read_values(int)(values, nullable)
    return read if read is not None and all(value is None or value in _INT64 for value in read) else None


def _read_floats(values: list[Any], nullable: bool) -> list[Any] | None:
    if not set(map(type, values)) <= ({int, float, type(None)} if nullable else {int, float}):
        return None
    try:
        return values if all(value is None or math.isfinite(value) for value in values) else None
    except OverflowError:
        return None


def _read_instants(values: list[Any], nullable: bool) -> list[Any] | None:
    read: list[Any] = []
    for value in values:
        if value is None and nullable:
            read.append(None)
            continue
        instant = _parse_instant(value)
        if isinstance(instant, str):
            return None
        read.append(instant)
    return read


def _parse_instant(value: Any) -> datetime | str:
    """Return the aware datetime that ``value`` spells, or what is wrong with it."""
    if type(value) is not str:
        return _describe(value)
    match = _INSTANT.fullmatch(value)
    if match is None:
        return f"{_describe(value)}, which is not ISO 8601"
    if match["offset"] is None:
        return f"{_describe(value)} without an offset"
    try:
        instant = datetime.fromisoformat(value.upper())
    except ValueError as error:
        return f"{_describe(value)}: {error}"
    return instant if instant.year in _YEARS else f"{_describe(value)}, not in the years {_YEARS[0]} to {_YEARS[-1]}"


def _type_problem(kind: type) -> Callable[[Any], str | None]:
    return lambda value: None if type(value) is kind else _describe(value)


def _int_problem(value: Any) -> str | None:
    if type(value) is not int:
        return _describe(value)
    return None if value in _INT64 else f"{_describe(value)}, beyond 64 bits"


def _float_problem(value: Any) -> str | None:
    if type(value) not in (int, float):
        return _describe(value)
    try:
        return None if math.isfinite(value) else f"{value}, which is not finite"
    except OverflowError:
        return f"{_describe(value)}, beyond 64 bits"


def _instant_problem(value: Any) -> str | None:
    instant = _parse_instant(value)
    return instant if isinstance(instant, str) else None


@dataclass(frozen=True)
class _TypeRules:
    """A type of field: how a column of it is read fast, and what is wrong with one value."""

    dtype: pl.DataType
    expected: str
    read: Callable[[list[Any], bool], list[Any] | None]
    find_problem: Callable[[Any], str | None]

    def problem(self, value: Any, nullable: bool) -> str | None:
        return None if value is None and nullable else self.find_problem(value)


_TYPE_RULES: dict[str, _TypeRules] = {
    "string": _TypeRules(pl.String(), "a string", _read_values(str), _type_problem(str)),
    "int": _TypeRules(pl.Int64(), "an int", _read_ints, _int_problem),
    "float": _TypeRules(pl.Float64(), "a finite number", _read_floats, _float_problem),
    "bool": _TypeRules(pl.Boolean(), "true or false", _read_values(bool), _type_problem(bool)),
    "datetime": _TypeRules(
        INSTANT, "a time with an offset, like '2013-07-01T08:30:00-04:00'", _read_instants, _instant_problem
    ),
}
