"""Columns of a declared type from the float64 in which an online store and array views keep all values but text."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.features.view import INSTANT

Numbers = npt.NDArray[np.float64]


def typed_series(name: str, numbers: Numbers, dtype: pl.DataType) -> pl.Series:
    """Return ``numbers`` (n; NaN is null, an instant is in microseconds) as a column of ``dtype``, not of text."""
    column = pl.Series(name, numbers, nan_to_null=True)
    return column.cast(pl.Int64).cast(dtype) if dtype == INSTANT else column.cast(dtype)


def plain_value(dtype: pl.DataType) -> Callable[[float], Any] | None:
    """Return the function from a float64 to the Python value of ``dtype``, an instant in microseconds; None: the same.

    It is not for text, and not for NaN, which stands for null in every type.
    """
    if dtype.is_float():
        return None
    return bool if dtype == pl.Boolean else int
