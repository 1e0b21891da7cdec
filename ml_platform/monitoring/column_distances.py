"""Distances of the columns of some windows from one reference, corrected for the number of columns.

A column is compared with several references (all earlier rows, the last partition, the same season). Each of them is
a family of tests of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ml_platform.monitoring.distances import Distance, corrected_p_values, kolmogorov_smirnov, total_variation

# Name of the group of rare categories. The control character prevents a collision with a real category.
_OTHER = "\x00other"

_NOTHING_COMPARED = Distance(effect=0.0, p_value=1.0)


@dataclass(frozen=True)
class ReferenceDistances:
    """The distances of one column from one reference, one per window, with p-values corrected for all columns."""

    reference: str
    windows: Sequence[Distance]

    def flagged(self, limit: float, level: float) -> int:
        """Return the number of windows with a distance above ``limit`` and a p-value of at most ``level``."""
        return sum(window.effect > limit and window.p_value <= level for window in self.windows)

    def reached(self, windows: int) -> Distance | None:
        """Return the distance that at least ``windows`` windows reach, and the p-value that as many stay below.

        None without windows. With fewer windows than that, all must reach it.
        """
        if not self.windows:
            return None
        at = min(windows, len(self.windows)) - 1
        return Distance(
            effect=sorted((window.effect for window in self.windows), reverse=True)[at],
            p_value=sorted(window.p_value for window in self.windows)[at],
        )


def distances_from(
    name: str, reference: pl.DataFrame, windows: Sequence[pl.DataFrame], columns: Sequence[str], share: float
) -> dict[str, ReferenceDistances]:
    """Return for each of ``columns`` the distances of ``windows`` from the ``reference`` called ``name``.

    The p-values of a window are corrected over its columns (Benjamini and Hochberg). ``share`` is the smallest share
    of a category that is compared by itself; see :func:`column_distance`.
    """
    measured = {
        column: [column_distance(reference[column], each[column], share) for each in windows] for column in columns
    }
    corrected = [
        corrected_p_values([each.p_value for each in window]) for window in zip(*measured.values(), strict=True)
    ]
    return {
        column: ReferenceDistances(
            name, [Distance(each.effect, corrected[window][at]) for window, each in enumerate(measured[column])]
        )
        for at, column in enumerate(measured)
    }


def column_distance(reference: pl.Series, current: pl.Series, minimum_category_share: float) -> Distance:
    """Return the distance between two samples of one column; nulls are ignored, and without values it is 0.

    Numbers: the larger of two Kolmogorov-Smirnov distances, that of the values and that of their distances from the
    median of ``reference``. The second shows a change of scale, of which the first sees only half, because the values
    move in two directions. The p-value is doubled for the choice (Bonferroni).

    Categories: total variation. Those with a share of ``reference`` below ``minimum_category_share`` are one group.
    """
    reference, current = reference.drop_nulls(), current.drop_nulls()
    if reference.is_empty() or current.is_empty():
        return _NOTHING_COMPARED  # the check of the null rate reports a column that lost all values
    if not reference.dtype.is_numeric():
        return total_variation(*category_counts(reference, current, minimum_category_share))
    before, now = (side.to_numpy().astype(float) for side in (reference, current))
    median = float(np.median(before))
    found = max(
        (kolmogorov_smirnov(before, now), kolmogorov_smirnov(np.abs(before - median), np.abs(now - median))),
        key=lambda each: each.effect,
    )
    return Distance(found.effect, min(1.0, 2 * found.p_value))


def category_counts(
    reference: pl.Series, current: pl.Series, minimum_category_share: float
) -> tuple[list[int], list[int]]:
    """Return the counts of both samples over the same categories: the common ones of ``reference``, and the others."""
    shares = reference.value_counts(normalize=True, name="share")
    common = shares.filter(pl.col("share") >= minimum_category_share)[reference.name].to_list()
    counts = []
    for column in (reference, current):
        grouped = pl.select(pl.when(column.is_in(common)).then(column).otherwise(pl.lit(_OTHER)).alias("category"))
        rows_by_category: Mapping[str, int] = dict(grouped["category"].value_counts().iter_rows())
        counts.append([rows_by_category.get(category, 0) for category in [*common, _OTHER]])
    return counts[0], counts[1]
