"""Means of resamples of blocks, from sums that are computed once per block."""

import numpy as np
import numpy.typing as npt

from ml_platform.tasks.metrics import Array

Codes = npt.NDArray[np.int64]


def resampled_mean(values: Array, codes: Codes, counts: Array) -> Array:
    """Return the mean of ``values`` (rows,) in each resample, shape (resamples,).

    ``codes`` (rows,) is the block of each row, and ``counts`` (resamples, blocks) how often a resample has each block.
    """
    return np.asarray(resampled_sum(values, codes, counts) / (counts @ block_sizes(codes, counts)))


def resampled_sum(values: Array, codes: Codes, counts: Array) -> Array:
    """Return the sum of ``values`` (rows,) in each resample, shape (resamples,)."""
    return np.asarray(counts @ np.bincount(codes, weights=values, minlength=counts.shape[1]))


def block_sizes(codes: Codes, counts: Array) -> Array:
    """Return the number of rows of each block, shape (blocks,)."""
    return np.bincount(codes, minlength=counts.shape[1]).astype(np.float64)
