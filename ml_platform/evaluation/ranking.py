"""AUC and average precision of many resamples at once, from counts per block and pre-sorted scores.

Apart from the other metrics because these two are not means over rows. With blocks a and b, let U[a, b] be the pairs of
a positive of a above a negative of b: the AUC of a resample with block counts c is c'Uc / (positives(c) negatives(c)).
The average precision needs, per positive, how many of each block lie at or above its score: a product of c with that.
"""

import numpy as np
import numpy.typing as npt

from ml_platform.evaluation.metrics import Array

# Above this many blocks the tables per block outgrow the cache, and cumulative sums over the rows are faster.
MOST_BLOCKS_FOR_TABLES = 512
# Cells of a buffer (64 MB of float32): a product prepares its right side anew, so few large ones beat many small ones.
MOST_CELLS = 1 << 24
RESAMPLES_AT_ONCE = 64

Codes = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float32]


def resampled(truth: Array, scores: Array, codes: Codes, counts: Array, *, precision: bool = True) -> dict[str, Array]:
    """Return ``auc`` and, where ``precision``, ``average_precision``: one value per row of ``counts``.

    ``counts`` has shape (resamples, blocks). Ties count half in the AUC and are one threshold in the average precision.
    NaN where a resample holds one class only.
    """
    if counts.shape[1] <= MOST_BLOCKS_FOR_TABLES:
        return _by_tables(truth, scores, codes, counts, precision)
    return _by_rows(truth, scores, codes, counts)


def _by_tables(truth: Array, scores: Array, codes: Codes, counts: Array, precision: bool) -> dict[str, Array]:
    blocks, positive = counts.shape[1], truth == 1
    order = np.argsort(scores[positive], kind="stable")
    hit_scores, hit_codes = scores[positive][order], codes[positive][order]
    negatives = _sorted_by_block(scores[~positive], codes[~positive], blocks)
    wins, alarms = np.empty((blocks, blocks)), np.empty((blocks, len(hit_scores)), dtype=np.float32)
    for number, of_block in enumerate(negatives):
        below = np.searchsorted(of_block, hit_scores, side="left")
        not_above = np.searchsorted(of_block, hit_scores, side="right")
        wins[:, number] = np.bincount(hit_codes, weights=(below + not_above) / 2, minlength=blocks)
        alarms[number] = len(of_block) - below
    drawn_hits = counts @ np.bincount(hit_codes, minlength=blocks)
    drawn_misses = counts @ np.array([len(of_block) for of_block in negatives], dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {"auc": np.einsum("rb,rb->r", counts @ wins, counts) / (drawn_hits * drawn_misses)}
        if precision:
            values["average_precision"] = _precision_by_tables(hit_scores, hit_codes, alarms, counts) / drawn_hits
    return values


def _precision_by_tables(hit_scores: Array, hit_codes: Codes, alarms: Counts, counts: Array) -> Array:
    """Return the sum of precisions over the positives of each resample, shape (resamples,)."""
    blocks = counts.shape[1]
    # Counts of rows stay below 2**24, so float32 is exact for them and half the memory traffic.
    hits, member = np.empty_like(alarms), np.zeros((len(hit_codes), blocks), dtype=np.float32)
    member[np.arange(len(hit_codes)), hit_codes] = 1
    for number, of_block in enumerate(_sorted_by_block(hit_scores, hit_codes, blocks)):
        hits[number] = len(of_block) - np.searchsorted(of_block, hit_scores, side="left")
    hits_and_alarms, summed = hits + alarms, np.empty(len(counts))
    at_once = min(len(counts), max(1, MOST_CELLS // len(hit_codes)))
    # Two buffers for all rounds: fresh memory in each would cost more than the arithmetic.
    share, seen = (np.empty((at_once, len(hit_codes)), dtype=np.float32) for _ in range(2))
    for start in range(0, len(counts), at_once):
        part = counts[start : start + at_once].astype(np.float32)
        rows = len(part)
        np.matmul(part, hits, out=share[:rows])
        np.matmul(part, hits_and_alarms, out=seen[:rows])
        np.maximum(seen, 1.0, out=seen)
        np.divide(share, seen, out=share)
        summed[start : start + rows] = np.einsum("rb,rb->r", share[:rows] @ member, part, dtype=np.float64)
    return summed


def _by_rows(truth: Array, scores: Array, codes: Codes, counts: Array) -> dict[str, Array]:
    order = np.argsort(-scores, kind="stable")
    ordered, sorted_codes, sorted_truth = scores[order], codes[order], truth[order].astype(np.float32)
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    auc, precision = np.empty(len(counts)), np.empty(len(counts))
    for start in range(0, len(counts), RESAMPLES_AT_ONCE):
        weight = counts[start : start + RESAMPLES_AT_ONCE].astype(np.float32)[:, sorted_codes]
        seen = np.cumsum(weight, axis=1)[:, last_of_tie].astype(np.float64)
        hits = np.cumsum(weight * sorted_truth, axis=1)[:, last_of_tie].astype(np.float64)
        alarms = seen - hits
        new_hits, new_alarms = np.diff(hits, prepend=0.0), np.diff(alarms, prepend=0.0)
        won = new_hits * (alarms[:, -1:] - alarms + new_alarms / 2)
        part = slice(start, start + len(weight))
        with np.errstate(invalid="ignore", divide="ignore"):
            auc[part] = won.sum(axis=1) / (hits[:, -1] * alarms[:, -1])
            precision[part] = (new_hits * hits / np.maximum(seen, 1.0)).sum(axis=1) / hits[:, -1]
    return {"auc": auc, "average_precision": precision}


def _sorted_by_block(scores: Array, codes: Codes, blocks: int) -> list[Array]:
    order = np.lexsort((scores, codes))
    edges = np.searchsorted(codes[order], np.arange(1, blocks))
    return list(np.split(scores[order], edges))
