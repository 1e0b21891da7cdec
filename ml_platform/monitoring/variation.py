"""How far the reference strays from itself: what a change must exceed before it is news.

Apart from `drift` because this is a fact about the reference alone. Rows of real weeks are not drawn alike: a stormy
week differs from the weeks around it by far more than chance, and a rule that knows only chance calls every week a
drift. The measure is the reference's own past, cut into windows as long as those that are judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

_ROWS_PER_WINDOW = 2_000
"""Rows sampled from each window: the largest of a dozen distances needs less precision than a verdict."""


@dataclass(frozen=True)
class Variation:
    """Of one column of the reference: the largest distance of a window from the rest, and the range of null rates."""

    effect: float
    lowest_null_rate: float
    highest_null_rate: float


def windows_of(reference: pl.DataFrame, rows: int, count: int, seed: int) -> list[pl.DataFrame]:
    """Return samples of up to ``count`` stretches of ``rows`` consecutive rows each, evenly spaced over ``reference``.

    ``reference`` is in the order of time. Where it does not hold two such stretches there are none: a single one has
    no rest to stray from.
    """
    held = min(count, reference.height // rows) if rows else 0
    if held < 2:
        return []
    starts = [(reference.height - rows) * at // (held - 1) for at in range(held)]
    stretches = (reference[start : start + rows] for start in starts)
    return [each.sample(_ROWS_PER_WINDOW, seed=seed) if rows > _ROWS_PER_WINDOW else each for each in stretches]


def variation(
    column: pl.Series,
    windows: Sequence[pl.Series],
    share: float,
    distance: Callable[[pl.Series, pl.Series], float],
) -> Variation | None:
    """Return how ``windows`` of a column stray from ``column``, all of the reference; None without windows.

    ``share`` is the part of the reference that one window is. Each window is part of what it is compared with, which
    shortens its distance by just this share (both distances in use are linear in the mixture): it is given back.
    """
    if not windows:
        return None
    rates = [window.null_count() / len(window) for window in windows]
    return Variation(max(distance(column, window) / (1 - share) for window in windows), min(rates), max(rates))
