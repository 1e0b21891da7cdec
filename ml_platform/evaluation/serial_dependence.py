"""Standard errors when consecutive blocks are alike: the variance of a mean of autocorrelated blocks.

Unusual days come together, so a month holds fewer independent days than it has. An interval that takes its days
as independent covers 75 % instead of 95 % at a lag-1 autocorrelation of 0.5 (`benchmarks/interval_coverage.py`).
"""

from dataclasses import dataclass

import numpy as np

from ml_platform.tasks.metrics import Array

MIN_BLOCKS_FOR_COSINES = 60
"""With fewer blocks, a model with one parameter estimates the dependence better than a free spectrum."""

MAX_AUTOCORRELATION = 0.6
"""Larger estimates from few blocks are mostly noise and make intervals useless."""

BIAS_CORRECTION = 3.0
"""Multiple of the correction of Kendall (1954): a low estimate costs more coverage than a high one costs width."""


@dataclass(frozen=True)
class Dependence:
    """Variance of a mean relative to that of independent blocks, and the degrees of freedom of its estimate."""

    inflation: float
    degrees_of_freedom: float


def serial_dependence(influence: Array, *, ordered: bool) -> Dependence:
    """Return the dependence of the block values ``influence``, of shape (blocks,); ``ordered`` when in order of time.

    Blocks without an order, for example customers, are taken as independent, and so are blocks without variance.

    With fewer than 60 blocks, the first-order autocorrelation gives the effective number of blocks (Bayley and
    Hammersley 1946, The effective number of independent observations in an autocorrelated time series), with a
    correction of its bias (Kendall 1954, Note on bias in the estimation of autocorrelation).

    With more blocks, the equal-weighted cosine estimator takes any form of dependence that fades (Lazarus, Lewis,
    Stock and Watson 2018, HAR inference: recommendations for practice). Its Student's t has one degree of freedom per
    cosine.
    """
    blocks = len(influence)
    centred = influence - influence.mean()
    squares = float(centred @ centred)
    if not ordered or blocks < 3 or squares <= 1e-24 * max(1.0, float(influence @ influence)):
        return Dependence(1.0, blocks - 1)
    if blocks >= MIN_BLOCKS_FOR_COSINES:
        coefficients = cosines(blocks) @ centred
        variance = float(np.mean(np.square(coefficients)))
        return Dependence(variance / (squares / (blocks - 1)), len(coefficients))
    correlation = float(centred[1:] @ centred[:-1]) / squares
    correlation += BIAS_CORRECTION * (1 + 3 * correlation) / blocks
    correlation = min(max(correlation, 0.0), MAX_AUTOCORRELATION)
    # Three effective blocks at least: with fewer, Student's t has no useful quantile.
    ratio = min((1 + correlation) / (1 - correlation), blocks / 3)
    # All blocks estimate the variance; only its ratio is uncertain. The factor 1.3 is chosen by simulation.
    freedom = min(blocks - 1.0, 1.3 * (blocks / ratio - 1))
    # Autocorrelated values vary less around their own mean than around the true one.
    return Dependence(ratio * (blocks - 1) / (blocks - ratio), freedom)


def cosines(blocks: int) -> Array:
    """Return the orthonormal cosines of the estimator, shape (degrees of freedom, blocks): 0.4 blocks^(2/3) of them."""
    count = max(2, round(0.4 * blocks ** (2 / 3)))
    moment = (np.arange(blocks) + 0.5) / blocks
    return np.asarray(np.sqrt(2 / blocks) * np.cos(np.pi * np.outer(np.arange(1, count + 1), moment)))
