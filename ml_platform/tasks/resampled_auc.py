"""AUC and average precision of many resamples at once, from counts per block and sorted scores.

These two metrics are not means over rows. Let U[a, b] count the pairs in which a positive row of block a scores above a
negative row of block b. The AUC of a resample with block counts c is then c'Uc / (positives(c) negatives(c)). The
average precision uses, for each positive row, the number of rows of each block at or above its score, multiplied by c.

scikit-learn has no AUC of resamples: one weighted call per resample takes over 100 times as long for 27,000 rows and
1,000 resamples (`benchmarks/statistics_libraries.py`).
"""

import numpy as np
import numpy.typing as npt

from ml_platform.tasks.metrics import Array

# With more blocks the tables per block do not fit the cache, and cumulative sums over the rows are faster.
MAX_BLOCKS_FOR_TABLES = 512
# Cells of a buffer (64 MB of float32). Each matrix product prepares its right side again, so few large ones are faster.
MAX_BUFFER_CELLS = 1 << 24
RESAMPLES_PER_PASS = 64

Codes = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float32]


def resampled_ranking_metrics(
    truth: Array, scores: Array, codes: Codes, counts: Array, *, precision: bool = True
) -> dict[str, Array]:
    """Return ``auc`` and, with ``precision``, ``average_precision``, each of shape (resamples,).

    ``counts`` has shape (resamples, blocks). Ties count half in the AUC and are one threshold in the average precision.
    The values are NaN for a resample with one class only.
    """
    if counts.shape[1] <= MAX_BLOCKS_FOR_TABLES:
        return _by_tables(truth, scores, codes, counts, precision)
    return _by_rows(truth, scores, codes, counts)


