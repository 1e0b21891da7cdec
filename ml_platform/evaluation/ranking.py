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
RESAMPLES_AT_ONCE = 64

Codes = npt.NDArray[np.int64]


def resampled(truth: Array, scores: Array, codes: Codes, counts: Array, *, precision: bool = True) -> dict[str, Array]:
    """Return ``auc`` and, where ``precision``, ``average_precision``: one value per row of ``counts``.

    ``counts`` has shape (resamples, blocks). Ties count half in the AUC and are one threshold in the average precision.
    NaN where a resample holds one class only.
    """
    if counts.shape[1] <= MOST_BLOCKS_FOR_TABLES:
        return _by_tables(truth, scores, codes, counts, precision)
    return _by_rows(truth, scores, codes, counts)


def _by_tables(truth: Array, scores: Array, codes: Codes, counts: Array, precision: bool) -> dict[str, Array]:
    blocks = counts.shape[1]
    positive = truth == 1
    order = np.argsort(scores[positive], kind="stable")
    hit_scores, hit_codes = scores[positive][order], codes[positive][order]
    negatives = _sorted_by_block(scores[~positive], codes[~positive], blocks)
    wins = np.empty((blocks, blocks))
    false_alarms = np.empty((blocks, len(hit_scores)), dtype=np.float32)
    for number, of_block in enumerate(negatives):
        below = np.searchsorted(of_block, hit_scores, side="left")
        not_above = np.searchsorted(of_block, hit_scores, side="right")
        wins[:, number] = np.bincount(hit_codes, weights=(below + not_above) / 2, minlength=blocks)
        false_alarms[number] = len(of_block) - below
    hits = np.bincount(hit_codes, minlength=blocks).astype(np.float64)
    misses = np.array([len(of_block) for of_block in negatives], dtype=np.float64)
    drawn_hits, drawn_misses = counts @ hits, counts @ misses
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {"auc": np.einsum("rb,rb->r", counts @ wins, counts) / (drawn_hits * drawn_misses)}
        if precision:
            values["average_precision"] = _precision_by_tables(hit_scores, hit_codes, false_alarms, counts) / drawn_hits
    return values


def _precision_by_tables(hit_scores: Array, hit_codes: Codes, false_alarms: npt.NDArray, counts: Array) -> Array:
    first_of_tie = np.searchsorted(hit_scores, hit_scores, side="left")
    summed = np.empty(len(counts))
    for start in range(0, len(counts), RESAMPLES_AT_ONCE):
        # Counts of rows stay below 2**24, so float32 is exact for them and half the memory traffic.
        part = counts[start : start + RESAMPLES_AT_ONCE].astype(np.float32)
        weight = part[:, hit_codes]
        at_or_above = np.cumsum(weight[:, ::-1], axis=1)[:, ::-1][:, first_of_tie]
        share = at_or_above / np.maximum(at_or_above + part @ false_alarms, 1.0)
        summed[start : start + RESAMPLES_AT_ONCE] = np.einsum("rp,rp->r", weight, share, dtype=np.float64)
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
