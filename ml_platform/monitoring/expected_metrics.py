"""Metrics of predictions whose outcomes are known as probabilities only; those of 0 and 1 give the realised metrics.

Each metric is its expected value over independent outcomes, so no outcome is drawn.
"""

from collections.abc import Sequence

import numpy as np

from ml_platform.tasks.metrics import Array

_EPSILON = float(np.finfo(np.float64).eps)


def expected_binary_metrics(score: Array, positive: Array) -> dict[str, float]:
    """Return auc, log_loss, brier and base_rate of ``score`` where row i is positive with probability ``positive[i]``.

    Both have shape (rows,). The AUC is left out where no row, or each row, is positive.

    >>> found = expected_binary_metrics(np.array([0.2, 0.9]), np.array([0.0, 1.0]))
    >>> found["auc"], found["base_rate"]
    (1.0, 0.5)
    """
    clipped = np.clip(score, _EPSILON, 1 - _EPSILON)
    found = {
        "log_loss": float(-(positive * np.log(clipped) + (1 - positive) * np.log(1 - clipped)).mean()),
        "brier": float((positive * np.square(1 - score) + (1 - positive) * np.square(score)).mean()),
        "base_rate": float(positive.mean()),
    }
    area = expected_auc(score, positive)
    return found if area is None else {"auc": area, **found}


def expected_auc(score: Array, positive: Array) -> float | None:
    """Return the expected share of pairs of a positive and a negative row that ``score`` orders rightly; ties half.

    None without such a pair.
    """
    _, tie = np.unique(score, return_inverse=True)
    positives = np.bincount(tie, weights=positive)
    negatives = np.bincount(tie, weights=1 - positive)
    # A row is no pair with itself.
    itself = float((positive * (1 - positive)).sum())
    pairs = float(positives.sum() * negatives.sum()) - itself
    if pairs <= 1e-9:
        return None
    below = np.cumsum(negatives) - negatives
    return (float((positives * (below + negatives / 2)).sum()) - itself / 2) / pairs


def expected_class_metrics(shares: Array, probability: Array) -> dict[str, float]:
    """Return log_loss, accuracy, top_2_accuracy, brier and the mean auc of classes against the rest.

    ``shares`` are the answered probabilities and ``probability`` those of the outcomes, both of shape (rows, classes).
    The AUC is left out where a class never or always occurs.
    """
    order = np.argsort(-shares, axis=1, kind="stable")
    ranked = np.take_along_axis(probability, order, axis=1)
    found = {
        "log_loss": float(-(probability * np.log(np.clip(shares, _EPSILON, 1.0))).sum(axis=1).mean()),
        "accuracy": float(ranked[:, 0].mean()),
        "top_2_accuracy": float(ranked[:, :2].sum(axis=1).mean()),
        "brier": float((np.square(shares).sum(axis=1) - 2 * (probability * shares).sum(axis=1) + 1).mean()),
    }
    areas = [expected_auc(shares[:, each], probability[:, each]) for each in range(shares.shape[1])]
    known = [each for each in areas if each is not None]
    return {**found, "auc": float(np.mean(known))} if len(known) == len(areas) else found


def calibration(score: Array, label: Array) -> tuple[float, float]:
    """Return intercept and slope of the log-odds of label 1 by those of ``score`` (Platt 1999, Probabilistic outputs
    for support vector machines).

    A weak prior at (0, 1), that of a calibrated score, keeps few rows stable.
    """
    odds = log_odds(score)
    design = np.column_stack([np.ones_like(odds), odds])
    prior, found = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(design @ found, -35, 35)))
        gradient = design.T @ (label - probability) - (found - prior)
        curvature = (design * (probability * (1 - probability))[:, np.newaxis]).T @ design + np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = found + step
        if float(np.abs(step).max()) < 1e-10:
            break
    return float(found[0]), float(found[1])


def calibrated(score: Array, by: Sequence[float]) -> Array:
    """Return the probabilities of ``score`` by intercept and slope, shape (rows,)."""
    return np.asarray(1 / (1 + np.exp(-np.clip(by[0] + by[1] * log_odds(score), -35, 35))))


def log_odds(score: Array) -> Array:
    """Return the log-odds of probabilities, limited to those of one in a million."""
    clipped = np.clip(score, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))
