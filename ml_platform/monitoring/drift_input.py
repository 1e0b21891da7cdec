"""Two tables made comparable for the drift rule, or refused with what keeps them from being so.

Apart from `drift` because the rule itself takes for granted that both sides have the same columns of the same kinds.
"""

from collections.abc import Sequence
from typing import Literal

import polars as pl
import polars.selectors as cs

from ml_platform.errors import PlatformError, did_you_mean, listed


class DriftInputError(PlatformError):
    """Raised when the tables cannot be compared: a column missing, of another kind, or no column named."""


def comparable(
    reference: pl.DataFrame, current: pl.DataFrame, columns: list[str], time: str | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return both tables in the order of ``time`` where they have it, with ``columns`` alone; NaN becomes null.

    Raises :class:`DriftInputError` when ``columns`` is empty, one is missing on either side, its kind differs between
    the two, or it holds neither numbers nor categories.
    """
    current = _typed_nulls(reference, current)
    _refuse_incomparable(reference, current, columns)
    first, second = (_nan_as_null(_in_time(side, time).select(columns)) for side in (reference, current))
    return first, second


def refuse_unknown(expected_to_change: Sequence[str], features: Sequence[str]) -> None:
    """Raise :class:`DriftInputError` when the setting names what is no feature."""
    unknown = [name for name in expected_to_change if name not in features]
    if unknown:
        raise DriftInputError(
            "Drift setting 'expected_to_change'",
            expected="names of features",
            found=f"{len(unknown)} that are none: {listed(unknown)}",
            mend=f"Mend the names in defs.yaml.{did_you_mean(unknown[0], features)}",
        )


def _typed_nulls(reference: pl.DataFrame, current: pl.DataFrame) -> pl.DataFrame:
    """Give a column that is nothing but nulls, which carries no type, the type it has in the reference."""
    untyped = [name for name, dtype in current.schema.items() if dtype == pl.Null and name in reference.columns]
    return current.with_columns(pl.col(name).cast(reference.schema[name]) for name in untyped)


def _refuse_incomparable(reference: pl.DataFrame, current: pl.DataFrame, columns: list[str]) -> None:
    if not columns:
        raise DriftInputError(
            "Drift", expected="at least one column to compare", found="none", mend="Name features or a score."
        )
    for side, frame in (("reference", reference), ("current", current)):
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise DriftInputError(
                f"Drift {side} table",
                expected=f"all {len(columns)} columns to compare",
                found=f"{len(missing)} missing: {listed(missing)}",
                mend=f"Pass a table that has them.{did_you_mean(missing[0], frame.columns)}",
            )
    for name in columns:
        kinds = [_kind(frame[name]) for frame in (reference, current)]
        if None in kinds or kinds[0] != kinds[1]:
            raise DriftInputError(
                f"Drift column '{name}'",
                expected="numbers on both sides, or categories on both",
                found=f"{reference[name].dtype} in the reference, {current[name].dtype} in the current table",
                mend="Cast one side, or leave the column out.",
            )


def _kind(column: pl.Series) -> Literal["number", "category"] | None:
    if column.dtype.is_numeric():
        return "number"
    if column.dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "category"
    return None


def _nan_as_null(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(cs.float().fill_nan(None), (cs.boolean() | cs.categorical() | cs.enum()).cast(pl.String))


def _in_time(frame: pl.DataFrame, time: str | None) -> pl.DataFrame:
    return frame if time not in frame.columns or frame[time].is_sorted() else frame.sort(time)
