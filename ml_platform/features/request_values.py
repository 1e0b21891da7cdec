"""The values of request views: a function's result is checked against the declaration and cast without loss."""

from collections.abc import Sequence

import polars as pl

from ml_platform.data.pii import MASK
from ml_platform.data.references import load_function
from ml_platform.errors import listed
from ml_platform.features.exact_values import InexactValuesError, cast_exactly
from ml_platform.features.returned_values import stored_values
from ml_platform.features.view import INSTANT, FeatureView, ViewError


def run_request_view(view: FeatureView, seen: pl.DataFrame) -> pl.DataFrame:
    return checked_values(view, load_function(view.function)(seen), seen.height)


def checked_values(view: FeatureView, frame: object, rows: int) -> pl.DataFrame:
    """Return the result ``frame`` of a request view in its stored types, with the view's prefix.

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
        absent = [name for name in view.returned_columns if name not in frame.columns]
        extra = [name for name in frame.columns if name not in view.returned_columns]
        raise ViewError(
            f"Feature view '{view.name}', function {view.code}",
            expected=f"the columns {listed(view.returned_columns, limit=50)}",
            found=f"{len(absent)} missing ({listed(absent)}) and {len(extra)} not declared ({listed(extra)})",
            fix="Fix the function or the declared features.",
        )
    subject = f"Feature view '{view.name}', function {view.code}"
    stored = stored_values(view, frame, subject, lambda wrong: f"row {wrong.arg_max()}")
    typed = zip(stored, view.dtypes.values(), strict=True)
    found = pl.DataFrame([_typed(view, column, dtype) for column, dtype in typed])
    found.columns = list(view.columns)
    return found


def _typed(view: FeatureView, column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if column.dtype == dtype and dtype not in (pl.Int64, INSTANT):
        return column
    try:
        return cast_exactly(column, dtype)
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


def select_columns(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    # The query engine is avoided: for one row it costs more than all other steps together.
    return pl.DataFrame([frame[name] for name in names]) if names else pl.DataFrame(height=frame.height)
