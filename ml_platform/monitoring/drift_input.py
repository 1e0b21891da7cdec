"""Preparation of the two tables that the drift check compares: the same columns and kinds, in order of time."""

from collections.abc import Sequence
from typing import Literal

import polars as pl
import polars.selectors as cs

from ml_platform.errors import PlatformError, did_you_mean, listed


class DriftInputError(PlatformError):
    """Raised when the tables cannot be compared: no column, a missing column, or a column of another kind."""


def comparable_tables(
    reference: pl.DataFrame, current: pl.DataFrame, columns: list[str], time: str | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return both tables with only ``columns``, sorted by ``time`` if they have it; NaN becomes null.

    Booleans and categoricals become strings. Raises :class:`DriftInputError` when ``columns`` is empty or one is
    missing on either side. Raises it too for a column of different kinds, or of neither numbers nor categories.
    """
    current = _typed_nulls(reference, current)
    _require_comparable(reference, current, columns)
    first, second = (_nan_as_null(_sorted_by_time(side, time).select(columns)) for side in (reference, current))
    return first, second


def require_known_features(expected_to_change: Sequence[str], features: Sequence[str]) -> None:
    """Raise :class:`DriftInputError` when ``expected_to_change`` names an unknown feature."""
    unknown = [name for name in expected_to_change if name not in features]
    if unknown:
        raise DriftInputError(
            "Drift setting 'expected_to_change'",
            expected="names of features",
            found=f"{len(unknown)} unknown: {listed(unknown)}",
            fix=f"Correct the names in defs.yaml.{did_you_mean(unknown[0], features)}",
        )


def _typed_nulls(reference: pl.DataFrame, current: pl.DataFrame) -> pl.DataFrame:
    """Cast each current column without any type, because all its values are null, to its type in the reference."""
    untyped = [name for name, dtype in current.schema.items() if dtype == pl.Null and name in reference.columns]
    return current.with_columns(pl.col(name).cast(reference.schema[name]) for name in untyped)


def _require_comparable(reference: pl.DataFrame, current: pl.DataFrame, columns: list[str]) -> None:
    if not columns:
        raise DriftInputError(
            "Drift", expected="at least one column to compare", found="none", fix="Name features or a score."
        )
    for side, frame in (("reference", reference), ("current", current)):
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise DriftInputError(
                f"Drift {side} table",
                expected=f"all {len(columns)} columns to compare",
                found=f"{len(missing)} missing: {listed(missing)}",
                fix=f"Pass a table with these columns.{did_you_mean(missing[0], frame.columns)}",
            )
    for name in columns:
        kinds = [_column_kind(frame[name]) for frame in (reference, current)]
        if None in kinds or kinds[0] != kinds[1]:
            raise DriftInputError(
                f"Drift column '{name}'",
                expected="numbers on both sides, or categories on both",
                found=f"{reference[name].dtype} in the reference, {current[name].dtype} in the current table",
                fix="Cast one side, or remove the column from the comparison.",
            )


def _column_kind(column: pl.Series) -> Literal["number", "category"] | None:
    if column.dtype.is_numeric():
        return "number"
    if column.dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "category"
    return None


def _nan_as_null(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(cs.float().fill_nan(None), (cs.boolean() | cs.categorical() | cs.enum()).cast(pl.String))


def _sorted_by_time(frame: pl.DataFrame, time: str | None) -> pl.DataFrame:
    return frame if time not in frame.columns or frame[time].is_sorted() else frame.sort(time)
