"""The values of request views: a function's result is checked against the declaration and kept without loss.

A function takes and returns a table or arrays, as its view declares. Both forms run here, in training and in serving.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ml_platform.data.pii import MASK
from ml_platform.data.references import load_function
from ml_platform.errors import listed
from ml_platform.features.exact_values import MAX_EXACT_INTEGER, InexactValuesError, cast_exactly
from ml_platform.features.returned_values import stored_values
from ml_platform.features.row_columns import Column, Numbers, array_of_series
from ml_platform.features.typed_values import typed_series
from ml_platform.features.view import INSTANT, FeatureView, ViewError


class ViewValues(NamedTuple):
    """Values of a view for n rows: ``numbers`` (n × columns; NaN is null), and ``texts`` by position of the column."""

    numbers: Numbers
    texts: dict[int, list[str | None]]


class RequestViewRunner:
    """Runs the function of a request view; what does not depend on the rows is resolved when it is made."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self._function = load_function(view.function)
        self._names = list(view.dtypes)
        self._returned = frozenset(view.returned_columns)
        dtypes = list(view.dtypes.values())
        self._texts = [place for place, dtype in enumerate(dtypes) if dtype == pl.String]
        self._numbers = [place for place, dtype in enumerate(dtypes) if dtype != pl.String]
        # All places below are among the columns of numbers.
        dtypes = [dtypes[place] for place in self._numbers]
        self._number_names = [self._names[place] for place in self._numbers]
        self._whole = [place for place, dtype in enumerate(dtypes) if _is_whole(dtype)]
        self._float32 = np.array([dtype == pl.Float32 for dtype in dtypes], dtype=bool)
        self._has_float32 = bool(self._float32.any())
        limits = [_limits(dtype) for dtype in dtypes]
        self._lower = np.array([lower for lower, _ in limits])
        self._upper = np.array([upper for _, upper in limits])
        self._is_limited = bool(np.isfinite(self._lower).any())
        self._checks = [(*each, _is_whole(dtype)) for each, dtype in zip(limits, dtypes, strict=True)]
        self._shapes_of_one = [(1,)] * len(dtypes)

    def of_arrays(self, seen: Mapping[str, Column], rows: int) -> ViewValues:
        """Return the values of a view that takes arrays. Raises :class:`ViewError` when they do not match it."""
        found = self._function(seen)
        if not isinstance(found, Mapping):
            raise self._wrong_shape(f"a mapping from column to an array of {rows} values", type(found).__name__)
        if found.keys() != self._returned:
            raise _wrong_columns(self.view, list(found))
        numbers = self._one_row(found) if rows == 1 else None
        if numbers is None:
            numbers = self._stacked(found, rows).astype(np.float64).T if self._numbers else np.empty((rows, 0))
            self._require_fitting(numbers)
        texts = {place: self._text(self._names[place], found[self._names[place]], rows) for place in self._texts}
        if self._has_float32:
            np.copyto(numbers, numbers.astype(np.float32), where=self._float32)
        if not self._texts:
            return ViewValues(numbers, texts)
        values = np.full((rows, len(self._names)), np.nan)
        values[:, self._numbers] = numbers
        return ViewValues(values, texts)

    def of_table(self, seen: pl.DataFrame) -> pl.DataFrame:
        """Return the values of the view for the rows ``seen`` as a table, with the view's prefix."""
        if self.view.takes == "table":
            return checked_values(self.view, self._function(seen), seen.height)
        values = self.of_arrays({column.name: array_of_series(column) for column in seen}, seen.height)
        return pl.DataFrame(
            [
                pl.Series(name, values.texts[place], pl.String)
                if place in values.texts
                else typed_series(name, values.numbers[:, place], dtype)
                for place, (name, dtype) in enumerate(self.view.columns.items())
            ]
        )

    def _one_row(self, found: Mapping[str, Any]) -> Numbers | None:
        """Return the numbers of one row, shape (1, columns), in a few array calls, each of which costs a microsecond.

        None if they do not match the view, or might not; :meth:`_stacked` and :meth:`_require_fitting` tell then.
        """
        columns = [found[name] for name in self._number_names]
        try:
            if [column.shape for column in columns] != self._shapes_of_one or not columns:
                return None
            row = np.concatenate(columns, dtype=np.float64, casting="same_kind")
        except (AttributeError, TypeError, ValueError):
            return None
        for value, (lower, upper, is_whole) in zip(row.tolist(), self._checks, strict=True):
            # NaN is null and fits: a comparison with it is false.
            if value < lower or value > upper or (is_whole and value % 1 > 0):
                return None
        return row[np.newaxis]

    def _require_fitting(self, numbers: Numbers) -> None:
        """Raise :class:`ViewError` for a value of ``numbers`` (rows, columns of numbers) that does not fit its type."""
        if self._whole:
            whole = numbers[:, self._whole]
            fraction = np.abs(whole - np.trunc(whole)) > 0
            if fraction.any():
                raise self._wrong_values("whole numbers", whole, fraction, self._whole)
        if self._is_limited:
            outside = (numbers < self._lower) | (numbers > self._upper)
            if outside.any():
                raise self._wrong_values("values that fit their declared types", numbers, outside)

    def _stacked(self, found: Mapping[str, Any], rows: int) -> Numbers:
        """Return the columns of numbers and flags, shape (columns, rows)."""
        try:
            stacked = np.array([found[name] for name in self._number_names])
        except ValueError:
            stacked = np.empty(0)
        if stacked.shape != (len(self._numbers), rows) or stacked.dtype.kind not in "fiub":
            for name in self._number_names:
                column = np.asarray(found[name])
                if column.shape != (rows,) or column.dtype.kind not in "fiub":
                    raise self._wrong_shape(
                        f"numbers or flags of shape ({rows},) in column '{name}'", f"{column.dtype} of {column.shape}"
                    )
        return stacked

    def _text(self, name: str, column: Any, rows: int) -> list[str | None]:
        values = column.tolist() if isinstance(column, np.ndarray) else list(column)
        if len(values) != rows or not set(map(type, values)) <= {str, type(None)}:
            kinds = sorted({type(value).__name__ for value in values})
            raise self._wrong_shape(
                f"{rows} texts or None in column '{name}'", f"{len(values)} values of {listed(kinds)}"
            )
        return values

    def _wrong_shape(self, expected: str, found: str) -> ViewError:
        return ViewError(
            f"Feature view '{self.view.name}', function {self.view.code}",
            expected=expected,
            found=found,
            fix="Return one value for each input row, in the same order.",
        )

    def _wrong_values(
        self, expected: str, values: Numbers, wrong: np.ndarray, places: Sequence[int] | None = None
    ) -> ViewError:
        row, column = (int(each) for each in np.argwhere(wrong)[0])
        name = self._number_names[column if places is None else places[column]]
        dtype = self.view.dtypes[name]
        return ViewError(
            f"Feature view '{self.view.name}', function {self.view.code}, column '{name}'",
            expected=f"{expected}: {dtype}",
            found=MASK if name in self.view.pii_names else repr(float(values[row, column])),
            fix="Declare another type, or round the values in the function.",
        )


