"""Whether the rows a model meets now are still the kind of rows it was trained on.

The rule asks for both a significant and a large change, repeated over time, because each alone cries wolf: with many
rows any p-value is small, and with few rows any distance is large. Null rates, unseen categories and volume are
checked apart, because a distribution of what is left after dropping nulls cannot show them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.monitoring.distances import (
    Distance,
    benjamini_hochberg,
    bin_counts,
    kolmogorov_smirnov,
    population_stability,
    quantile_edges,
    total_variation,
)
from ml_platform.monitoring.drift_report import ColumnDrift, DriftReport

# Stands for every category too rare to be judged by itself; a control character keeps it apart from real ones.
_OTHER = "\x00other"


class DriftInputError(PlatformError):
    """Raised when the tables cannot be compared: a column missing, of another kind, or nothing to compare with."""


class DriftSettings(Settings):
    """When a column counts as drifted."""

    false_discovery_rate: float = Field(
        default=0.01, gt=0, lt=1, description="Share of false alarms among the columns flagged in a window (q)."
    )
    minimum_ks: float = Field(
        default=0.1, ge=0, le=1, description="Numbers: smallest Kolmogorov-Smirnov distance worth a flag."
    )
    minimum_total_variation: float = Field(
        default=0.1, ge=0, le=1, description="Categories: smallest total variation distance worth a flag."
    )
    windows: int = Field(default=3, ge=1, description="Consecutive windows into which the current rows are cut.")
    windows_needed: int = Field(default=2, ge=1, description="Windows that must be flagged for the column to be.")
    minimum_rows: int = Field(default=500, ge=2, description="Rows a window needs to be judged; fewer, fewer windows.")
    sample_rows: int = Field(default=10_000, ge=2, description="Rows sampled from the reference and from each window.")
    seed: int = Field(default=0, description="Seed of the sampling.")
    bins: int = Field(default=10, ge=2, description="Quantile bins, fixed by the reference, of the stability index.")
    minimum_category_share: float = Field(
        default=0.01, ge=0, lt=1, description="Categories rarer than this in the reference are judged as one."
    )
    null_rate_change: float = Field(
        default=0.05, ge=0, le=1, description="Largest change of a column's share of nulls that is let pass."
    )
    unseen_share: float = Field(
        default=0.02, ge=0, le=1, description="Largest share of rows with a category that the reference lacks."
    )
    volume_factor: float = Field(
        default=2.0, gt=1, description="Largest ratio, either way, of current rows to expected rows."
    )
    expected_to_change: list[str] = Field(
        default_factory=list, description="Features that move with the calendar: measured and shown, never flagged."
    )

    @model_validator(mode="after")
    def _needs_no_more_windows_than_there_are(self) -> "DriftSettings":
        if self.windows_needed > self.windows:
            raise ValueError(f"windows_needed ({self.windows_needed}) must not exceed windows ({self.windows})")
        return self


def measure_drift(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    *,
    features: Sequence[str],
    settings: DriftSettings,
    score: str | None = None,
    time: str | None = None,
    expected_rows: float | None = None,
) -> DriftReport:
    """Compare ``current`` with ``reference`` column by column.

    ``reference`` holds the rows the model was trained on, ``current`` those it met; both have the columns ``features``
    and, where given, ``score`` (the reference scores being those of rows the model was not fitted on). ``current`` is
    cut into ``settings.windows`` windows of equal row counts in the order of ``time``, or as it stands without it.
    A column shifted when in at least ``settings.windows_needed`` windows its test is rejected by Benjamini-Hochberg
    over the features (the score is a family of its own) *and* its effect exceeds the minimum.

    Numbers are compared by Kolmogorov-Smirnov, booleans and strings by total variation over the reference categories.
    Nulls and NaN are one and are left out of the distances. ``expected_rows`` is how many rows a period of this
    length usually has; without it volume is not judged. With fewer than ``settings.minimum_rows`` rows no window is
    judged, and the report says so (``windows_judged`` 0, decision ``not judged``).

    Raises :class:`DriftInputError` when the reference or the list of columns is empty, a column is missing on either
    side, its kind differs between the two, it holds neither numbers nor categories, or a name in
    ``settings.expected_to_change`` is no feature.
    """
    columns = [*([score] if score else []), *features]
    current = _typed_nulls(reference, current)
    _refuse_incomparable(reference, current, columns)
    _refuse_unknown(settings.expected_to_change, features)
    reference, current = (
        _nan_as_null(reference.select(columns)),
        _nan_as_null((current.sort(time) if time else current).select(columns)),
    )
    sample, windows = _sampled(reference, settings), _windows(current, settings)
    distances = {name: [_distance(sample[name], window[name], settings) for window in windows] for name in columns}
    flags = {
        name: flagged
        for family in ([score] if score else [], list(features))
        for name, flagged in _flags({one: distances[one] for one in family}, sample, settings).items()
    }
    whole = _sampled(current, settings)
    described = [
        ColumnDrift(
            name=name,
            role="score" if name == score else "feature",
            kind="number" if reference[name].dtype.is_numeric() else "category",
            effect=_median([distance.effect for distance in distances[name]]),
            p_value=_median([distance.p_value for distance in distances[name]]),
            stability_index=_stability(sample[name].drop_nulls(), whole[name].drop_nulls(), settings),
            windows_flagged=sum(flags[name]),
            windows_judged=len(windows),
            shifted=bool(windows) and sum(flags[name]) >= min(settings.windows_needed, len(windows)),
            **_nulls(reference[name], current[name], settings),
            **_unseen(reference[name], current[name], settings),
        )
        for name in columns
    ]
    return DriftReport(
        columns=sorted(described, key=lambda column: (column.role != "score", -(column.effect or 0.0), column.name)),
        rows_reference=reference.height,
        rows_current=current.height,
        expected_rows=expected_rows,
        volume_changed=_volume_changed(current.height, expected_rows, settings),
        windows_judged=len(windows),
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
    if reference.is_empty():
        raise DriftInputError(
            "Drift reference", expected="rows", found="an empty table", mend="Pass the rows the model was trained on."
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


def _refuse_unknown(expected_to_change: Sequence[str], features: Sequence[str]) -> None:
    unknown = [name for name in expected_to_change if name not in features]
    if unknown:
        raise DriftInputError(
            "Drift setting 'expected_to_change'",
            expected="names of features",
            found=f"{len(unknown)} that are none: {listed(unknown)}",
            mend=f"Mend the names in defs.yaml.{did_you_mean(unknown[0], features)}",
        )


def _kind(column: pl.Series) -> Literal["number", "category"] | None:
    if column.dtype.is_numeric():
        return "number"
    if column.dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "category"
    return None


def _nan_as_null(frame: pl.DataFrame) -> pl.DataFrame:
    import polars.selectors as cs

    return frame.with_columns(cs.float().fill_nan(None), (cs.boolean() | cs.categorical() | cs.enum()).cast(pl.String))


def _windows(current: pl.DataFrame, settings: DriftSettings) -> list[pl.DataFrame]:
    """Return the samples of the windows: as many as asked for, or as have enough rows."""
    count = min(settings.windows, current.height // settings.minimum_rows)
    edges = [current.height * at // count for at in range(count + 1)] if count else [0]
    return [_sampled(current[start:stop], settings) for start, stop in pairwise(edges)]


def _sampled(frame: pl.DataFrame, settings: DriftSettings) -> pl.DataFrame:
    return frame.sample(settings.sample_rows, seed=settings.seed) if frame.height > settings.sample_rows else frame


def _distance(reference: pl.Series, current: pl.Series, settings: DriftSettings) -> Distance:
    reference, current = reference.drop_nulls(), current.drop_nulls()
    if reference.is_empty() or current.is_empty():
        return Distance(effect=0.0, p_value=1.0)  # all null on one side: the null rate tells it
    if reference.dtype.is_numeric():
        return kolmogorov_smirnov(reference.to_numpy(), current.to_numpy())
    return total_variation(*_category_counts(reference, current, settings))


def _category_counts(reference: pl.Series, current: pl.Series, settings: DriftSettings) -> tuple[list[int], list[int]]:
    shares = reference.value_counts(normalize=True, name="share")
    common = shares.filter(pl.col("share") >= settings.minimum_category_share)[reference.name].to_list()
    counts = []
    for column in (reference, current):
        folded = pl.select(pl.when(column.is_in(common)).then(column).otherwise(pl.lit(_OTHER)).alias("category"))
        found = dict(folded["category"].value_counts().iter_rows())
        counts.append([found.get(category, 0) for category in [*common, _OTHER]])
    return counts[0], counts[1]


def _flags(family: dict[str, list[Distance]], sample: pl.DataFrame, settings: DriftSettings) -> dict[str, list[bool]]:
    """Return for each column, and each window, whether the change is significant among the family and large."""
    windows = [
        benjamini_hochberg([distance.p_value for distance in window], settings.false_discovery_rate)
        for window in zip(*family.values(), strict=True)
    ]
    return {
        name: [
            rejected[at] and distance.effect > _minimum_effect(sample[name], settings)
            for rejected, distance in zip(windows, distances, strict=True)
            if name not in settings.expected_to_change
        ]
        for at, (name, distances) in enumerate(family.items())
    }


def _minimum_effect(column: pl.Series, settings: DriftSettings) -> float:
    return settings.minimum_ks if column.dtype.is_numeric() else settings.minimum_total_variation


def _median(values: list[float]) -> float | None:
    middle = pl.Series(values, dtype=pl.Float64).median()
    return middle if isinstance(middle, float) else None


def _stability(reference: pl.Series, current: pl.Series, settings: DriftSettings) -> float | None:
    if reference.is_empty() or current.is_empty():
        return None
    if not reference.dtype.is_numeric():
        return population_stability(*_category_counts(reference, current, settings))
    edges = quantile_edges(reference.to_numpy(), settings.bins)
    return population_stability(bin_counts(reference.to_numpy(), edges), bin_counts(current.to_numpy(), edges))


def _nulls(reference: pl.Series, current: pl.Series, settings: DriftSettings) -> dict[str, Any]:
    before, now = (column.null_count() / len(column) if len(column) else 0.0 for column in (reference, current))
    # Without rows the share of nulls is unknown, not zero: the volume tells it.
    changed = len(current) > 0 and abs(now - before) > settings.null_rate_change
    return {"null_rate_reference": before, "null_rate_current": now, "nulls_changed": changed}


def _unseen(reference: pl.Series, current: pl.Series, settings: DriftSettings) -> dict[str, Any]:
    present = current.drop_nulls()
    if reference.dtype.is_numeric() or present.is_empty():
        return {"unseen_share": 0.0, "unseen_examples": [], "unseen_appeared": False}
    unseen = present.filter(~present.is_in(reference.drop_nulls().unique().to_list()))
    share = len(unseen) / len(present)
    examples = unseen.unique().sort().head(5).to_list()
    return {"unseen_share": share, "unseen_examples": examples, "unseen_appeared": share > settings.unseen_share}


def _volume_changed(rows: int, expected_rows: float | None, settings: DriftSettings) -> bool:
    if expected_rows is None:
        return False
    return rows > expected_rows * settings.volume_factor or rows * settings.volume_factor < expected_rows
