"""How far a value lies from the usual one: the median of earlier values, and a spread that an outlier does not move."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SCALE_TO_SIGMA = 1.4826
"""Ratio of the standard deviation to the median absolute deviation of a normal distribution."""

SMALL_SAMPLE = 4.0
"""Growth of the factor with few values, whose spread is often measured too small (benchmarks/landing_quality.py)."""


@dataclass(frozen=True)
class Usual:
    """The median of ``count`` earlier values, and their spread as a standard deviation."""

    center: float
    spread: float
    count: int

    def is_far(self, value: float, factor: float, sampling: float = 0.0) -> bool:
        """Return whether ``value`` is farther away than ``factor`` spreads, with the standard error ``sampling``.

        The factor grows as the number of earlier values falls.
        """
        return abs(value - self.center) > self.reach(factor, sampling)

    def reach(self, factor: float, sampling: float = 0.0) -> float:
        """Return the distance up to which a value is usual.

        The spread of earlier values contains their sampling errors, so that of the value is a lower bound only.
        """
        # The median itself has an error, with a variance of π/2 of that of a mean.
        sampling *= float(np.sqrt(1 + np.pi / 2 / self.count))
        return float(factor * max((1 + SMALL_SAMPLE / self.count) * self.spread, sampling))


def usual_of(values: Sequence[float]) -> Usual:
    """Return the median of ``values`` and their scaled median absolute deviation; they must not be empty.

    >>> usual_of([10, 11, 9, 10, 500]).center
    10.0
    """
    found = np.asarray(values, float)
    center = float(np.median(found))
    return Usual(center, SCALE_TO_SIGMA * float(np.median(np.abs(found - center))), len(found))


def share_error(shares: Sequence[float], rows: int) -> float:
    """Return the standard error of a share among ``rows`` rows whose usual values are ``shares``; it is above 0.

    The mean of the usual shares counts: where values are rare, the median of small tables is 0. Source: A. Agresti and
    B. A. Coull (1998), Approximate is better than "exact" for interval estimation of binomial proportions.

    >>> round(share_error([0.0], 98), 4)
    0.0099
    """
    moved = (float(np.mean(shares)) * rows + 1) / (rows + 2)
    return float(np.sqrt(moved * (1 - moved) / (rows + 2)))
