"""Standard errors when consecutive blocks are alike: the variance of a mean of autocorrelated blocks.

Unusual days come together, so a window holds fewer independent days than it has. An interval that takes its days
as independent covers 75 % instead of 95 % at a lag-1 autocorrelation of 0.5 (`benchmarks/interval_coverage.py`).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ml_platform.tasks.metrics import Array

MAX_AUTOCORRELATION = 0.7
"""Larger estimates from few blocks are mostly noise and make intervals useless."""

BIAS_CORRECTION = 4.0
"""Multiple of the correction of Kendall (1954): a low estimate costs more coverage than a high one costs width."""

LEAST_INFLATION = 0.25
"""Blocks that alternate in time are no evidence of more than four times as many blocks."""


@dataclass(frozen=True)
class Dependence:
    """Variance of a mean relative to that of independent blocks, and the degrees of freedom of its estimate."""

    inflation: float
    degrees_of_freedom: float


def serial_dependence(influence: Array, *, ordered: bool) -> Dependence:
    """Return the dependence of the block values ``influence``, of shape (blocks,); ``ordered`` when in order of time.

    Blocks without an order, for example customers, are taken as independent, and so are blocks without variance.

    The equal-weighted cosine estimator takes any form of dependence that fades; its Student's t has one degree of
    freedom per cosine (Lazarus, Lewis, Stock and Watson 2018, HAR inference: recommendations for practice). Its bias
    in short series is that of a first-order autoregression (Andrews and Monahan 1992, An improved heteroskedasticity
    and autocorrelation consistent covariance matrix estimator), whose autocorrelation is corrected for its own bias
    (Kendall 1954, Note on bias in the estimation of autocorrelation).
    """
    blocks = len(influence)
    centred = influence - influence.mean()
    squares = float(centred @ centred)
    if not ordered or blocks < 3 or squares <= 1e-24 * max(1.0, float(influence @ influence)):
        return Dependence(1.0, blocks - 1)
    coefficients = cosines(blocks) @ centred
    correlation = float(centred[1:] @ centred[:-1]) / squares
    correlation += BIAS_CORRECTION * (1 + 3 * correlation) / blocks
    correlation = min(max(correlation, 0.0), MAX_AUTOCORRELATION)
    variance = float(np.mean(np.square(coefficients))) * _variance_by_cosines(blocks, correlation)
    return Dependence(max(LEAST_INFLATION, variance / (squares / (blocks - 1))), len(coefficients))


@cache
def cosines(blocks: int) -> Array:
    """Return the orthonormal cosines of the estimator, shape (degrees of freedom, blocks).

    There are 0.4 blocks^(2/3) of them, and in shorter series up to 8, one for every three blocks. More cosines make
    narrower intervals and miss more of the dependence. The array must not be changed.
    """
    count = max(min(blocks - 1, 4), min(blocks // 3, 8), round(0.4 * blocks ** (2 / 3)))
    moment = (np.arange(blocks) + 0.5) / blocks
    found = np.sqrt(2 / blocks) * np.cos(np.pi * np.outer(np.arange(1, count + 1), moment))
    found.flags.writeable = False
    return np.asarray(found)


def _variance_by_cosines(blocks: int, correlation: float) -> float:
    """Return the variance of the sum, per block, by the mean square of the cosines, in a first-order autoregression."""
    by_lag = np.power(correlation, np.arange(blocks))
    of_sum, of_cosines = _weights_of_lags(blocks)
    return float((by_lag @ of_sum) / (by_lag @ of_cosines))


@cache
def _weights_of_lags(blocks: int) -> tuple[Array, Array]:
    """Return the weight of the autocovariance at each lag in the variance of the sum, and in that of the cosines."""
    basis = cosines(blocks)
    both_sides = np.where(np.arange(blocks) > 0, 2.0, 1.0)
    products = [float(np.sum(basis[:, lag:] * basis[:, : blocks - lag])) / len(basis) for lag in range(blocks)]
    return both_sides * (1 - np.arange(blocks) / blocks), both_sides * np.array(products)
