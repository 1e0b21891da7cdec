"""The rows of a request by column, in the forms that views need: Python values, arrays, or Polars columns."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.instants import microseconds_of
from ml_platform.features.view import INSTANT, PREDICT_AT, ViewError

Numbers = npt.NDArray[np.float64]
Column = npt.NDArray[Any]
"""Values of n rows: float64 with NaN for null (instants in microseconds since 1970 in UTC), or objects for text."""

ARRAY_DTYPES = (pl.Int64, pl.Float64, pl.Float32, pl.Boolean, pl.Int8, pl.Int16, pl.Int32, INSTANT, pl.String)
"""Types of columns that :meth:`RowColumns.array` returns."""


class RowColumns:
    """Request fields of n rows, and the prediction time of each row. A form is computed on first use.

    ``values`` maps each field to its Python values (n,), times as aware datetimes; ``predict_at`` (n, int64) is in
    microseconds since 1970 in UTC.
    """

    def __init__(
        self,
        values: Mapping[str, Sequence[Any]],
        dtypes: Mapping[str, pl.DataType],
        predict_at: npt.NDArray[np.int64],
    ) -> None:
        self.values, self.dtypes, self.predict_at = values, dtypes, predict_at
        self._arrays: dict[str, Column] = {}

    @classmethod
    def of_table(cls, rows: pl.DataFrame) -> Self:
        """Return the columns of ``rows``, which has a column ``predict_at``."""
        predict_at = rows[PREDICT_AT].cast(INSTANT).cast(pl.Int64).to_numpy()
        values = {name: rows[name].to_list() for name in rows.columns if name != PREDICT_AT}
        return cls(values, {name: rows.schema[name] for name in values}, predict_at)

    @property
    def height(self) -> int:
        """The number of rows."""
        return len(self.predict_at)

    def array(self, name: str) -> Column:
        """Return field ``name`` as a :data:`Column`. Raises :class:`ViewError` for a type that no array holds."""
        found = self._arrays.get(name)
        if found is None:
            found = self._arrays[name] = array_of_values(name, self.values[name], self.dtypes[name])
        return found

    def column(self, name: str) -> pl.Series:
        """Return field ``name`` as a Polars column of its declared type."""
        dtype, values = self.dtypes[name], self.values[name]
        if dtype == INSTANT:
            return instant_series(name, values)
        return pl.Series(name, values, dtype=dtype, strict=False)


def array_of_values(name: str, values: Sequence[Any], dtype: pl.DataType) -> Column:
    """Return Python ``values`` of a column of ``dtype`` as a :data:`Column`.

    Raises :class:`ViewError` for a type that no array holds, and for whole numbers that float64 does not represent.
    """
    if dtype == INSTANT:
        return np.array([np.nan if time is None else microseconds_of(time) for time in values], np.float64)
    if dtype == pl.String:
        return text_array(values)
    if dtype not in ARRAY_DTYPES:
        raise ViewError(
            f"Field '{name}' of a view that takes arrays",
            expected="a number, flag, text or time",
            found=str(dtype),
            fix="Declare the view with 'takes: table'.",
        )
    numbers = np.array([np.nan if value is None else value for value in values], np.float64)
    if dtype == pl.Int64 and any(value is not None and not -(2**53) <= value <= 2**53 for value in values):
        raise ViewError(
            f"Field '{name}' of a view that takes arrays",
            expected="whole numbers within ±2⁵³, which float64 keeps exactly",
            found="larger ones",
            fix="Send a smaller number, or declare the view with 'takes: table'.",
        )
    return numbers


def text_array(values: Sequence[str | None]) -> Column:
    """Return texts as an array of objects."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def array_of_series(column: pl.Series) -> Column:
    """Return ``column`` as a :data:`Column`; the same values as :func:`array_of_values` gives for its Python values."""
    if column.dtype == pl.String:
        return column.to_numpy().astype(object)
    if isinstance(column.dtype, pl.Datetime):
        column = column.cast(INSTANT).cast(pl.Int64)
    elif column.dtype not in ARRAY_DTYPES and column.dtype != pl.Null:
        return array_of_values(column.name, column.to_list(), column.dtype)
    return column.cast(pl.Float64).to_numpy()


def call_with_table(
    function: Callable[[Mapping[str, Column]], Mapping[str, Column]], rows: pl.DataFrame
) -> pl.DataFrame:
    """Return the result of a ``function`` of arrays for ``rows`` as a table, with null for NaN: for a test or notebook.

    Numbers come back as float64, whatever types a view declares for them.
    """
    found = function({column.name: array_of_series(column) for column in rows})
    return pl.DataFrame(
        [
            pl.Series(name, values.tolist(), pl.String)
            if values.dtype == object
            else pl.Series(name, values.astype(np.float64), nan_to_null=True)
            for name, values in found.items()
        ]
    )


def instant_series(name: str, times: Sequence[datetime | None]) -> pl.Series:
    """Return aware ``times`` as a series of instants in UTC with microseconds; None becomes null."""
    # Convert through integers: polars takes twenty times as long for datetimes with a time zone.
    return pl.Series(name, to_microseconds(times), dtype=pl.Int64).cast(INSTANT)


def to_microseconds(times: Sequence[datetime | None]) -> list[int | None]:
    """Return aware ``times`` as microseconds since 1970 in UTC; None stays None."""
    return [None if time is None else microseconds_of(time) for time in times]
