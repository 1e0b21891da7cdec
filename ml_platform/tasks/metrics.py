"""Metrics and losses on arrays, exact on ties and verified against scikit-learn in the tests.

They are written on numpy because the bootstrap needs the loss of each row, and each slice and resample computes them
again. `benchmarks/statistics_libraries.py` compares time and results with scikit-learn.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ml_platform.data.roc_auc import auc
from ml_platform.errors import PlatformError, did_you_mean, listed

Array = npt.NDArray[np.float64]
Bounds = tuple[Array, Array]
"""The lower and upper ends of predicted intervals, each of shape (rows,)."""

HIGHER_IS_BETTER = frozenset(
    {
        "auc",
        "average_precision",
        "recall_at_rate",
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "top_2_accuracy",
        "coverage",
        "ndcg",
        "mean_average_precision",
    }
)
UNBOUNDED = frozenset({"log_loss", "mae", "rmse", "pinball", "mase"})
"""Metrics without a largest value; all others are at most 1."""

CALIBRATION_BINS = 15
ALERT_RATE = 0.01
"""Share of rows with an alert for `recall_at_rate`, unless the declaration gives another."""

RARE_SHARE = 0.05
"""Share of positives below which a loss alone hardly notices how a model ranks them."""


class EvaluationError(PlatformError):
    """Raised when a metric has no value on the rows: no rows, one class only, or a score that is not a number."""


def score(label: npt.ArrayLike, probability: npt.ArrayLike) -> dict[str, float]:
    """Return the metrics of probabilities against ``label`` (0 or 1), and the share of positives, ``base_rate``.

    The metrics are auc, average_precision, recall_at_rate (at an alert for 1 % of the rows), log_loss, brier and ece.
    Ties count half in the AUC and are one threshold in the average precision, as in scikit-learn.
    Raises :class:`EvaluationError` for no rows, unequal lengths, nulls, a label other than 0 and 1, a label that is
    constant, or a probability outside 0 to 1.

    >>> round(score([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])["auc"], 3)
    0.875
    """
    truth, scores = classification_arrays(label, probability)
    return {
        "auc": auc(truth, scores),
        "average_precision": average_precision(truth, scores),
        "recall_at_rate": recall_at_rate(truth, scores),
        "log_loss": float(log_losses(truth, scores).mean()),
        "brier": float(np.square(scores - truth).mean()),
        "ece": ece(truth, scores),
        "base_rate": float(truth.mean()),
    }


def score_regression(
    label: npt.ArrayLike,
    prediction: npt.ArrayLike,
    *,
    quantile: float = 0.5,
    lower: npt.ArrayLike | None = None,
    upper: npt.ArrayLike | None = None,
) -> dict[str, float]:
    """Return mae, rmse, pinball (``prediction`` as the ``quantile``), and with both ends coverage of the interval.

    Coverage is a share of rows, and all others are in the unit of the label. Raises :class:`EvaluationError` for no
    rows, unequal lengths, nulls or infinities.
    """
    truth, predicted = regression_arrays(label, prediction)
    error = predicted - truth
    numbers = {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "pinball": float(pinball_losses(truth, predicted, quantile).mean()),
    }
    if lower is not None and upper is not None:
        _, low = regression_arrays(label, lower)
        _, high = regression_arrays(label, upper)
        numbers["coverage"] = float(((low <= truth) & (truth <= high)).mean())
    return numbers


def improvement(metric: str, candidate: float, champion: float) -> float:
    """Return the improvement of ``candidate`` over ``champion``: for every metric, positive means better."""
    return candidate - champion if metric in HIGHER_IS_BETTER else champion - candidate


def require_metric(metric: str, known: Mapping[str, object] | tuple[str, ...]) -> None:
    """Raise :class:`EvaluationError` with the nearest name when ``metric`` is not in ``known``."""
    if metric not in known:
        raise EvaluationError(
            f"Metric '{metric}'",
            expected=f"one of {listed(known, limit=10)}",
            found="an unknown name",
            fix=f"Correct the metric in the model's defs.yaml.{did_you_mean(metric, known)}",
        )


def average_precision(label: Array, probability: Array) -> float:
    """Return the step-wise area under the precision-recall curve, one step per distinct score."""
    order = np.argsort(-probability, kind="stable")
    scores, hits = probability[order], np.cumsum(label[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits_there = hits[last_of_tie]
    precision = hits_there / (last_of_tie + 1)
    return float((np.diff(hits_there, prepend=0.0) * precision).sum() / hits[-1])


def recall_at_rate(label: Array, probability: Array, rate: float = ALERT_RATE) -> float:
    """Return the share of positives among the ``rate`` of rows with the highest scores: recall at a fixed alert rate.

    Rows with equal scores at the border share the alerts that are left, so the value does not depend on their order.

    >>> recall_at_rate(np.array([1.0, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1]), rate=0.5)
    0.75
    """
    order = np.argsort(-probability, kind="stable")
    scores, hits = probability[order], np.cumsum(label[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    found = np.interp(rate * len(label), np.append(0, last_of_tie + 1), np.append(0.0, hits[last_of_tie]))
    return float(found / hits[-1])


def log_losses(label: Array, probability: Array) -> Array:
    """Return the negative log likelihood of each row in nats, with probabilities clipped at machine precision."""
    epsilon = np.finfo(np.float64).eps
    clipped = np.clip(probability, epsilon, 1 - epsilon)
    return -np.log(np.where(label == 1, clipped, 1 - clipped))


def ece(label: Array, probability: Array, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error over ``bins`` equally wide bins (Naeini, Cooper and Hauskrecht 2015)."""
    gaps = np.bincount(calibration_bin(probability, bins), weights=label - probability, minlength=bins)
    return float(np.abs(gaps).sum() / len(label))


