"""From what a view's function returns to what is stored: components of vectors, days of dates, microseconds.

The stored columns are numbers, so the point-in-time join, the online stores and the encoder treat all features alike.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from ml_platform.features.feature import Feature
from ml_platform.features.view import FeatureView, ViewError

DescribeRows = Callable[[pl.Series], str]
"""From a mask of rows (n booleans) to words that name the first of them, such as its entity and time."""


def stored_values(view: FeatureView, returned: pl.DataFrame, subject: str, describe: DescribeRows) -> list[pl.Series]:
    """Return the columns of ``view.dtypes`` for the columns ``view.returned_columns`` of ``returned``, in order.

    A vector that is null has null components. A column of another type is returned as it is, for the cast to its
    declared type. Raises :class:`ViewError` for a vector of another length, for a component that is null, NaN or
    infinite, for a column that is no vector, date or duration although one is declared, and for a duration with parts
    of a microsecond. The error starts with ``subject`` and names the first row by ``describe``.
    """
    columns = []
    for feature in view.features:
        column = returned[feature.name]
        if feature.type in ("date", "duration"):
            columns.append(_whole_numbers(feature, column, f"{subject}, column '{feature.name}'", describe))
        elif feature.size is not None:
            columns += _components(feature, column, f"{subject}, column '{feature.name}'", describe)
        else:
            columns.append(column)
    return columns


def _whole_numbers(feature: Feature, column: pl.Series, subject: str, describe: DescribeRows) -> pl.Series:
    expected = pl.Date if feature.type == "date" else pl.Duration
    if column.dtype not in (expected, pl.Null):
        raise ViewError(
            subject,
            expected=f"a column of {expected.__name__}",
            found=str(column.dtype),
            fix="Return this type, or declare another one.",
        )
    if isinstance(column.dtype, pl.Duration):
        exact = column.dt.cast_time_unit("us")
        cut = (exact.dt.cast_time_unit(column.dtype.time_unit) != column).fill_null(False)
        if cut.any():
            raise ViewError(
                subject,
                expected="durations of whole microseconds",
                found=f"{cut.sum()} of {len(cut)} with smaller parts, the first {describe(cut)}",
                fix="Round them in the function.",
            )
        column = exact
    return column.to_physical().cast(feature.columns[feature.name])


def _components(feature: Feature, column: pl.Series, subject: str, describe: DescribeRows) -> list[pl.Series]:
    names, size = list(feature.columns), feature.size or 0
    if column.dtype == pl.Null or column.null_count() == len(column):
        return [pl.Series(name, [None] * len(column), pl.Float32) for name in names]
    if not isinstance(column.dtype, (pl.List, pl.Array)) or not column.dtype.inner.is_numeric():
        raise ViewError(
            subject,
            expected=f"vectors of {size} numbers",
            found=str(column.dtype),
            fix="Return lists or arrays of numbers, or declare another type.",
        )
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    present = lists.is_not_null()
    lengths = lists.list.len()
    wrong_length = (lengths != size).fill_null(False)
    if wrong_length.any():
        raise ViewError(
            subject,
            expected=f"vectors of {size} components",
            found=f"{wrong_length.sum()} of {len(column)} with others, "
            f"the first with {lengths.filter(wrong_length)[0]} of {describe(wrong_length)}",
            fix="Correct the function, or the declared size.",
        )
    flat = lists.filter(present).explode().cast(pl.Float32, strict=False)
    matrix = np.full((len(column), size), np.nan, dtype=np.float32)
    matrix[present.to_numpy()] = flat.to_numpy().reshape(-1, size)
    finite = np.isfinite(matrix).all(axis=1) | ~present.to_numpy()
    if not finite.all():
        rows = pl.Series(~finite)
        place = int(np.argmin(np.isfinite(matrix[int(rows.arg_max() or 0)])))
        raise ViewError(
            subject,
            expected="finite components",
            found=f"{rows.sum()} of {len(column)} vectors with null, NaN or infinity, "
            f"the first at component {place} of {describe(rows)}",
            fix="Return null for a missing vector, and finite numbers in all others.",
        )
    return [
        pl.Series(name, np.ascontiguousarray(matrix[:, place]), nan_to_null=True) for place, name in enumerate(names)
    ]
