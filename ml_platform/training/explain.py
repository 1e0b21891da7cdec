"""Why a score is what it is: contributions of features for models that have none of their own, and reasons in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
PROBABILITY_EPSILON = 1e-6


@dataclass(frozen=True)
class Reason:
    """One feature's part in one score: positive raises it. Log-odds in classification, label units in regression."""

    feature: str
    contribution: float


def reasons(names: Sequence[str], contributions: Scores, most: int = 3) -> list[list[Reason]]:
    """Return for each row the ``most`` features with the largest absolute contributions, largest first.

    ``contributions`` has shape (rows, features). Features that add nothing are no reason; ties keep feature order.

    >>> reasons(["rain", "hour"], np.array([[0.1, -0.4]]), most=1)
    [[Reason(feature='hour', contribution=-0.4)]]
    """
    order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :most]
    return [
        [Reason(names[column], float(row[column])) for column in places if row[column] != 0]
        for row, places in zip(contributions, order, strict=True)
    ]


def contributions_by_ablation(
    predict: Callable[[Features], Scores], features: Features, background: Features, *, log_odds: bool
) -> Scores:
    """Return by how much each score is above what it is, on average, with one feature taken from ``background`` rows.

    Shape (rows, features); features are taken one at a time, so that joint effects count for each of them. It costs
    rows x features x background predictions. After Robnik-Sikonja and Kononenko (2008), Explaining classifications for
    individual instances.
    """
    baseline = _to_log_odds(predict(features), log_odds)
    result = np.zeros(features.shape, dtype=np.float64)
    copies = np.repeat(features, len(background), axis=0)
    for column in range(features.shape[1]):
        original = copies[:, column].copy()
        copies[:, column] = np.tile(background[:, column], len(features))
        changed = _to_log_odds(predict(copies), log_odds).reshape(len(features), len(background))
        result[:, column] = baseline - changed.mean(axis=1)
        copies[:, column] = original
    return result


def permutation_importance(
    predict: Callable[[Features], Scores],
    features: Features,
    label: Scores,
    loss: Callable[[Scores, Scores], float],
    *,
    repeats: int = 3,
    seed: int = 0,
) -> Scores:
    """Return by how much ``loss(label, scores)`` rises when a feature is shuffled among the rows, shape (features,).

    Mean of ``repeats`` shuffles by ``seed``; negative where the feature misled. Breiman (2001), Random forests.
    """
    rng = np.random.default_rng(seed)
    baseline = loss(label, predict(features))
    shuffled = features.copy()
    result = np.zeros(features.shape[1], dtype=np.float64)
    for column in range(features.shape[1]):
        increases = []
        for _ in range(repeats):
            shuffled[:, column] = rng.permutation(features[:, column])
            increases.append(loss(label, predict(shuffled)) - baseline)
        shuffled[:, column] = features[:, column]
        result[column] = float(np.mean(increases))
    return result


def shares(names: Sequence[str], weights: npt.NDArray[np.floating]) -> dict[str, float]:
    """Return each name's share of the sum of ``weights``, most first; all zero where the sum is."""
    parts = np.asarray(weights, dtype=np.float64) / max(float(np.sum(weights)), 1e-12)
    return {names[column]: float(parts[column]) for column in np.argsort(-parts, kind="stable")}


def _to_log_odds(scores: Scores, log_odds: bool) -> Scores:
    if not log_odds:
        return scores
    clipped = np.clip(scores, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)
    return np.asarray(np.log(clipped / (1 - clipped)))