def run_request_view(view: FeatureView, seen: pl.DataFrame) -> pl.DataFrame:
    """Return the values of request ``view`` for the rows ``seen``, with the view's prefix."""
    return RequestViewRunner(view).of_table(seen)


def checked_values(view: FeatureView, frame: object, rows: int) -> pl.DataFrame:
    """Return the result ``frame`` of a request view in its stored types, with the view's prefix; NaN becomes null.

    Raises :class:`ViewError` when it does not match the declaration: columns, height, and values that fit their types.
    """
    if not isinstance(frame, pl.DataFrame) or frame.height != rows:
        raise ViewError(
            f"Feature view '{view.name}', function {view.code}",
            expected=f"a DataFrame of {rows} rows, one for each input row",
            found=f"{frame.height} rows" if isinstance(frame, pl.DataFrame) else type(frame).__name__,
            fix="Return one row for each input row, in the same order.",
        )
    if set(frame.columns) != set(view.returned_columns):
        raise _wrong_columns(view, frame.columns)
    subject = f"Feature view '{view.name}', function {view.code}"
    stored = stored_values(view, frame, subject, lambda wrong: f"row {wrong.arg_max()}")
    typed = zip(stored, view.dtypes.values(), strict=True)
    found = pl.DataFrame([_typed(view, column, dtype) for column, dtype in typed])
    found.columns = list(view.columns)
    return found


def _wrong_columns(view: FeatureView, columns: Sequence[str]) -> ViewError:
    absent = [name for name in view.returned_columns if name not in columns]
    extra = [name for name in columns if name not in view.returned_columns]
    return ViewError(
        f"Feature view '{view.name}', function {view.code}",
        expected=f"the columns {listed(view.returned_columns, limit=50)}",
        found=f"{len(absent)} missing ({listed(absent)}) and {len(extra)} not declared ({listed(extra)})",
        fix="Fix the function or the declared features.",
    )


def _typed(view: FeatureView, column: pl.Series, dtype: pl.DataType) -> pl.Series:
    # An online read keeps null as NaN, so both reads know only null.
    if column.dtype == dtype and dtype not in (pl.Int64, INSTANT):
        return column.fill_nan(None) if dtype.is_float() else column
    try:
        found = cast_exactly(column, dtype)
        return found.fill_nan(None) if dtype.is_float() else found
    except InexactValuesError as error:
        expected, first = error.expected, column.filter(error.rows)[0]
    except pl.exceptions.InvalidOperationError:
        expected, first = f"values of {dtype}", column.drop_nulls()[0]
    raise ViewError(
        f"Feature view '{view.name}', function {view.code}, column '{column.name}'",
        expected=expected,
        found=MASK if column.name in view.pii_names else repr(first),
        fix="Declare another type, or round the values in the function.",
    )


def _is_whole(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype in (pl.Boolean, INSTANT)


@cache
def _limits(dtype: pl.DataType) -> tuple[float, float]:
    """Return the least and the greatest value of ``dtype`` that both reads keep exactly; infinite for fractions."""
    if dtype == pl.Boolean:
        return 0.0, 1.0
    if dtype in (pl.Int64, INSTANT):
        return -float(MAX_EXACT_INTEGER), float(MAX_EXACT_INTEGER)
    if dtype.is_integer():
        return float(pl.select(dtype.min()).item()), float(pl.select(dtype.max()).item())  # type: ignore[attr-defined]
    return -np.inf, np.inf


def select_columns(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    # The query engine is avoided: for one row it costs more than all other steps together.
    return pl.DataFrame([frame[name] for name in names]) if names else pl.DataFrame(height=frame.height)