def resampled_recall(truth: Array, scores: Array, codes: Codes, counts: Array, rate: float) -> Array:
    """Return the recall among the ``rate`` of rows with the highest scores, shape (resamples,), NaN without positives.

    Equal scores at the border share the alerts that are left, as in `metrics.recall_at_rate`.
    """
    resamples, blocks = counts.shape
    order = np.argsort(-scores, kind="stable")
    tie = np.append(0, np.cumsum(np.diff(scores[order]) != 0))
    wanted = rate * (counts @ np.bincount(codes, minlength=blocks))
    positives = counts @ np.bincount(codes, weights=truth, minlength=blocks)
    # Nearly all resamples end in the first pass, because only the highest scores matter.
    shown_ties = int(tie[min(int(1.5 * rate * len(tie)), len(tie) - 1)]) + 1
    ties_per_pass = max(1, min(shown_ties, MAX_BUFFER_CELLS // max(resamples, blocks)))
    found = np.full(resamples, np.nan)
    alerts, hits = np.zeros((resamples, 1)), np.zeros((resamples, 1))
    for first in range(0, int(tie[-1]) + 1, ties_per_pass):
        start, stop = np.searchsorted(tie, [first, first + ties_per_pass])
        top = order[start:stop]
        cell = (tie[start:stop] - first) * blocks + codes[top]
        size = ties_per_pass * blocks
        in_tie = np.bincount(cell, minlength=size).reshape(-1, blocks)
        hits_in_tie = np.bincount(cell, weights=truth[top], minlength=size).reshape(-1, blocks)
        alerts = np.hstack([alerts[:, -1:], alerts[:, -1:] + counts @ np.cumsum(in_tie, axis=0).T])
        hits = np.hstack([hits[:, -1:], hits[:, -1:] + counts @ np.cumsum(hits_in_tie, axis=0).T])
        found = np.where(np.isnan(found), _at(alerts, hits, wanted), found)
        if not np.isnan(found).any():
            break
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(found / positives)


def _at(alerts: Array, hits: Array, wanted: Array) -> Array:
    """Return ``hits`` at ``wanted`` alerts by linear interpolation per row; NaN where there are too few alerts."""
    rows = np.arange(len(wanted))
    reached = (alerts < wanted[:, np.newaxis] - 1e-9).sum(axis=1)
    after = np.clip(reached, 1, alerts.shape[1] - 1)
    width = alerts[rows, after] - alerts[rows, after - 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(width > 0, (wanted - alerts[rows, after - 1]) / width, 0.0)
    inside = hits[rows, after - 1] + share * (hits[rows, after] - hits[rows, after - 1])
    return np.where(reached < alerts.shape[1], inside, np.nan)


def _by_tables(truth: Array, scores: Array, codes: Codes, counts: Array, precision: bool) -> dict[str, Array]:
    blocks, positive = counts.shape[1], truth == 1
    order = np.argsort(scores[positive], kind="stable")
    positive_scores, positive_codes = scores[positive][order], codes[positive][order]
    negatives = _sorted_by_block(scores[~positive], codes[~positive], blocks)
    wins, false_positives = np.empty((blocks, blocks)), np.empty((blocks, len(positive_scores)), dtype=np.float32)
    for number, block_scores in enumerate(negatives):
        below = np.searchsorted(block_scores, positive_scores, side="left")
        not_above = np.searchsorted(block_scores, positive_scores, side="right")
        wins[:, number] = np.bincount(positive_codes, weights=(below + not_above) / 2, minlength=blocks)
        false_positives[number] = len(block_scores) - below
    drawn_positives = counts @ np.bincount(positive_codes, minlength=blocks)
    drawn_negatives = counts @ np.array([len(block_scores) for block_scores in negatives], dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {"auc": np.einsum("rb,rb->r", counts @ wins, counts) / (drawn_positives * drawn_negatives)}
        if precision:
            values["average_precision"] = (
                _precision_by_tables(positive_scores, positive_codes, false_positives, counts) / drawn_positives
            )
    return values


def _precision_by_tables(
    positive_scores: Array, positive_codes: Codes, false_positives: Counts, counts: Array
) -> Array:
    """Return the sum of precisions over the positives of each resample, shape (resamples,)."""
    blocks = counts.shape[1]
    # Counts of rows are below 2**24, so float32 is exact and halves the memory traffic.
    true_positives, block_membership = (
        np.empty_like(false_positives),
        np.zeros((len(positive_codes), blocks), dtype=np.float32),
    )
    block_membership[np.arange(len(positive_codes)), positive_codes] = 1
    for number, block_scores in enumerate(_sorted_by_block(positive_scores, positive_codes, blocks)):
        true_positives[number] = len(block_scores) - np.searchsorted(block_scores, positive_scores, side="left")
    predicted_positive_counts, summed = true_positives + false_positives, np.empty(len(counts))
    resamples_per_pass = min(len(counts), max(1, MAX_BUFFER_CELLS // len(positive_codes)))
    # Reuse two buffers in all passes: allocating them again would cost more than the arithmetic.
    share, predicted_positives = (
        np.empty((resamples_per_pass, len(positive_codes)), dtype=np.float32) for _ in range(2)
    )
    for start in range(0, len(counts), resamples_per_pass):
        part = counts[start : start + resamples_per_pass].astype(np.float32)
        rows = len(part)
        np.matmul(part, true_positives, out=share[:rows])
        np.matmul(part, predicted_positive_counts, out=predicted_positives[:rows])
        np.maximum(predicted_positives, 1.0, out=predicted_positives)
        np.divide(share, predicted_positives, out=share)
        summed[start : start + rows] = np.einsum("rb,rb->r", share[:rows] @ block_membership, part, dtype=np.float64)
    return summed


def _by_rows(truth: Array, scores: Array, codes: Codes, counts: Array) -> dict[str, Array]:
    order = np.argsort(-scores, kind="stable")
    ordered, sorted_codes, sorted_truth = scores[order], codes[order], truth[order].astype(np.float32)
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    auc, precision = np.empty(len(counts)), np.empty(len(counts))
    for start in range(0, len(counts), RESAMPLES_PER_PASS):
        weight = counts[start : start + RESAMPLES_PER_PASS].astype(np.float32)[:, sorted_codes]
        predicted_positives = np.cumsum(weight, axis=1)[:, last_of_tie].astype(np.float64)
        true_positives = np.cumsum(weight * sorted_truth, axis=1)[:, last_of_tie].astype(np.float64)
        false_positives = predicted_positives - true_positives
        new_true_positives, new_false_positives = (
            np.diff(true_positives, prepend=0.0),
            np.diff(false_positives, prepend=0.0),
        )
        won = new_true_positives * (false_positives[:, -1:] - false_positives + new_false_positives / 2)
        part = slice(start, start + len(weight))
        with np.errstate(invalid="ignore", divide="ignore"):
            auc[part] = won.sum(axis=1) / (true_positives[:, -1] * false_positives[:, -1])
            precision[part] = (new_true_positives * true_positives / np.maximum(predicted_positives, 1.0)).sum(
                axis=1
            ) / true_positives[:, -1]
    return {"auc": auc, "average_precision": precision}


def _sorted_by_block(scores: Array, codes: Codes, blocks: int) -> list[Array]:
    order = np.lexsort((scores, codes))
    edges = np.searchsorted(codes[order], np.arange(1, blocks))
    return list(np.split(scores[order], edges))
