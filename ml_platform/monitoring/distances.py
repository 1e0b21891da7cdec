"""How far two samples of one column lie apart: Kolmogorov-Smirnov, total variation, population stability; with tests.

Apart from `drift` because these are statistics of two arrays, without settings, thresholds or opinions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Keeps a bin that is empty on one side from making the population stability index infinite.
_SMALLEST_SHARE = 1e-4

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


@dataclass(frozen=True)
class Distance:
    """Of one column: the effect size (0 equal, 1 disjoint) and the probability of one as large without any change."""

    effect: float
    p_value: float


def kolmogorov_smirnov(reference: ArrayLike, current: ArrayLike) -> Distance:
    """Return the largest gap D between the two empirical distribution functions, with its two-sided p-value.

    Both arrays are numeric, without nulls, and not empty. Ties are counted on both sides before the gap is taken, so
    that discrete values are compared correctly. The p-value is that of Kolmogorov's limit distribution: for fewer than
    some hundred rows, or with ties, it is conservative (too large).
    Source: N. V. Smirnov (1948), Table for estimating the goodness of fit of empirical distributions.

    >>> kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6]).effect
    0.5
    """
    from scipy.special import kolmogorov  # scipy.stats would do the same and costs a second to import

    first, second = np.sort(np.asarray(reference, float)), np.sort(np.asarray(current, float))
    fewer, more = sorted((first, second), key=len)
    # Between two values of one side its share stands still while the other's only grows, so that the gap is widest at
    # one of them or just below it: the larger side need not be walked.
    shares = [[np.searchsorted(values, fewer, side=at) / len(values) for values in (fewer, more)] for at in _SIDES]
    effect = float(max(np.abs(of_fewer - of_more).max() for of_fewer, of_more in shares))
    effective_rows = len(first) * len(second) / (len(first) + len(second))
    return Distance(effect=effect, p_value=float(kolmogorov(np.sqrt(effective_rows) * effect)))


def total_variation(reference_counts: ArrayLike, current_counts: ArrayLike) -> Distance:
    """Return half the summed difference of shares, with the p-value of Pearson's chi-squared test of homogeneity.

    Both are counts over the same categories; a category counted on neither side is left out. With one category left
    there is nothing to compare: effect 0, p-value 1.

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

    By custom, below 0.1 is steady and above 0.25 is a shift. Empty bins count as a share of 0.0001.
    Source: N. Siddiqi (2006), Credit Risk Scorecards.
    """
    reference, current = (
        np.maximum(np.asarray(counts, float) / np.sum(counts), _SMALLEST_SHARE)
        for counts in (reference_counts, current_counts)
    )
    return float(np.sum((current - reference) * np.log(current / reference)))


def quantile_edges(reference: ArrayLike, bins: int) -> NDArray[np.float64]:
    """Return the inner edges (at most ``bins`` - 1, strictly increasing) that cut the reference into equal shares.

    Equal-width bins are blind to heavy tails: one far value puts all others into the first bin. Repeated quantiles of
    a discrete column become one edge.
    """
    inner = np.quantile(np.asarray(reference, float), np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
    return np.unique(inner)


def bin_counts(values: ArrayLike, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many values lie in each of the ``len(edges) + 1`` bins; an edge belongs to the bin on its left."""
    return np.bincount(np.searchsorted(edges, np.asarray(values, float), side="left"), minlength=len(edges) + 1)


def benjamini_hochberg(p_values: Sequence[float], q: float) -> list[bool]:
    """Return which hypotheses to reject so that at most a share ``q`` of the rejections is false, in expectation.

    Source: Y. Benjamini, Y. Hochberg (1995), Controlling the False Discovery Rate.

    >>> benjamini_hochberg([0.001, 0.5, 0.012], q=0.05)
    [True, False, True]
    """
    order = np.argsort(p_values, kind="stable")
    ranked = np.asarray(p_values, float)[order]
    below = np.flatnonzero(ranked * len(ranked) <= q * np.arange(1, len(ranked) + 1))
    rejected = np.zeros(len(ranked), bool)
    if len(below):
        rejected[order[: below[-1] + 1]] = True
    return [bool(one) for one in rejected]
