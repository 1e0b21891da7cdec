"""Explanations of scores: reasons, and contributions and importance for models without their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_platform.tasks.task import Task
from ml_platform.training.calibration import logit

Scores = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reason:
    """Contribution of one feature to one score, in log-odds of a probability or in label units.

    A positive contribution raises the score.
    """

    feature: str
    contribution: float


def reasons(names: Sequence[str], contributions: Scores, most: int = 3) -> list[list[Reason]]:
    """Return for each row the ``most`` features with the largest absolute contributions, largest first.

    ``contributions`` has shape (rows, features). Features that contribute 0 are left out; ties keep the feature order.

    >>> reasons(["rain", "hour"], np.array([[0.1, -0.4]]), most=1)
    [[Reason(feature='hour', contribution=-0.4)]]
    """
    order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :most]
    return [
        [Reason(names[column], float(row[column])) for column in places if row[column] != 0]
        for row, places in zip(contributions, order, strict=True)
    ]


def contributions_by_ablation(
    predict: Callable[[Features], Scores], features: Features, background: Features, *, task: Task
) -> Scores:
    """Return each score minus its mean when one feature is taken from the ``background`` rows, shape (rows, features).

    ``predict`` returns (rows, outputs); of several outputs, the one that ``task`` explains is used.
    Features are replaced one at a time, so a joint effect counts for each of them. The cost is rows x features x
    background predictions. Source: Robnik-Sikonja and Kononenko (2008), Explaining classifications for individual
    instances.
    """
    outputs = predict(features)
    explained, log_odds = task.explained_output(outputs), task.has_probabilities
    baseline = _to_log_odds(outputs[np.arange(len(features)), explained], log_odds)
    explained_of_copies = np.repeat(explained, len(background))
    result = np.zeros(features.shape, dtype=np.float64)
    copies = np.repeat(features, len(background), axis=0)
    for column in range(features.shape[1]):
        original = copies[:, column].copy()
        copies[:, column] = np.tile(background[:, column], len(features))
        scores = predict(copies)[np.arange(len(copies)), explained_of_copies]
        changed = _to_log_odds(scores, log_odds).reshape(len(features), len(background))
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
    """Return the increase of ``loss(label, scores)`` when a feature is shuffled among the rows, shape (features,).

    It is the mean of ``repeats`` shuffles by ``seed``, and negative where the feature raised the loss. Source: Breiman
    (2001), Random forests.
    """
    from sklearn import inspection

    def negative_loss(_: Any, rows: Features, truth: Scores) -> float:
        return -loss(truth, predict(rows))

    # scikit-learn requires an estimator with a `fit`, which it does not call: the scoring function predicts.
    estimator = SimpleNamespace(fit=negative_loss)
    found = inspection.permutation_importance(
        estimator, features, label, scoring=negative_loss, n_repeats=repeats, random_state=seed
    )
    return np.asarray(found.importances_mean, dtype=np.float64)


def shares(names: Sequence[str], weights: npt.NDArray[np.floating]) -> dict[str, float]:
    """Return each name's share of the sum of ``weights``, largest first; all are 0 when the sum is 0."""
    parts = np.asarray(weights, dtype=np.float64) / max(float(np.sum(weights)), 1e-12)
    return {names[column]: float(parts[column]) for column in np.argsort(-parts, kind="stable")}


def _to_log_odds(scores: Scores, log_odds: bool) -> Scores:
    return logit(scores) if log_odds else scores
