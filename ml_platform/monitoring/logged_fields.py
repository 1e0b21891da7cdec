"""Logged requests and features opened again: JSON text of the predictions table as columns of declared types.

Apart from `prediction_log` because reading asks for one model's columns, of which the table knows nothing.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl

from ml_platform.errors import PlatformError, did_you_mean, listed


class PredictionLogError(PlatformError):
    """Raised when logged predictions cannot be found or unpacked."""


def unpacked(predictions: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return one row per prediction with one column per key of the JSON text in ``column`` (request or features).

    Numbers are those that were logged, bit by bit. A key absent from a row is null. Raises
    :class:`PredictionLogError` when there is no such column.
    """
    if column not in predictions.columns:
        raise PredictionLogError(
            "Logged predictions",
            expected=f"a column '{column}' of JSON text",
            found=f"columns {', '.join(predictions.columns)}",
            mend="Unpack 'request' or 'features' of the predictions table.",
        )
    objects = [json.loads(text) for text in predictions[column]]
    return pl.from_dicts(objects, infer_schema_length=None) if objects else pl.DataFrame()


def with_request_fields(predictions: pl.DataFrame, fields: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return ``predictions`` with the named fields of their requests as columns of the given types.

    Times, which JSON has only as text, are read with their offset and converted to the time zone of the type. Raises
    :class:`PredictionLogError` when no request has the field, or a value does not fit its type.
    """
    return _opened(predictions, "request", fields)


def with_features(predictions: pl.DataFrame, features: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return ``predictions`` with the named features that they used as columns of the given types.

    Numbers are those that were logged, bit by bit. Raises :class:`PredictionLogError` like :func:`with_request_fields`.
    """
    return _opened(predictions, "features", features)


def _opened(predictions: pl.DataFrame, column: str, fields: Mapping[str, pl.DataType]) -> pl.DataFrame:
    held = unpacked(predictions, column) if predictions.height else pl.DataFrame(schema=dict(fields))
    thing = "Logged requests" if column == "request" else "Logged features"
    missing = [name for name in fields if name not in held.columns]
    if missing:
        raise PredictionLogError(
            thing,
            expected=f"fields {listed(fields)}",
            found=f"{len(missing)} in no request: {listed(missing)}",
            mend=f"Name fields of the request.{did_you_mean(missing[0], held.columns)}",
        )
    try:
        columns = [_typed(held[name], dtype) for name, dtype in fields.items()]
    except (pl.exceptions.PolarsError, ValueError) as error:
        types = ", ".join(f"{name}: {dtype}" for name, dtype in fields.items())
        raise PredictionLogError(
            thing, expected=types, found=str(error), mend="Ask for the types of the model's declaration."
        ) from error
    return predictions.with_columns(columns)


def _typed(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime) and column.dtype == pl.String and dtype.time_zone:
        # One by one: a service takes every form of ISO 8601, and polars reads a column by the form of its first value.
        times = [None if text is None else datetime.fromisoformat(text).astimezone(UTC) for text in column]
        return pl.Series(column.name, times, pl.Datetime(dtype.time_unit, "UTC")).dt.convert_time_zone(dtype.time_zone)
    return column.cast(dtype)
