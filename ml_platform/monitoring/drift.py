"""Whether the rows a model meets now are still the kind of rows it was trained on.

The rule asks for a change that is significant, large, larger than what the reference itself went through, and repeated
over time, because each alone cries wolf: with many rows any p-value is small, with few rows any distance is large, and
no two weeks of a real process are alike. Null rates, unseen categories and volume are checked apart, because a
distribution of what is left after dropping nulls cannot show them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.monitoring.distances import (
    Distance,
    benjamini_hochberg,
    bin_counts,
    kolmogorov_smirnov,
    population_stability,
    quantile_edges,
    total_variation,
)
from ml_platform.monitoring.drift_input import comparable, refuse_unknown
from ml_platform.monitoring.drift_report import ColumnDrift, DriftReport
from ml_platform.monitoring.variation import Variation, variation, windows_of

# Stands for every category too rare to be judged by itself; a control character keeps it apart from real ones.
_OTHER = "\x00other"


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
    usual_factor: float = Field(
        default=1.25,
        ge=0,
        description="How often the largest distance within the reference a change must reach; 0: the minima alone.",
    )
    usual_windows: int = Field(
        default=12, ge=2, description="Stretches of the reference, as long as a window, that say what is usual."
    )
    windows: int = Field(default=3, ge=1, description="Consecutive windows into which the current rows are cut.")
    windows_needed: int = Field(default=2, ge=1, description="Windows that must be flagged for the column to be.")
    minimum_rows: int = Field(
        default=500, ge=2, description="Rows that a window, and the reference, need to be judged; fewer, fewer windows."
    )
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
    and, where given, ``score``. Reference rows without a score count for the features alone: a model's scores of rows
    that it was fitted on are nothing to compare with. ``current`` is cut into ``settings.windows`` windows of equal row
    counts in the order of ``time``, or as it stands without it. A column shifted when in at least
    ``settings.windows_needed`` windows its test is rejected by Benjamini-Hochberg over the features (the score is a
    family of its own) *and* its effect exceeds its limit: the minimum, or ``settings.usual_factor`` times the largest
    distance of any of ``settings.usual_windows`` stretches of the reference from the rest of it, whichever is more.
    In the same way a null rate changed when it left the range of those stretches by more than the setting.

    Numbers are compared by Kolmogorov-Smirnov, booleans and strings by total variation over the reference categories.
    Nulls and NaN are one and are left out of the distances. ``expected_rows`` is how many rows a period of this
    length usually has; without it volume is not judged. With fewer than ``settings.minimum_rows`` rows no window is
    judged, and with fewer in the reference no column: the report says so (``windows_judged`` 0, ``not judged``).

    Raises :class:`~ml_platform.monitoring.drift_input.DriftInputError` when the list of columns is empty, a column is
    missing on either side, its kind differs between the two, it holds neither numbers nor categories, or a name in
    ``settings.expected_to_change`` is no feature.
    """
    columns = [*([score] if score else []), *features]
    refuse_unknown(settings.expected_to_change, features)
    reference, current = comparable(reference, current, columns, time)
    scored = reference.drop_nulls(score) if score else reference.clear()
    described = [
        *_family("score", scored, current, [score] if score else [], settings),
        *_family("feature", reference, current, list(features), settings),
    ]
    return DriftReport(
        columns=sorted(described, key=_place),
        rows_reference=reference.height,
        rows_current=current.height,
        expected_rows=expected_rows,
        volume_changed=_volume_changed(current.height, expected_rows, settings),
        windows_judged=len(_window_bounds(current, settings)) if described else 0,
    )


def _place(column: ColumnDrift) -> tuple[bool, bool, float, str]:
    return column.role != "score", not column.drifted, -(column.effect or 0.0) / max(column.limit, 1e-9), column.name


def _family(
    role: Literal["score", "feature"],
    reference: pl.DataFrame,
    current: pl.DataFrame,
    names: list[str],
    settings: DriftSettings,
) -> list[ColumnDrift]:
    """Describe the columns that are judged together; none where too few rows are there to compare with."""
    if reference.height < settings.minimum_rows or not names:
        return []
    sample, whole = _sampled(reference, settings), _sampled(current, settings)
    bounds = _window_bounds(current, settings)
    windows = [_sampled(current[start:stop], settings) for start, stop in bounds]
    rows = current.height // len(bounds) if bounds and settings.usual_factor else 0
    stretches = windows_of(reference, rows, settings.usual_windows, settings.seed)
    distances = {name: [_distance(sample[name], window[name], settings) for window in windows] for name in names}
    usual = {
        name: variation(
            sample[name],
            [stretch[name] for stretch in stretches],
            share=rows / reference.height,
            distance=lambda one, other: _distance(one, other, settings).effect,
        )
        for name in names
    }
    limits = {name: _limit(sample[name], usual[name], settings) for name in names}
    flags = _flags(distances, limits, settings)
    return [
        ColumnDrift(
            name=name,
            role=role,
            kind="number" if reference[name].dtype.is_numeric() else "category",
            effect=_median([distance.effect for distance in distances[name]]),
            limit=limits[name],
            p_value=_median([distance.p_value for distance in distances[name]]),
            stability_index=_stability(sample[name].drop_nulls(), whole[name].drop_nulls(), settings),
            windows_flagged=sum(flags[name]),
            windows_judged=len(windows),
            shifted=bool(windows) and sum(flags[name]) >= min(settings.windows_needed, len(windows)),
            **_nulls(reference[name], current[name], usual[name], settings),
            **_unseen(reference[name], current[name], settings),
        )
        for name in names
    ]


def _window_bounds(current: pl.DataFrame, settings: DriftSettings) -> list[tuple[int, int]]:
    """Return where the windows begin and end: as many as asked for, or as have enough rows."""
    count = min(settings.windows, current.height // settings.minimum_rows)
    return list(pairwise(current.height * at // count for at in range(count + 1))) if count else []


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


def _limit(column: pl.Series, usual: Variation | None, settings: DriftSettings) -> float:
    """Return the effect from which a change of ``column`` is large, and larger than what is usual."""
    minimum = settings.minimum_ks if column.dtype.is_numeric() else settings.minimum_total_variation
    return max(minimum, settings.usual_factor * usual.effect) if usual else minimum


def _flags(
    distances: dict[str, list[Distance]], limits: dict[str, float], settings: DriftSettings
) -> dict[str, list[bool]]:
    """Return for each column, and each window, whether the change is significant among the family and large."""
    windows = [
        benjamini_hochberg([distance.p_value for distance in window], settings.false_discovery_rate)
        for window in zip(*distances.values(), strict=True)
    ]
    return {
        name: [
            rejected[at] and distance.effect > limits[name]
            for rejected, distance in zip(windows, distances[name], strict=True)
            if name not in settings.expected_to_change
        ]
        for at, name in enumerate(distances)
    }


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


def _nulls(
    reference: pl.Series, current: pl.Series, usual: Variation | None, settings: DriftSettings
) -> dict[str, Any]:
    before, now = (column.null_count() / len(column) if len(column) else 0.0 for column in (reference, current))
    lowest = min(before, usual.lowest_null_rate) if usual else before
    highest = max(before, usual.highest_null_rate) if usual else before
    # Without rows the share of nulls is unknown, not zero: the volume tells it.
    changed = len(current) > 0 and not lowest - settings.null_rate_change <= now <= highest + settings.null_rate_change
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
