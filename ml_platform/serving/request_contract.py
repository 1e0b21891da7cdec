"""Declares and validates the requests of a model's endpoint; an error names the path of every wrong field.

Training declares the contract, the bento enforces it, and clients read it. It needs only orjson and polars.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import chain, islice
from typing import Annotated, Any, Literal, Self, TypeVar

import orjson
import polars as pl
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ml_platform.data.exact_json import MAX_DECIMAL_DIGITS
from ml_platform.data.names import FULL_NAME
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.row_columns import instant_series
from ml_platform.features.view import INSTANT
from ml_platform.serving.deprecation import Deprecation
from ml_platform.serving.field_types import (
    EXAMPLE_VALUES,
    MAX_VALUE_CHARACTERS,
    TYPE_RULES,
    FieldType,
    ItemType,
    TypeRules,
    base64_length,
    binary_rules,
    decimal_rules,
    describe_value,
    text_rules,
)
from ml_platform.serving.nested_fields import MAX_VECTOR_SIZE, list_rules, vector_rules
from ml_platform.serving.request_rules import RequestRule

__all__ = [
    "MAX_REASONS",
    "MAX_ROWS_WITH_REASONS",
    "REASON_METHODS",
    "FieldError",
    "InvalidRequestError",
    "ReasonMethod",
    "RequestContract",
    "RequestField",
    "ValidRequest",
    "answered_or_refused",
]

Row = TypeVar("Row")
Answer = TypeVar("Answer")

MAX_REASONS = 20
"""Maximum number of reasons for one prediction."""

MAX_ROWS_WITH_REASONS = 50
"""Maximum number of rows in a request for reasons: each row costs as much as a hundred predictions."""

ReasonMethod = Literal["full", "path"]
"""full: the model's own method, TreeSHAP for trees; path: along the decision paths of its trees."""

REASON_METHODS: tuple[ReasonMethod, ...] = ("full", "path")

MAX_ERRORS = 10
"""Maximum number of wrong fields named in one error response; the search for them ends there."""

MAX_PAST_MINUTES = 24 * 60
"""Default of the time before the newest facts about which an answer is not marked: a day."""

MaxPastMinutes = Annotated[
    int,
    Field(
        ge=0,
        description="How far the time of a prediction may lie before the newest facts of the online store (minutes).",
    ),
]

OnPast = Annotated[
    Literal["flag", "refuse"],
    Field(
        description="flag: an answer about an earlier time is marked as degraded, since it rests on facts of a later "
        "time. refuse: the request is answered with 422."
    ),
]

LogTreatment = Literal["hash", "drop"]
"""The prediction log stores the keyed hash of a value that identifies a person, or nothing of it."""

MAX_SIMILAR = 100
"""Maximum number of names among which a near name is searched for the hint of an error."""

_ROWS_HINT = 'Send {"rows": [{…}, …]}.'

_SHAPE_OF_TYPE = {"decimal": "scale", "vector": "size", "list": "items", "binary": "max_bytes"}
"""The attribute that completes a type."""

MAX_TEXT_CHARACTERS = 1_000
"""Greatest length of a text, or of a text in a list, unless the field declares another."""


