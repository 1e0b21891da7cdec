"""Compares a candidate with the stable version that serves beside it, by tests that hold at every look.

The tests bet against the null hypothesis "the candidate's mean is at most the stable version's mean plus a tolerance",
see :mod:`ml_platform.tasks.betting`. Several thresholds of a score are one test.

Only the difference within each block of answers counts. Both versions may become worse together, for example at night.
"""

from collections.abc import Sequence

import numpy as np

from ml_platform.tasks.betting import Array, bet_on


def bet(log_wealth: Array, candidate: Array, stable: Array, tolerance: float, generator: np.random.Generator) -> Array:
    """Return the logarithms of the wealths after the answers of one look, shape (tests, bets).

    ``candidate`` (answers, tests) and ``stable`` (other answers, tests) have values from 0 to 1. The answers of a look
    are exchangeable: their order is drawn, then both are cut into as many blocks as the smaller one has answers. A look
    without an answer of one of the two changes nothing.
    """
    blocks = min(len(candidate), len(stable))
    if not blocks:
        return log_wealth
    means = [_block_means(generator.permutation(values), blocks) for values in (candidate, stable)]
    gains = means[0] - means[1] - tolerance
    return bet_on(log_wealth, gains, 1 + tolerance)


def rate_values(bad: int, total: int) -> Array:
    """Return one value for each of ``total`` answers, 1 for ``bad`` of them; shape (total, 1)."""
    return (np.arange(total) < bad).astype(float)[:, np.newaxis]


def score_values(counts: Sequence[int]) -> Array:
    """Return whether each score is at most, and whether it is above, each inner limit of a histogram.

    ``counts`` are the scores between two limits; the shape is (scores, 2 * inner limits). Both directions are tested,
    so the largest difference of the two distribution functions counts (the distance of Kolmogorov and Smirnov).
    """
    bins = np.repeat(np.arange(len(counts)), counts)
    below = (bins[:, np.newaxis] <= np.arange(len(counts) - 1)).astype(float)
    return np.hstack([below, 1 - below])


def _block_means(values: Array, blocks: int) -> Array:
    starts = np.arange(blocks) * len(values) // blocks
    sizes = np.diff(np.append(starts, len(values)))
    return np.asarray(np.add.reduceat(values, starts, axis=0) / sizes[:, np.newaxis])
