"""Casts values to their declared types, and refuses values that a cast would round or cut in silence.

Change logs and request views use it. An online store keeps numbers as float64, so whole numbers and instants beyond
2⁵³ are refused as well: training would read them exactly, and serving would not.
"""

import numpy as np
import polars as pl

MAX_EXACT_INTEGER = 2**53
"""Largest whole number up to which float64 represents all whole numbers."""


class InexactValuesError(ValueError):
    """Raised with the mask of the rows (n booleans, never null) whose values do not fit the declared type."""

    def __init__(self, rows: pl.Series, expected: str) -> None:
        super().__init__(f"{rows.sum()} values are not {expected}")
        self.rows = rows
        self.expected = expected


def cast_exactly(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Return ``column`` as ``dtype``; NaN becomes null where ``dtype`` is no float.

    Fractions are rounded only between float types. Raises :class:`InexactValuesError` for a number with a fraction in
    a column of whole numbers, for a value outside the range of its type, and for a whole number or an instant (in
    microseconds) beyond 2⁵³. Raises Polars' InvalidOperationError for a type that cannot be cast.
    """
    if column.dtype == dtype:
        cast = column
    elif dtype.is_integer() and column.dtype.is_float():
        cast = _whole_numbers(column, dtype)
    elif dtype.is_integer() and column.dtype.is_numeric():
        cast = column.cast(dtype, strict=False)
        _require(cast.is_null() & column.is_not_null() | _differs(cast, column), f"values of {dtype}")
    else:
        cast = column.cast(dtype)
    if dtype == pl.Int64 or isinstance(dtype, pl.Datetime):
        _require_exact_in_float64(cast)
    return cast


def beyond_float64(column: pl.Series) -> pl.Series:
    """Return, for each whole number or instant, whether float64 cannot represent it exactly; null is False."""
    whole = column.to_physical() if column.dtype.is_temporal() else column
    return ~whole.is_between(-MAX_EXACT_INTEGER, MAX_EXACT_INTEGER).fill_null(True)


def _whole_numbers(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    # Through NumPy: for the one row of a request, it takes a fraction of the time of Polars expressions.
    values = column.to_numpy()
    fraction = values != np.trunc(values)
    if fraction.any():
        _require(pl.Series(fraction & ~np.isnan(values)), "whole numbers")
        column = column.fill_nan(None)
    cast = column.cast(dtype, strict=False)
    if cast.null_count() != column.null_count():
        _require(cast.is_null() & column.is_not_null(), f"values of {dtype}")
    return cast


def _differs(cast: pl.Series, column: pl.Series) -> pl.Series:
    return (cast.cast(column.dtype, strict=False) != column).fill_null(False)


def _require_exact_in_float64(cast: pl.Series) -> None:
    whole = cast.to_physical()
    smallest, largest = whole.min(), whole.max()
    if smallest is not None and (smallest < -MAX_EXACT_INTEGER or largest > MAX_EXACT_INTEGER):  # type: ignore[operator]
        _require(beyond_float64(whole), "whole numbers within ±2⁵³, which both reads keep exactly")


def _require(wrong: pl.Series, expected: str) -> None:
    if wrong.any():
        raise InexactValuesError(wrong.fill_null(False), expected)
