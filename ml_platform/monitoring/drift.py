"""Drift: compares the rows that a model scores now with the rows on which it was trained.

A column shifts when its change is significant, large, larger than the past changes of the reference, and repeated over
time. Each condition alone raises false alarms: with many rows every p-value is small, with few rows every distance is
large, and no two weeks of a real process are alike. Null rates, unseen categories and volume have their own checks,
because the distribution of the non-null values does not show them.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.pii import shown
from ml_platform.data.settings import Settings
from ml_platform.monitoring.column_distances import (
    ReferenceDistances,
    category_counts,
    column_distance,
    distances_from,
)
from ml_platform.monitoring.distances import (
    bin_counts,
    excess_p_value,
    population_stability,
    quantile_edges,
    smallest_significant,
    total_variation,
)
from ml_platform.monitoring.drift_input import comparable_tables, require_known_features
from ml_platform.monitoring.drift_report import (
    EARLIER_ROWS,
    LAST_PARTITION,
    ColumnDrift,
    DriftReport,
)
from ml_platform.monitoring.drift_rows import Totals
from ml_platform.monitoring.variation import Variation, measure_variation, reference_windows

_SHARE_TESTS_PART = 0.1
"""Part of the false discovery rate for nulls, and again for unseen categories: all false alarms stay near the rate."""

LARGEST_USUAL_LIMIT = 0.95
"""Largest limit that follows from usual changes. Distances end at 1, so a higher one would hide disjoint data."""


class DriftSettings(Settings):
    """When a column counts as drifted."""

    false_discovery_rate: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="False discovery rate (q): share of false alarms among the columns flagged in a window.",
    )
    minimum_ks: float = Field(
        default=0.1, ge=0, le=1, description="Numbers: Kolmogorov-Smirnov distance above which a change is large."
    )
    minimum_total_variation: float = Field(
        default=0.1, ge=0, le=1, description="Categories: total variation distance above which a change is large."
    )
    usual_factor: float = Field(
        default=2.0,
        ge=0,
        description="A change must exceed this multiple of the usual distance between neighbouring stretches of the "
        "reference (their median); 0: only the minima apply.",
    )
    reference_partitions: int = Field(
        default=12,
        ge=1,
        description="Number of partitions before the current one that the current rows are compared with.",
    )
    season_days: list[float] = Field(
        default=[7, 365],
        description="Lengths of the seasons (days). The partitions that lie so long before the current one are "
        "references of their own, so that a recurring change is not drift.",
    )
    usual_windows: int = Field(
        default=12,
        ge=1,
        description="Number of pairs of neighbouring stretches of the reference from which the usual distance is "
        "measured.",
    )
    windows: int = Field(
        default=3, ge=1, description="Number of consecutive windows into which the current rows are divided."
    )
    windows_needed: int = Field(
        default=2, ge=1, description="Number of flagged windows from which a column counts as shifted."
    )
    minimum_rows: int = Field(
        default=500,
        ge=2,
        description="Rows that the reference and each window need; with fewer current rows there are fewer windows.",
    )
    sample_rows: int = Field(default=10_000, ge=2, description="Rows sampled from the reference and from each window.")
    read_rows: int = Field(
        default=500_000,
        ge=2,
        description="Rows that are read at most, of all partitions together. Of more rows, a sample of this size is "
        "compared; volume and shares of nulls stay those of all rows.",
    )
    seed: int = Field(default=0, description="Seed of the sampling.")
    bins: int = Field(
        default=10, ge=2, description="Number of quantile bins of the reference for the population stability index."
    )
    minimum_category_share: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Categories with a smaller share of the reference are compared as one group.",
    )
    null_rate_change: float = Field(
        default=0.05, ge=0, le=1, description="Largest accepted change of a column's share of nulls."
    )
    unseen_share: float = Field(
        default=0.02, ge=0, le=1, description="Largest accepted share of rows with a category that the reference lacks."
    )
    volume_factor: float = Field(
        default=2.0, gt=1, description="Largest accepted ratio between current and expected rows, in either direction."
    )
    expected_to_change: list[str] = Field(
        default_factory=list,
        description="Features that follow the calendar. Their shift is measured and shown, but never flagged.",
    )

    @model_validator(mode="after")
    def _has_windows_needed(self) -> "DriftSettings":
        if self.windows_needed > self.windows:
            raise ValueError(f"windows_needed ({self.windows_needed}) must not exceed windows ({self.windows})")
        return self


def measure_drift(
    reference: pl.DataFrame,
    current: pl.DataFrame,
    *,
    features: Sequence[str],
    settings: DriftSettings,
    scores: Sequence[str] = (),
    time: str | None = None,
    expected_rows: float | None = None,
    pii_columns: Collection[str] = (),
    further_references: Mapping[str, pl.DataFrame] | None = None,
    reference_totals: Totals | None = None,
    current_totals: Totals | None = None,
) -> DriftReport:
    """Compare ``current`` with ``reference`` column by column.

    ``reference`` contains the rows on which the model was trained, ``current`` the rows that it scored since. Both have
    the columns ``features`` and ``scores``. Reference rows with a null score count only for the features: the
    scores of rows on which a model was fitted are not comparable. ``current`` is divided into ``settings.windows``
    windows of equal row counts, in the order of ``time``; without ``time``, in the order of the table.

    A feature is compared with ``reference`` and with each of the ``further_references`` by name, for example the last
    partition and the same season. A reference of fewer than ``settings.minimum_rows`` rows does not count. A column
    shifted when it is far from all of them; the report names the nearest one. It moved gradually when it is far from
    all but :data:`~ml_platform.monitoring.drift_report.LAST_PARTITION`. A column is far from a reference when at least
    ``settings.windows_needed`` windows flag it. A window flags a column when both hold:

    - Its p-value is at most ``settings.false_discovery_rate``, after the correction of Benjamini and Hochberg. The
      features are one family of tests and the scores are another.
    - Its effect exceeds its limit. The limit is the larger of the minimum and ``settings.usual_factor`` times the
      usual distance: the median over ``settings.usual_windows`` pairs of neighbouring stretches of the reference, each
      as long as a window. The second value is at most :data:`LARGEST_USUAL_LIMIT`.

    A null rate changed when it left the usual range of those stretches by more than ``settings.null_rate_change``,
    and significantly. Unseen categories appeared when their share exceeds ``settings.unseen_share`` and, significantly,
    the share that the rare categories of the reference let expect (I. J. Good, 1953: its share of rows whose category
    occurs once).

    A column that did not drift is ``not_judged``, with a reason, when no plausible change could have been found: it has
    no values on one side, too few, or changes as much all the time.

    Kolmogorov-Smirnov compares numbers, their values and their distances from the median. Total variation over the
    reference categories compares booleans and strings. NaN counts as null, and the distances ignore nulls. The
    report shows no category of ``pii_columns``. ``expected_rows`` is the usual number of rows of such a
    period; without it the volume is not checked. With fewer current rows than ``settings.minimum_rows`` no window is
    evaluated, and with fewer reference rows no column. The report then has ``windows_evaluated`` 0 and, unless another
    check fails, the decision ``not evaluated``.

    ``reference`` and ``current`` may be samples, each drawn evenly over time, of the rows that ``reference_totals`` and
    ``current_totals`` count. Volume and shares of nulls are then those of all rows.

    Raises :class:`~ml_platform.monitoring.drift_input.DriftInputError` when there is no column to compare, or a column
    is missing on either side. Raises it too when a column has different kinds on the two sides, contains neither
    numbers nor categories, or when ``settings.expected_to_change`` names an unknown feature.
    """
    columns = [*scores, *features]
    require_known_features(settings.expected_to_change, features)
    reference, current = comparable_tables(reference, current, columns, time)
    totals = reference_totals or Totals(reference.height), current_totals or Totals(current.height)
    scored = reference.drop_nulls(list(scores)) if scores else reference.clear()
    # Only the sampled rows have scores; their number in all rows follows from the share of the sample.
    all_scored = round(scored.height * totals[0].rows / max(reference.height, 1))
    scored_totals = Totals(all_scored), Totals(totals[1].rows)
    further = {
        name: comparable_tables(reference, rows, list(features), time)[1]
        for name, rows in (further_references or {}).items()
        if settings.minimum_rows <= rows.height < reference.height
    }
    columns_found = [
        *_describe_columns(
            "score", {EARLIER_ROWS: scored}, current, list(scores), settings, pii_columns, scored_totals
        ),
        *_describe_columns(
            "feature", {EARLIER_ROWS: reference, **further}, current, list(features), settings, pii_columns, totals
        ),
    ]
    return DriftReport(
        columns=sorted(columns_found, key=_sort_key),
        rows_reference=totals[0].rows,
        rows_current=totals[1].rows,
        compared_reference=reference.height,
        compared_current=current.height,
        expected_rows=expected_rows,
        volume_changed=_volume_changed(totals[1].rows, expected_rows, settings),
        windows_evaluated=len(_window_bounds(current, settings)) if columns_found else 0,
    )


def _sort_key(column: ColumnDrift) -> tuple[bool, bool, float, str]:
    return column.role != "score", not column.drifted, -(column.effect or 0.0) / max(column.limit, 1e-9), column.name


def _describe_columns(
    role: Literal["score", "feature"],
    references: Mapping[str, pl.DataFrame],
    current: pl.DataFrame,
    names: list[str],
    settings: DriftSettings,
    pii_columns: Collection[str],
    totals: tuple[Totals, Totals],
) -> list[ColumnDrift]:
    """Describe the columns of one family of tests; return no column when the reference has too few rows.

    ``totals`` are those of all reference rows and of all current rows, of which both tables may be samples.
    """
    reference, share = references[EARLIER_ROWS], settings.minimum_category_share
    if reference.height < settings.minimum_rows or not names:
        return []
    samples = {name: _sampled(rows, settings) for name, rows in references.items()}
    sample, whole = samples[EARLIER_ROWS], _sampled(current, settings)
    bounds = _window_bounds(current, settings)
    windows = [_sampled(current[start:stop], settings) for start, stop in bounds]
    rows = _stretch_rows(reference, bounds, totals, settings)
    pairs = reference_windows(reference, rows, settings.usual_windows, settings.seed)
    distances = [distances_from(name, rows, windows, names, share) for name, rows in samples.items()]
    level = settings.false_discovery_rate
    share_level = _SHARE_TESTS_PART * level / len(names)
    found = []
    for name in names:
        usual = measure_variation(name, pairs, level, lambda one, other: column_distance(one, other, share))
        found.append(
            ColumnDrift(
                name=name,
                role=role,
                kind="number" if reference[name].dtype.is_numeric() else "category",
                stability_index=_stability_index(sample[name].drop_nulls(), whole[name].drop_nulls(), settings),
                windows_evaluated=len(windows),
                not_judged=_why_not_judged(
                    sample[name], [window[name] for window in windows], usual, len(names), settings
                ),
                **_shift_findings(
                    [each[name] for each in distances], _effect_limit(sample[name], usual, settings), name, settings
                ),
                **_null_rate_findings(
                    _null_counts(reference[name], totals[0]),
                    _null_counts(current[name], totals[1]),
                    usual,
                    share_level,
                    settings,
                ),
                **_category_findings(reference[name], current[name], share_level, settings, pii_columns),
            )
        )
    return found


def _shift_findings(
    distances: Sequence[ReferenceDistances], limit: float, name: str, settings: DriftSettings
) -> dict[str, Any]:
    """Return whether the column is far from all references, and its distance from the nearest one."""
    needed = min(settings.windows_needed, len(distances[0].windows))
    flags = {each.reference: each.flagged(limit, settings.false_discovery_rate) for each in distances}
    reached_by = {each.reference: each.reached(settings.windows_needed) for each in distances}

    def nearness(reference: str) -> tuple[int, float]:
        found = reached_by[reference]
        return flags[reference], found.effect if found else 0.0

    nearest = min(flags, key=nearness)
    reached, is_expected = reached_by[nearest], name in settings.expected_to_change
    far = {reference for reference, count in flags.items() if count >= needed}
    flagged = needed > 0 and not is_expected
    others = flags.keys() - {LAST_PARTITION}
    return {
        "effect": reached.effect if reached else None,
        "limit": limit,
        "p_value": reached.p_value if reached else None,
        "reference": nearest,
        "windows_flagged": 0 if is_expected else flags[nearest],
        "shifted": flagged and len(far) == len(distances),
        "gradual": flagged and far == others and len(others) < len(distances),
    }


def _window_bounds(current: pl.DataFrame, settings: DriftSettings) -> list[tuple[int, int]]:
    """Return start and end row of each window: ``settings.windows``, or fewer so that each has enough rows."""
    count = min(settings.windows, current.height // settings.minimum_rows)
    return list(pairwise(current.height * at // count for at in range(count + 1))) if count else []


def _stretch_rows(
    reference: pl.DataFrame, bounds: Sequence[tuple[int, int]], totals: tuple[Totals, Totals], settings: DriftSettings
) -> int:
    """Return the rows of a stretch of ``reference`` that is as long as a window; 0: usual changes do not count.

    A sample has fewer rows in the same time, but a stretch of few rows would differ from the next one by chance.
    """
    if not bounds or not settings.usual_factor:
        return 0
    rows, share = totals[1].rows // len(bounds), reference.height / max(totals[0].rows, 1)
    return rows if share >= 1 else max(round(rows * share), min(rows, settings.minimum_rows))


def _sampled(frame: pl.DataFrame, settings: DriftSettings) -> pl.DataFrame:
    return frame.sample(settings.sample_rows, seed=settings.seed) if frame.height > settings.sample_rows else frame


def _effect_limit(column: pl.Series, usual: Variation | None, settings: DriftSettings) -> float:
    """Return the effect above which a change of ``column`` is large, and larger than its usual changes."""
    minimum = settings.minimum_ks if column.dtype.is_numeric() else settings.minimum_total_variation
    return max(minimum, min(settings.usual_factor * usual.effect, LARGEST_USUAL_LIMIT)) if usual else minimum


def _why_not_judged(
    reference: pl.Series,
    windows: Sequence[pl.Series],
    usual: Variation | None,
    tests: int,
    settings: DriftSettings,
) -> str | None:
    """Return why no plausible change of the column could have been found; None when one could."""
    if not windows:
        return "too few rows"
    values_before = reference.len() - reference.null_count()
    values_now = sorted(window.len() - window.null_count() for window in windows)[len(windows) // 2]
    if not values_before or not values_now:
        return "no values in the earlier rows" if not values_before else "no values in the new rows"
    if smallest_significant(values_before, values_now, settings.false_discovery_rate / tests) > LARGEST_USUAL_LIMIT:
        return f"too few values: {values_before} in the earlier rows, {values_now} in a window of the new rows"
    if usual and settings.usual_factor * usual.effect >= LARGEST_USUAL_LIMIT:
        return f"it changes all the time: the usual distance between neighbouring stretches is {usual.effect:.2f}"
    return None


def _stability_index(reference: pl.Series, current: pl.Series, settings: DriftSettings) -> float | None:
    if reference.is_empty() or current.is_empty():
        return None
    if not reference.dtype.is_numeric():
        return population_stability(*category_counts(reference, current, settings.minimum_category_share))
    edges = quantile_edges(reference.to_numpy(), settings.bins)
    return population_stability(bin_counts(reference.to_numpy(), edges), bin_counts(current.to_numpy(), edges))


def _null_counts(column: pl.Series, totals: Totals) -> tuple[int, int]:
    """Return the numbers of nulls and of values of a column: in all rows if they were counted, else in these."""
    if column.name in totals.nulls:
        nulls = totals.nulls[column.name]
        return nulls, totals.rows - nulls
    return column.null_count(), len(column) - column.null_count()


def _null_rate_findings(
    reference: tuple[int, int],
    current: tuple[int, int],
    usual: Variation | None,
    level: float,
    settings: DriftSettings,
) -> dict[str, Any]:
    before, now = (counts[0] / sum(counts) if sum(counts) else 0.0 for counts in (reference, current))
    lowest = min(before, usual.lowest_null_rate) if usual else before
    highest = max(before, usual.highest_null_rate) if usual else before
    # Without rows the share of nulls is unknown, not zero. The check of the volume reports missing rows.
    left = sum(current) > 0 and not lowest - settings.null_rate_change <= now <= highest + settings.null_rate_change
    changed = left and total_variation(list(reference), list(current)).p_value <= level
    return {"null_rate_reference": before, "null_rate_current": now, "nulls_changed": changed}


def _category_findings(
    reference: pl.Series,
    current: pl.Series,
    level: float,
    settings: DriftSettings,
    pii_columns: Collection[str],
) -> dict[str, Any]:
    present = current.drop_nulls()
    if reference.dtype.is_numeric() or present.is_empty():
        return {"unseen_share": 0.0, "unseen_examples": [], "unseen_appeared": False}
    known = reference.drop_nulls().value_counts(name="rows")
    unseen = present.filter(~present.is_in(known[reference.name].to_list()))
    share = len(unseen) / len(present)
    # One more than the number of categories that occur once: an estimate from few rows should not be zero.
    expected = (known.filter(pl.col("rows") == 1).height + 1) / max(1, reference.len() - reference.null_count())
    appeared = share > expected + settings.unseen_share and excess_p_value(len(unseen), len(present), expected) <= level
    examples = [shown(value, current.name, pii_columns) for value in unseen.unique().sort().head(5).to_list()]
    return {"unseen_share": share, "unseen_examples": examples, "unseen_appeared": appeared}


def _volume_changed(rows: int, expected_rows: float | None, settings: DriftSettings) -> bool:
    if expected_rows is None:
        return False
    return rows > expected_rows * settings.volume_factor or rows * settings.volume_factor < expected_rows
