"""Distances between two samples of one column, with significance tests.

The functions take arrays and know no settings and no thresholds: the module `drift` applies those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Without a lower bound, a bin that is empty on one side makes the population stability index infinite.
_SMALLEST_SHARE = 1e-4

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


@dataclass(frozen=True)
class Distance:
    """The distance between two samples (0: equal, 1: disjoint) and its p-value.

    The p-value is the probability of a distance at least as large between two samples of one distribution.
    """

    effect: float
    p_value: float


def kolmogorov_smirnov(reference: ArrayLike, current: ArrayLike) -> Distance:
    """Return the largest gap D between the two empirical distribution functions, with its two-sided p-value.

    Both arrays are numeric, not empty and without nulls. Both sides count ties before the gap is measured, so discrete
    values are compared correctly. The p-value comes from Kolmogorov's limit distribution. It is too large
    (conservative) with ties, and with fewer than some hundred rows.
    Source: N. V. Smirnov (1948), Table for estimating the goodness of fit of empirical distributions.

    >>> kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6]).effect
    0.5
    """
    # Written here because a drift check measures thousands of distances and scipy.stats.ks_2samp takes 5 to 17 times
    # as long, for the same distance (benchmarks/statistics_libraries.py).
    from scipy.special import kolmogorov

    first, second = np.sort(np.asarray(reference, float)), np.sort(np.asarray(current, float))
    fewer, more = sorted((first, second), key=len)
    # Between two neighbouring values of the smaller side, its share is constant and the other share only grows. The
    # gap is therefore widest at a value of the smaller side, or just below one.
    shares = [[np.searchsorted(values, fewer, side=at) / len(values) for values in (fewer, more)] for at in _SIDES]
    effect = float(max(np.abs(of_fewer - of_more).max() for of_fewer, of_more in shares))
    effective_rows = len(first) * len(second) / (len(first) + len(second))
    return Distance(effect=effect, p_value=float(kolmogorov(np.sqrt(effective_rows) * effect)))


def smallest_significant(reference_rows: int, current_rows: int, p_value: float) -> float:
    """Return the smallest Kolmogorov-Smirnov distance of two samples of these sizes with at most this ``p_value``.

    The result may exceed 1: then no change is significant, however large. The sizes are positive.

    >>> round(smallest_significant(10_000, 500, 0.01), 3)
    0.075
    """
    from scipy.special import kolmogi

    effective_rows = reference_rows * current_rows / (reference_rows + current_rows)
    return float(kolmogi(p_value) / np.sqrt(effective_rows))


def total_variation(reference_counts: ArrayLike, current_counts: ArrayLike) -> Distance:
    """Return half the summed difference of shares, with the p-value of Pearson's chi-squared test of homogeneity.

    Both arguments are counts over the same categories. A category without a count on either side is ignored. With
    fewer than two categories left, the effect is 0 and the p-value 1.

    >>> total_variation([50, 50], [75, 25]).effect
    0.25
    """
    from scipy.special import chdtrc

    table = np.array([reference_counts, current_counts], float)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return Distance(effect=0.0, p_value=1.0)
    rows = table.sum(axis=1, keepdims=True)
    effect = float(np.abs(np.diff(table / rows, axis=0)).sum() / 2)
    expected = rows * table.sum(axis=0) / table.sum()
    chi_squared = float(((table - expected) ** 2 / expected).sum())
    return Distance(effect=effect, p_value=float(chdtrc(table.shape[1] - 1, chi_squared)))


def population_stability(reference_counts: ArrayLike, current_counts: ArrayLike) -> float:
    """Return the population stability index over the same bins: Σ (c - r) · ln(c / r) of the shares.

    By convention, an index below 0.1 means no change and an index above 0.25 means a shift. An empty bin counts as a
    share of 0.0001.
    Source: N. Siddiqi (2006), Credit Risk Scorecards.
    """
    reference, current = (
        np.maximum(np.asarray(counts, float) / np.sum(counts), _SMALLEST_SHARE)
        for counts in (reference_counts, current_counts)
    )
    return float(np.sum((current - reference) * np.log(current / reference)))


def quantile_edges(reference: ArrayLike, bins: int) -> NDArray[np.float64]:
    """Return the inner edges (at most ``bins`` - 1, strictly increasing) that cut the reference into equal shares.

    Bins of equal width fail on heavy tails: one extreme value puts all other values into the first bin. Repeated
    quantiles of a discrete column become one edge.
    """
    inner = np.quantile(np.asarray(reference, float), np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
    return np.unique(inner)


def bin_counts(values: ArrayLike, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the number of values in each of the ``len(edges) + 1`` bins; an edge belongs to the bin on its left."""
    return np.bincount(np.searchsorted(edges, np.asarray(values, float), side="left"), minlength=len(edges) + 1)


def corrected_p_values(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number: a hypothesis whose result is at most ``q`` is rejected at it.

    The expected share of false rejections among all rejections is then at most ``q``, for independent or positively
    dependent tests. No p-values give an empty list.
    Source: Y. Benjamini, Y. Hochberg (1995), Controlling the False Discovery Rate.

    >>> corrected_p_values([0.125, 1.0, 0.5])
    [0.375, 1.0, 0.75]
    """
    from scipy.stats import false_discovery_control  # a slow import, already done where LightGBM is loaded

    return [float(value) for value in false_discovery_control(p_values)] if len(p_values) else []


def benjamini_hochberg(p_values: Sequence[float], q: float) -> list[bool]:
    """Return for each hypothesis whether to reject it, at a false discovery rate of ``q``.

    >>> benjamini_hochberg([0.001, 0.5, 0.012], q=0.05)
    [True, False, True]
    """
    return [corrected <= q for corrected in corrected_p_values(p_values)]


def excess_p_value(found: int, rows: int, share: float) -> float:
    """Return the probability of at least ``found`` among ``rows`` independent rows that each count with ``share``."""
    from scipy.special import bdtrc

    return float(bdtrc(found - 1, rows, min(max(share, 0.0), 1.0))) if found else 1.0
