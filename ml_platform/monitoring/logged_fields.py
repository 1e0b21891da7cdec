"""Reading logged requests and features: JSON text of the predictions table becomes columns of declared types."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl

from ml_platform.data.exact_json import bytes_of, date_of, decimal_of, duration_of
from ml_platform.data.pii import MASK
from ml_platform.data.pseudonyms import PseudonymKey
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.monitoring.hashed_fields import HashedFields, split_pseudonyms
from ml_platform.monitoring.realised_slices import slice_column


class PredictionLogError(PlatformError):
    """Raised when logged predictions are missing or cannot be unpacked."""


def unpack_json_column(predictions: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return one row per prediction with one column per key of the JSON text in ``column`` (request or features).

    The numbers equal the logged numbers bit by bit. A key that a row lacks is null. Raises
    :class:`PredictionLogError` when there is no such column.
    """
    if column not in predictions.columns:
        raise PredictionLogError(
            "Logged predictions",
            expected=f"a column '{column}' of JSON text",
            found=f"columns {', '.join(predictions.columns)}",
            fix="Unpack 'request' or 'features' of the predictions table.",
        )
    records = [json.loads(text) for text in predictions[column]]
    return pl.from_dicts(records, infer_schema_length=None) if records else pl.DataFrame()


def with_request_fields(predictions: pl.DataFrame, fields: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return ``predictions`` with the named fields of their requests as columns of the given types.

    Times are logged as text. They are read with their offset and converted to the time zone of the type. Raises
    :class:`PredictionLogError` when no request has the field, or a value does not fit its type.
    """
    return _with_unpacked_fields(predictions, "request", fields)


def with_features(predictions: pl.DataFrame, features: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return ``predictions`` with the named features, as the model received them, as columns of the given types.

    The numbers equal the logged numbers bit by bit. Raises :class:`PredictionLogError` when no prediction has the
    feature, or a value does not fit its type.
    """
    return _with_unpacked_fields(predictions, "features", features)


def with_identity(
    predictions: pl.DataFrame, fields: Mapping[str, pl.DataType], hashed: HashedFields | None = None
) -> pl.DataFrame:
    """Return ``predictions`` with the named fields of their requests as columns, each named by :func:`identity_column`.

    Fields that are ``hashed`` are pseudonyms (text), also of requests that were logged with the values themselves. A
    field that a request lacks is null, also when all of a few requests lack it. Raises :class:`PredictionLogError` when
    a value does not fit its type.
    """
    requests = predictions.select("request")
    plain = {name: dtype for name, dtype in fields.items() if hashed is None or name not in hashed.dtypes}
    unpacked = _with_unpacked_fields(requests, "request", plain, may_be_absent=True)
    columns = [unpacked[name].alias(identity_column(name)) for name in plain]
    if hashed is not None and len(plain) < len(fields):
        records = logged_requests(predictions)
        columns += [
            hashed_values(name, records, hashed).alias(identity_column(name)) for name in fields if name not in plain
        ]
    return predictions.with_columns(columns)


def with_slices(predictions: pl.DataFrame, fields: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return ``predictions`` with the named fields of their requests as columns that define slices.

    Each is named by :func:`~ml_platform.monitoring.realised_slices.slice_column`. A field that a request lacks is null.
    Raises :class:`PredictionLogError` when a value does not fit its type.
    """
    unpacked = _with_unpacked_fields(predictions.select("request"), "request", fields, may_be_absent=True)
    return predictions.with_columns(unpacked[name].alias(slice_column(name)) for name in fields)


def logged_requests(predictions: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the logged request of each prediction."""
    return [_record(text) for text in predictions["request"]]


def hashed_values(name: str, records: Sequence[Mapping[str, Any]], hashed: HashedFields) -> pl.Series:
    """Return the pseudonyms of the field ``name`` of logged requests, some of which may have the values themselves."""
    if not records:
        return pl.Series(name, [], pl.String)
    logged, values = split_pseudonyms([record.get(name) for record in records])
    (read,) = _typed_columns("Logged requests", {name: values}, {name: hashed.dtypes[name]}, shows_values=False)
    return pl.Series(name, logged, pl.String).fill_null(hashed.of_column(name, read))


def with_hashed_features(
    predictions: pl.DataFrame, features: Mapping[str, pl.DataType], key: PseudonymKey
) -> pl.DataFrame:
    """Return ``predictions`` with the named features as columns of pseudonyms.

    Predictions that were logged with the values themselves get pseudonyms too. Raises as :func:`with_features`.
    """
    records = [_record(text) for text in predictions["features"]]
    columns = []
    for name, dtype in features.items():
        logged, values = split_pseudonyms([record.get(name) for record in records])
        (read,) = _typed_columns("Logged features", {name: values}, {name: dtype}, shows_values=False)
        columns.append(pl.Series(name, logged, pl.String).fill_null(key.of_feature(read)))
    return predictions.with_columns(columns)


def identity_column(field: str) -> str:
    """Return the column of a request field that identifies an example; it never hides another column."""
    return f"identity.{field}"


def _with_unpacked_fields(
    predictions: pl.DataFrame, column: str, fields: Mapping[str, pl.DataType], *, may_be_absent: bool = False
) -> pl.DataFrame:
    if predictions.is_empty():
        return predictions.with_columns(pl.Series(name, [], dtype) for name, dtype in fields.items())
    records = [_record(text) for text in predictions[column]]
    subject = "Logged requests" if column == "request" else "Logged features"
    logged = {name for record in records for name in record}
    missing = [name for name in fields if name not in logged]
    if missing and not may_be_absent:
        raise PredictionLogError(
            subject,
            expected=f"fields {listed(fields)}",
            found=f"{len(missing)} in no request: {listed(missing)}",
            fix=f"Name fields of the request.{did_you_mean(missing[0], logged)}",
        )
    values = {name: [record.get(name) for record in records] for name in fields}
    return predictions.with_columns(_typed_columns(subject, values, fields))


def _typed_columns(
    subject: str, values: Mapping[str, list[Any]], fields: Mapping[str, pl.DataType], *, shows_values: bool = True
) -> list[pl.Series]:
    """Return the logged ``values`` by field as columns of the given types."""
    try:
        return [_column(name, values[name], dtype) for name, dtype in fields.items()]
    except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
        types = ", ".join(f"{name}: {dtype}" for name, dtype in fields.items())
        raise PredictionLogError(
            subject,
            expected=types,
            found=str(error) if shows_values else f"values of another type, which identify a person: {MASK}",
            fix="Use the types of the model's declaration.",
        ) from (error if shows_values else None)


def _record(text: str) -> dict[str, Any]:
    try:
        return dict(orjson.loads(text))
    except orjson.JSONDecodeError:
        # A service of an earlier release may have logged NaN, which orjson refuses.
        return dict(json.loads(text))


def _column(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    parse = _exact_reader(dtype)
    if parse is not None:
        return pl.Series(name, [None if value is None else parse(value) for value in values], dtype)
    if not dtype.is_temporal():
        try:
            # Most values have their type already.
            return pl.Series(name, values, dtype, strict=True)
        except (pl.exceptions.PolarsError, TypeError):
            pass  # Others, such as the text of a number, are cast below.
    return _cast(pl.from_dicts([{name: value} for value in values], infer_schema_length=None)[name], dtype)


def _exact_reader(dtype: pl.DataType) -> Callable[[Any], Any] | None:
    """Return the function that reads one logged value of ``dtype``, for types that JSON lacks; else None."""
    if dtype == pl.Date:
        return lambda value: _known(date_of(value), value)
    if isinstance(dtype, pl.Duration):
        return lambda value: _known(duration_of(value), value)
    if dtype == pl.Binary:
        return lambda value: _known(bytes_of(value), value)
    if isinstance(dtype, pl.Decimal):
        scale = dtype.scale
        return lambda value: _known(decimal_of(value, scale), value)
    if isinstance(dtype, pl.List) and dtype.inner == pl.Date:
        return lambda value: [_known(date_of(each), each) for each in value]
    if isinstance(dtype, (pl.Array, pl.List)) and dtype.inner.is_float():
        return lambda value: list(map(float, value))
    return None


def _known(found: Any, value: Any) -> Any:
    if found is None:
        raise ValueError(f"a value of another type: {type(value).__name__}")
    return found


def _cast(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime) and column.dtype == pl.String and dtype.time_zone:
        # Parse each value alone: a service accepts every form of ISO 8601, but polars parses a column by the form of
        # its first value.
        times = [None if text is None else datetime.fromisoformat(text).astimezone(UTC) for text in column]
        return pl.Series(column.name, times, pl.Datetime(dtype.time_unit, "UTC")).dt.convert_time_zone(dtype.time_zone)
    return column.cast(dtype)