def calibration_bin(probability: Array, bins: int = CALIBRATION_BINS) -> npt.NDArray[np.int64]:
    """Return the bin of each probability, 0 to ``bins`` - 1; a probability of 1.0 is in the last bin."""
    return np.minimum((probability * bins).astype(np.int64), bins - 1)


def pinball_losses(label: Array, prediction: Array, quantile: float) -> Array:
    """Return the pinball loss of each row for ``prediction`` as the ``quantile`` (Koenker and Bassett 1978)."""
    error = label - prediction
    return np.maximum(quantile * error, (quantile - 1) * error)


def classification_arrays(label: npt.ArrayLike, probability: npt.ArrayLike) -> tuple[Array, Array]:
    """Return both as float64 of equal length; raise :class:`EvaluationError` in the cases that :func:`score` lists."""
    truth, scores = regression_arrays(label, probability)
    classes = np.unique(truth)
    if not np.isin(classes, (0.0, 1.0)).all():
        raise EvaluationError(
            "Label",
            expected="0 or 1",
            found=f"the values {listed([f'{value:g}' for value in classes])}",
            fix="Correct the label rule, or declare the task as regression.",
        )
    if len(classes) < 2:
        raise EvaluationError(
            "Label",
            expected="both classes among the rows",
            found=f"the constant {classes[0]:g} in all {len(truth)} rows",
            fix="Check the label rule and the partition: no metric can rank models on a constant label.",
        )
    outside = int(((scores < 0) | (scores > 1)).sum())
    if outside:
        raise EvaluationError(
            "Probability",
            expected="values from 0 to 1",
            found=f"{outside} of {len(scores)} rows outside",
            fix="Return probabilities from the trainer, not raw margins.",
        )
    return truth, scores


def regression_arrays(label: npt.ArrayLike, prediction: npt.ArrayLike) -> tuple[Array, Array]:
    """Return both as float64 of equal length, finite and not empty, or raise :class:`EvaluationError`."""
    truth, predicted = np.asarray(label, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if len(truth) == 0:
        raise EvaluationError(
            "Evaluation rows",
            expected="at least one row with a label",
            found="none",
            fix="Wait until the labels of the partition are known, or choose another partition.",
        )
    if truth.shape != predicted.shape:
        raise EvaluationError(
            "Predictions",
            expected=f"one per label ({len(truth)})",
            found=f"shape {predicted.shape}",
            fix="Predict for exactly the rows that are evaluated.",
        )
    for name, values in (("Label", truth), ("Predictions", predicted)):
        not_finite = int((~np.isfinite(values)).sum())
        if not_finite:
            raise EvaluationError(
                name,
                expected="finite numbers",
                found=f"{not_finite} of {len(values)} rows null, NaN or infinite",
                fix="Drop rows without a label before the evaluation, and return a number for every row.",
            )
    return truth, predicted
