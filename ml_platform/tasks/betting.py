"""Tests by betting: they hold however often one looks at the data, and at whatever time one stops.

A test bets against its null hypothesis. Its wealth is a supermartingale under the null, so the probability that it ever
reaches 1/error is at most ``error`` (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2023). A mean of wealths is a wealth again, so several bets are one test.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BETS = np.array([0.02, 0.1, 0.3, 0.6, 0.9])
"""Stakes of the bets as shares of the largest stake; small stakes find small differences, large ones find them soon."""


def no_wealth(tests: int) -> Array:
    """Return the logarithms of the wealths before the first observation, shape (tests, bets)."""
    return np.zeros((tests, len(BETS)))


def bet_on(log_wealth: Array, gains: Array, largest_loss: float) -> Array:
    """Return the logarithms of the wealths after further ``gains``, shape (tests, bets).

    ``gains`` (observations, tests) have a mean of at most 0 under the null and are at least -``largest_loss``.
    """
    stakes = BETS / largest_loss
    return np.asarray(log_wealth + np.log1p(gains[:, :, np.newaxis] * stakes).sum(axis=0))


def evidence(log_wealth: Array) -> float:
    """Return the mean wealth of all tests and bets: the e-value, 1 before the first observation."""
    # A wealth of more than 1e300 decides as 1e300 does.
    return float(np.exp(np.minimum(log_wealth, 690.0)).mean())
