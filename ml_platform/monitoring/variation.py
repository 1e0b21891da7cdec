"""Variation within the reference: how far one stretch of it usually differs from the stretch just before.

Rows of real weeks are not independent: one unusual week differs from its neighbours by far more than chance. A
significance test alone would therefore flag every week. The drift check compares a change with the usual change
between neighbouring stretches of the same length.

Neighbours, and their median, because neither a trend nor an outage may raise what counts as usual. The distance of a
stretch from the whole history grows with a trend and with the length of the history, and the largest distance of all
is that of the outage.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import polars as pl

from ml_platform.monitoring.distances import Distance

_MAX_ROWS_PER_WINDOW = 2_000
"""Rows sampled from each window. The median of a dozen distances needs less precision than the drift test."""

_NULL_RATE_QUANTILES = (0.2, 0.8)
"""Bounds of the usual null rates: an outage of less than a fifth of the windows does not widen them."""


@dataclass(frozen=True)
class WindowPair:
    """Two neighbouring windows of the reference, the earlier one first."""

    before: pl.DataFrame
    after: pl.DataFrame


@dataclass(frozen=True)
class Variation:
    """Usual distance between neighbouring windows of one column, and the range of its usual null rates."""

    effect: float
    lowest_null_rate: float
    highest_null_rate: float


def reference_windows(reference: pl.DataFrame, rows: int, max_pairs: int, seed: int) -> list[WindowPair]:
    """Return samples of up to ``max_pairs`` pairs of neighbouring windows, evenly spaced over ``reference``.

    Each window has ``rows`` consecutive rows, and ``reference`` is in order of time. The list is empty if ``reference``
    has fewer than two such windows. The windows of a pair always adjoin: a longer history gives more pairs, and not
    pairs of windows further apart.
    """
    pair_count = min(max_pairs, reference.height // rows - 1) if rows else 0
    if pair_count < 1:
        return []
    last = reference.height - 2 * rows
    starts = [last * index // max(pair_count - 1, 1) for index in range(pair_count)]
    return [
        WindowPair(
            _sampled(reference[start : start + rows], seed), _sampled(reference[start + rows : start + 2 * rows], seed)
        )
        for start in starts
    ]


def measure_variation(
    name: str,
    pairs: Sequence[WindowPair],
    level: float,
    distance: Callable[[pl.Series, pl.Series], Distance],
) -> Variation | None:
    """Return the variation of the column ``name`` between the windows of ``pairs``; None without pairs.

    The distance of a pair whose p-value exceeds ``level`` counts as 0: small windows differ by chance.
    """
    if not pairs:
        return None
    measured = [distance(pair.before[name], pair.after[name]) for pair in pairs]
    windows = [window[name] for pair in pairs for window in (pair.before, pair.after)]
    rates = pl.Series([window.null_count() / window.len() for window in windows])
    lowest, highest = (float(rates.quantile(at, "nearest") or 0.0) for at in _NULL_RATE_QUANTILES)
    return Variation(median(each.effect if each.p_value <= level else 0.0 for each in measured), lowest, highest)


def _sampled(window: pl.DataFrame, seed: int) -> pl.DataFrame:
    return window.sample(_MAX_ROWS_PER_WINDOW, seed=seed) if window.height > _MAX_ROWS_PER_WINDOW else window
