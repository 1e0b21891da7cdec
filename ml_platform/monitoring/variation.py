"""Variation within the reference: how far its own past windows differ from the whole.

Rows of real weeks are not independent: one unusual week differs from its neighbours by far more than chance. A
significance test alone would therefore flag every week. The drift check compares a change with the past changes
between windows of the same length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

_MAX_ROWS_PER_WINDOW = 2_000
"""Rows sampled from each window. The largest of a dozen distances needs less precision than the drift test."""


@dataclass(frozen=True)
class Variation:
    """Largest distance of a past window of one column from the rest of the reference, and the range of null rates."""

    effect: float
    lowest_null_rate: float
    highest_null_rate: float


def reference_windows(reference: pl.DataFrame, rows: int, max_windows: int, seed: int) -> list[pl.DataFrame]:
    """Return samples of up to ``max_windows`` windows of ``rows`` consecutive rows, evenly spaced over ``reference``.

    ``reference`` is in order of time. The list is empty if ``reference`` has fewer than two such windows, because a
    single window leaves no rest to compare with.
    """
    window_count = min(max_windows, reference.height // rows) if rows else 0
    if window_count < 2:
        return []
    starts = [(reference.height - rows) * index // (window_count - 1) for index in range(window_count)]
    windows = (reference[start : start + rows] for start in starts)
    return [each.sample(_MAX_ROWS_PER_WINDOW, seed=seed) if rows > _MAX_ROWS_PER_WINDOW else each for each in windows]


def measure_variation(
    column: pl.Series,
    windows: Sequence[pl.Series],
    share: float,
    distance: Callable[[pl.Series, pl.Series], float],
) -> Variation | None:
    """Return the variation of ``windows`` around ``column``, the whole reference; None without windows.

    ``share`` is the share of the reference rows in one window. Each window is part of the reference, which reduces its
    distance by this share, because both distances in use are linear in the mixture. The division by ``1 - share``
    corrects this.
    """
    if not windows:
        return None
    rates = [window.null_count() / len(window) for window in windows]
    return Variation(max(distance(column, window) / (1 - share) for window in windows), min(rates), max(rates))