class RequestField(Settings):
    """One field of a row in a request."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the field in the JSON row.")
    type: FieldType = Field(
        description="string, int, float, bool, datetime (ISO 8601 with an offset), date, duration (seconds or ISO "
        "8601), decimal (text or number, exact), vector (a list of `size` numbers), list (of `items`) or binary "
        "(base64 of at most `max_bytes`)."
    )
    description: str = Field(default="", description="Meaning of the field, for callers of the endpoint.")
    nullable: bool = Field(default=False, description="Whether it can be null; it is required even then.")
    optional: bool = Field(
        default=False, description="Whether a row can lack it, which is then null; only of a nullable field."
    )
    examples: list[Any] = Field(default_factory=list, description="Values shown on the OpenAPI page.")
    scale: int | None = Field(
        default=None, ge=0, le=MAX_DECIMAL_DIGITS, description="Digits of a decimal after the point."
    )
    size: int | None = Field(default=None, ge=1, le=MAX_VECTOR_SIZE, description="Number of components of a vector.")
    items: ItemType | None = Field(default=None, description="Type of the items of a list; none of them is null.")
    max_bytes: int | None = Field(
        default=None, ge=1, description="Greatest size of a binary value (bytes), before base64."
    )
    deprecated: bool = Field(default=False, description="Whether new apps should not send it; shown by OpenAPI.")
    max_length: int = Field(
        default=MAX_TEXT_CHARACTERS,
        ge=1,
        description="Greatest length of a text, and of a text in a list (characters).",
    )
    pii: LogTreatment | None = Field(
        default=None,
        description="For a field that identifies a person: what the prediction log stores of it, hash (a keyed hash, "
        "by which outcomes still join) or drop (nothing). Default: hash for a column that its contract marks as pii.",
    )

    @property
    def dtype(self) -> pl.DataType:
        return self.rules.dtype

    @cached_property
    def rules(self) -> TypeRules:
        """How values of the field are read and described."""
        if self.scale is not None:
            return decimal_rules(self.scale)
        if self.size is not None:
            return vector_rules(self.size)
        if self.max_bytes is not None:
            return binary_rules(self.max_bytes)
        kind = self.type if self.items is None else self.items
        rules = text_rules(self.max_length) if kind == "string" else TYPE_RULES[kind]
        return rules if self.items is None else list_rules(rules)

    @property
    def example(self) -> Any:
        """The first of ``examples``, or a right value of the type."""
        if self.examples:
            return self.examples[0]
        return [0.0] * self.size if self.size is not None else EXAMPLE_VALUES[self.type]

    @model_serializer(mode="wrap")
    def _without_other_types(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The contract of an earlier release is written again as it was.
        unused = {name for name in _SHAPE_OF_TYPE.values() if getattr(self, name) is None}
        unused |= {"max_length", "optional", "deprecated", "pii"} - self.model_fields_set
        return {name: value for name, value in serialize(self).items() if name not in unused}

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        needed = _SHAPE_OF_TYPE.get(self.type)
        for attribute in _SHAPE_OF_TYPE.values():
            if (getattr(self, attribute) is not None) != (attribute == needed):
                action = "declare" if attribute == needed else "remove"
                raise ValueError(f"field '{self.name}' of type {self.type}: {action} '{attribute}'")
        return self

    @model_validator(mode="after")
    def _absent_is_null(self) -> Self:
        if self.optional and not self.nullable:
            raise ValueError(
                f"field '{self.name}': an optional field needs nullable: true, because it is null if absent"
            )
        return self

    @model_validator(mode="after")
    def _examples_are_valid(self) -> Self:
        for example in self.examples:
            # YAML reads an unquoted timestamp as a datetime; the endpoint takes text.
            problem = self.rules.problem(example, self.nullable)
            if problem is not None:
                raise ValueError(f"field '{self.name}': example {example!r} is not a {self.type}: {problem.found}")
        return self


@dataclass(frozen=True)
class FieldError:
    """One wrong value of a request: its path, the expected value, the found one, and a hint for the fix."""

    path: str
    expected: str
    found: str
    hint: str = ""


class InvalidRequestError(PlatformError):
    """Raised for an invalid request. ``status`` is 400 (not JSON), 413 (too large) or 422 (wrong fields).

    ``reason`` is the label under which the error is counted. ``details`` are the first wrong values in the order of
    the declaration, and ``path`` is the path of the first; with ``has_more`` there are others.
    """

    def __init__(self, status: int, reason: str, details: Sequence[FieldError], *, has_more: bool = False) -> None:
        first = details[0]
        self.has_more = has_more
        others = f" {'More than ' if has_more else ''}{len(details) - 1} more values are wrong." if details[1:] else ""
        super().__init__(
            first.path,
            expected=first.expected,
            found=first.found,
            fix=f"{first.hint or 'Correct the request.'}{others}",
        )
        self.status = status
        self.reason = reason
        self.path = first.path
        self.details = list(details)

    def to_dict(self) -> dict[str, Any]:
        """Return the body of the error response, without its request id."""
        details = [
            {"path": each.path, "expected": each.expected, "found": each.found, "hint": each.hint}
            for each in self.details
        ]
        return {"error": {"status": self.status, "reason": self.reason, "message": str(self), "details": details}}


@dataclass(frozen=True)
class ValidRequest:
    """A request that satisfies its contract.

    ``rows`` are as received; ``columns`` maps each field to its values, with times as aware datetimes. ``flags`` has,
    by row, the names of the rules that the row breaks and is answered in spite of.
    """

    rows: list[dict[str, Any]]
    columns: dict[str, list[Any]]
    dtypes: Mapping[str, pl.DataType]
    flags: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)

    def frame(self) -> pl.DataFrame:
        """Return the rows as a table with one column per field in its declared type; times are in UTC."""
        return pl.DataFrame([self._series(name, dtype) for name, dtype in self.dtypes.items()])

    def _series(self, name: str, dtype: pl.DataType) -> pl.Series:
        values = self.columns[name]
        return instant_series(name, values) if dtype == INSTANT else pl.Series(name, values, dtype=dtype, strict=False)


class RequestContract(Settings):
    """Contract of the requests of one model's endpoint; `contract.json` of a model directory."""

    model: str = Field(pattern=FULL_NAME, description="Name of the model; part of the path.")
    fields: list[RequestField] = Field(min_length=1, description="Fields of one row.")
    max_rows: int = Field(default=1000, ge=1, description="Maximum number of rows in one request.")
    max_bytes: int = Field(default=4 * 2**20, ge=1024, description="Maximum size of one request (bytes).")
    prediction_time: PredictionTime | None = Field(
        default=None, description="Rule for the time of a prediction; null: the time when the request arrives."
    )
    rules: list[RequestRule] = Field(default_factory=list, description="Rules for the values of the fields.")
    max_past_minutes: MaxPastMinutes = MAX_PAST_MINUTES
    on_past: OnPast = "flag"
    deprecated: Deprecation | None = Field(default=None, description="That the endpoint is to end; null: it is not.")
    pii_features: dict[str, LogTreatment] = Field(
        default_factory=dict, description="Features that identify a person, and what the prediction log stores of them."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [field.name for field in self.fields]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"fields: {listed(repeated)} declared twice; declare each field once")
        if self.prediction_time is not None:
            time_field = self.prediction_time.field
            times = [field.name for field in self.fields if field.type == "datetime" and not field.nullable]
            if time_field not in times:
                raise ValueError(
                    f"prediction_time: expected a datetime field that is not nullable ({listed(times)}), "
                    f"found '{time_field}'."
                    f"{did_you_mean(time_field, times)}"
                )
        for each in self.fields:
            if each.max_bytes is not None and base64_length(each.max_bytes) > self.max_bytes:
                raise ValueError(
                    f"field '{each.name}': {each.max_bytes} bytes are {base64_length(each.max_bytes)} in base64, and a "
                    f"request has at most {self.max_bytes}; declare fewer"
                )
        types = {field.name: field.type for field in self.fields}
        for rule in self.rules:
            problem = rule.problem(types)
            if problem is not None:
                raise ValueError(f"rule '{rule.name}': {problem}; correct the rule")
        return self

    @model_serializer(mode="wrap")
    def _without_later_attributes(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The contract of an earlier release is written again as it was.
        later = {"rules", "max_past_minutes", "on_past", "deprecated", "pii_features"} - self.model_fields_set
        return {name: value for name, value in serialize(self).items() if name not in later}

    @property
    def path(self) -> str:
        """Path of the endpoint."""
        return f"/v1/{self.model}/predict"

    @cached_property
    def dtypes(self) -> dict[str, pl.DataType]:
        return {field.name: field.dtype for field in self.fields}

    @cached_property
    def pii_fields(self) -> dict[str, LogTreatment]:
        """Fields that identify a person, with what the prediction log stores of them."""
        return {field.name: field.pii for field in self.fields if field.pii is not None}

    @cached_property
    def hashed_fields(self) -> dict[str, pl.DataType]:
        """Types of the fields of which the prediction log stores a pseudonym."""
        return {field.name: field.dtype for field in self.fields if field.pii == "hash"}

    @cached_property
    def _optional(self) -> list[str]:
        return [field.name for field in self.fields if field.optional]

    @cached_property
    def _readers(self) -> list[tuple[str, Callable[[list[Any], bool], list[Any] | None], bool]]:
        return [(field.name, field.rules.read, field.nullable) for field in self.fields]

    def validate(self, body: bytes, max_rows: int | None = None) -> ValidRequest:  # type: ignore[override]
        """Return the rows of ``body``, JSON of the form ``{"rows": [{…}, …]}``.

        Every row must have exactly the declared fields; a value can be null only if its field is nullable, and an
        optional field that is absent is null. NaN and infinities are invalid, and the error names the path of the
        field. ``max_rows`` lowers the declared limit for this request. Raises :class:`InvalidRequestError`.
        """
        if len(body) > self.max_bytes:
            raise _too_large("body", f"at most {self.max_bytes} bytes", f"{len(body)} bytes")
        rows = self._rows(_parse_json(body), min(self.max_rows, max_rows or self.max_rows))
        for name in self._optional:
            for row in rows:
                if isinstance(row, dict):
                    row.setdefault(name, None)
        names = self.dtypes
        # Equal lengths without a missing key mean equal sets of keys.
        width = len(names)
        try:
            if len(rows) == 1:
                columns = {name: [rows[0][name]] for name in names}
                complete = len(rows[0]) == width
            else:
                columns = {name: [row[name] for row in rows] for name in names}
                complete = all(len(row) == width for row in rows)
        except (KeyError, TypeError):
            complete = False
        if not complete:
            raise self._invalid_request(rows)
        for name, read, nullable in self._readers:
            values = read(columns[name], nullable)
            if values is None:
                raise self._invalid_request(rows)
            columns[name] = values
        return ValidRequest(rows, columns, names, self._checked_rules(columns) if self.rules else {})

    def _checked_rules(self, columns: Mapping[str, Sequence[Any]]) -> dict[int, list[str]]:
        """Return the names of the rules that each row breaks; raises for a rule whose breach is refused."""
        flags: dict[int, list[str]] = {}
        refused: list[FieldError] = []
        for rule in self.rules:
            for row in rule.breaches(columns):
                if rule.on_breach == "flag":
                    flags.setdefault(row, []).append(rule.name)
                else:
                    found = describe_value(_json_text(columns[rule.field][row]))
                    refused.append(
                        FieldError(f"rows[{row}].{rule.field}", rule.expected, found, f"Rule '{rule.name}'.")
                    )
        if refused:
            raise _field_error(iter(refused), "rule")
        return flags

    def _rows(self, payload: Any, max_rows: int) -> list[dict[str, Any]]:
        if not isinstance(payload, dict):
            raise InvalidRequestError(
                422, "field", [FieldError("body", 'an object {"rows": […]}', describe_value(payload))]
            )
        if payload.keys() != {"rows"}:
            missing = [] if "rows" in payload else [FieldError("rows", "a list of rows", "nothing", _ROWS_HINT)]
            others = (
                FieldError(_shortened(key), "only 'rows'", "another field", _suggestion(key, ["rows"]))
                for key in payload
                if key != "rows"
            )
            raise _field_error(chain(missing, others))
        rows = payload["rows"]
        if not isinstance(rows, list) or not rows:
            found = "an empty list" if rows == [] else describe_value(rows)
            raise InvalidRequestError(422, "field", [FieldError("rows", f"1 to {max_rows} rows", found)])
        if len(rows) > max_rows:
            raise _too_large("rows", f"at most {max_rows} rows", f"{len(rows)} rows")
        return rows

    def _invalid_request(self, rows: Sequence[Any]) -> InvalidRequestError:
        """Return the error for rows with at least one wrong value, after a slow search for the first of them."""
        return _field_error(self._field_errors(rows))

    def _field_errors(self, rows: Sequence[Any]) -> Iterator[FieldError]:
        names = self.dtypes
        expected_keys = f"only {listed(names, 20)}"
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                yield FieldError(f"rows[{index}]", "an object with the fields of a row", describe_value(row))
                continue
            for field in self.fields:
                path = f"rows[{index}].{field.name}"
                expected = field.rules.expected + (" or null" if field.nullable else "")
                if field.name not in row:
                    similar = [key for key in islice(row, MAX_SIMILAR) if key not in names]
                    yield FieldError(path, expected, "nothing: the field is missing", _suggestion(field.name, similar))
                    continue
                problem = field.rules.problem(row[field.name], field.nullable)
                if problem is not None:
                    yield FieldError(path + problem.place, problem.expected or expected, problem.found)
            for key in row:
                if key not in names:
                    found = "a field that is not declared"
                    hint = _suggestion(key, list(names)[:MAX_SIMILAR])
                    yield FieldError(f"rows[{index}].{_shortened(key)}", expected_keys, found, hint)


def answered_or_refused(
    rows: Sequence[Row],
    answer: Callable[[Sequence[Row]], list[Answer]],
    refuse: Callable[[Row, InvalidRequestError], Answer],
) -> list[Answer]:
    """Return the answers to ``rows``, in their order: ``answer`` of many at once, or ``refuse`` of a single wrong one.

    ``answer`` raises :class:`InvalidRequestError` if one of its rows is wrong; the others are still answered. Its other
    errors pass through.
    """
    if not rows:
        return []
    try:
        return answer(rows)
    except InvalidRequestError as error:
        if len(rows) == 1:
            return [refuse(rows[0], error)]
    # Half and half again finds one wrong row among 256 in 16 passes.
    half = len(rows) // 2
    return [part for rest in (rows[:half], rows[half:]) for part in answered_or_refused(rest, answer, refuse)]


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        json_error = error
    # Python also reads NaN and Infinity, which are not JSON; validation then names their field.
    try:
        payload = json.loads(body.decode())
        # Python accepts half of a surrogate pair; orjson and polars do not.
        json.dumps(payload, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        found = f"{json_error.msg} (line {json_error.lineno}, column {json_error.colno})" if body else "an empty body"
        raise InvalidRequestError(400, "json", [FieldError("body", "JSON", found)]) from None
    return payload


def _too_large(path: str, expected: str, found: str) -> InvalidRequestError:
    return InvalidRequestError(413, "size", [FieldError(path, expected, found, "Send several smaller requests.")])


def _json_text(value: Any) -> Any:
    """Return ``value`` as a client sends it."""
    return value.isoformat() if isinstance(value, date) else value


def _field_error(errors: Iterator[FieldError], reason: str = "field") -> InvalidRequestError:
    """Return the error with the first :data:`MAX_ERRORS` of ``errors``; the search ends there."""
    found = list(islice(errors, MAX_ERRORS + 1))
    return InvalidRequestError(422, reason, found[:MAX_ERRORS], has_more=len(found) > MAX_ERRORS)


def _shortened(key: str) -> str:
    return key if len(key) <= MAX_VALUE_CHARACTERS else f"{key[:MAX_VALUE_CHARACTERS]}…"


def _suggestion(name: str, candidates: Sequence[str]) -> str:
    # The search for a near name takes time by the square of the length.
    near = [each for each in candidates if len(each) <= MAX_VALUE_CHARACTERS]
    return did_you_mean(name, near).strip() if len(name) <= MAX_VALUE_CHARACTERS else ""
