"""Estimates of the metrics of predictions whose labels are not known yet, from the rows of a version's evaluation.

Classifiers: the answered probabilities, calibrated on the evaluation, say how probable each outcome is, and a metric is
its expected value over these outcomes (CBPE; Białek, Kuberski, Perrakis and Bifet 2024, Estimating model performance
under covariate shift without labels). Numbers: a small model of the loss, fitted on the evaluation, is applied to
the predictions (DLE, direct loss estimation). Both hold as long as outcomes depend on the prediction as they did in the
evaluation. They follow a change of the mix of predictions, and a change of that relation is seen by labels alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.monitoring.expected_metrics import (
    calibrated,
    calibration,
    expected_binary_metrics,
    expected_class_metrics,
)
from ml_platform.monitoring.loss_tree import LossTree, fit_loss_tree
from ml_platform.monitoring.performance import BASE_RATE, ExpectedInterval
from ml_platform.tasks.metrics import UNBOUNDED, Array, pinball_losses
from ml_platform.tasks.task import Task

Rows = npt.NDArray[np.int64]
"""Numbers of rows."""

ESTIMATORS = "estimator/"
"""Start of the cursors of fitted estimators, which go on with model and version."""

CONFIDENCE = 0.95
MAXIMUM_GROUPS = 60
"""Blocks of the evaluation are joined to at most so many, for the error of the estimate."""

MINIMUM_ROWS = 200
"""Rows of the evaluation below which nothing is estimated."""

_SQUARED, _BIAS = "squared", "bias"
"""Losses of a tree that are no metric: the squared error, and the outcome minus the prediction."""


class MetricReference(BaseModel):
    """A metric on the rows of the evaluation, realised and expected by the estimator.

    ``error`` is the standard error of their difference.
    """

    model_config = ConfigDict(frozen=True)

    realised: float
    expected: float
    error: float


class Estimator(BaseModel):
    """The estimator of one version; the same rows give the same one.

    ``calibration`` has intercept and slope of each output of a classifier, and ``tree`` the losses of a task of
    numbers. ``days`` is the length of the evaluation, None if its blocks are no times.
    """

    model_config = ConfigDict(frozen=True)

    method: Literal["CBPE", "DLE"]
    outputs: list[str]
    calibration: list[tuple[float, float]] = Field(default_factory=list)
    tree: LossTree | None = None
    references: dict[str, MetricReference]
    rows: int
    groups: int
    days: float | None = None

    def estimate(self, prediction: Array, spread: Array | None, days: int) -> dict[str, ExpectedInterval]:
        """Return the metrics that are expected of ``prediction`` over ``days``, with 95 % intervals for realised ones.

        ``prediction`` has the shape of the task, and ``spread`` (rows,) is the width of predicted intervals. The value
        is that of the evaluation, moved by the change of the expected metric. The interval has the error of the
        evaluation and that of as many days, or rows, as there are; not that of another relation of outcome and score.
        """
        from scipy.special import stdtrit

        if not len(prediction):
            return {}
        ratio = self.rows / len(prediction)
        if self.days is not None:
            ratio = max(ratio, self.days / max(1, days))
        quantile = float(stdtrit(self.groups - 1, 0.5 + CONFIDENCE / 2))
        found = {}
        for name, value in self._expected(prediction, spread).items():
            reference = self.references.get(name)
            if reference is None:
                continue
            half_width = quantile * reference.error * float(np.sqrt(1 + ratio))
            moved = reference.realised + value - reference.expected
            lowest, highest = _range(name, self)
            low, middle, high = np.clip([moved - half_width, moved, moved + half_width], lowest, highest).tolist()
            found[name] = ExpectedInterval(value=middle, low=low, high=high)
        return found

    def _expected(self, prediction: Array, spread: Array | None) -> dict[str, float]:
        if self.tree is not None:
            inputs = tree_inputs(prediction, spread)
            return _loss_metrics(self.tree.expected(inputs), inputs[:, 0])
        return _class_metrics(prediction, self.probabilities(prediction))

    def probabilities(self, prediction: Array) -> Array:
        """Return the calibrated probabilities of the outcomes, in the shape of ``prediction``."""
        if prediction.ndim == 1:
            return calibrated(prediction, self.calibration[0])
        columns = [calibrated(prediction[:, at], by) for at, by in enumerate(self.calibration)]
        shares = np.column_stack(columns)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def independent(influence: Array) -> float:
    """Return the inflation of the variance for blocks that do not depend on each other."""
    return 1.0


def fit_estimator(
    task: Task,
    label: Array,
    prediction: Array,
    block: npt.NDArray[Any],
    *,
    spread: Array | None = None,
    days: float | None = None,
    inflation: Callable[[Array], float] = independent,
) -> Estimator | None:
    """Return the estimator of the rows of an evaluation; None for a task or for rows that none suits.

    ``label`` and ``block`` have shape (rows,), and blocks are in order. ``inflation`` returns how much the dependence
    of the influences of neighbouring blocks raises the variance. A ranking has no estimator: its score is no
    probability, and its rows count by group. Below 200 rows or two blocks there is none either.
    """
    groups = _groups(block)
    if not can_be_estimated(task) or len(label) < MINIMUM_ROWS or groups.max(initial=0) < 1:
        return None
    tree, by = None, []
    if task.has_probabilities:
        outcome = label if prediction.ndim == 1 else _one_hot(label, prediction.shape[1])
        columns = [(prediction, label)] if prediction.ndim == 1 else list(zip(prediction.T, outcome.T, strict=True))
        by = [calibration(score, truth) for score, truth in columns]
    else:
        tree = fit_loss_tree(tree_inputs(prediction, spread), row_losses_by_name(task, label, prediction, spread))
    fitted = Estimator(
        method="CBPE" if tree is None else "DLE",
        outputs=task.output_names,
        calibration=by,
        tree=tree,
        references={},
        rows=len(label),
        groups=int(groups.max()) + 1,
        days=days,
    )
    if tree is None:
        probability = fitted.probabilities(prediction)

        def both(rows: Rows) -> tuple[dict[str, float], dict[str, float]]:
            return _class_metrics(prediction[rows], outcome[rows]), _class_metrics(prediction[rows], probability[rows])

    else:
        inputs = tree_inputs(prediction, spread)
        losses, expected = row_losses_by_name(task, label, prediction, spread), tree.expected(inputs)

        def both(rows: Rows) -> tuple[dict[str, float], dict[str, float]]:
            return _loss_metrics(_some(losses, rows), inputs[rows, 0]), _loss_metrics(
                _some(expected, rows), inputs[rows, 0]
            )

    return fitted.model_copy(update={"references": _references(both, groups, inflation)})


def can_be_estimated(task: Task) -> bool:
    """Return whether metrics of ``task`` can be estimated: predictions are probabilities, or values with a loss."""
    return task.has_probabilities or task.loss in ("squared_error", "pinball")


def tree_inputs(prediction: Array, spread: Array | None) -> Array:
    """Return the inputs of the tree of losses, shape (rows, 2): the prediction, or the median, and the spread.

    The spread of quantiles is that between the lowest and the highest; without a spread it is 0.
    """
    if prediction.ndim == 2:
        return np.column_stack([prediction[:, prediction.shape[1] // 2], prediction[:, -1] - prediction[:, 0]])
    width = np.zeros(len(prediction)) if spread is None else np.nan_to_num(spread)
    return np.column_stack([prediction, width])


def row_losses_by_name(task: Task, label: Array, prediction: Array, spread: Array | None) -> dict[str, Array]:
    """Return the losses of each row by name: those of the metrics, the squared error, and outcome minus prediction."""
    middle = tree_inputs(prediction, spread)[:, 0]
    found = {_BIAS: label - middle, "mae": np.abs(label - middle)}
    if prediction.ndim == 2:
        inside = (prediction[:, 0] <= label) & (label <= prediction[:, -1])
        return found | {"pinball": task.losses(label, prediction), "coverage": inside.astype(np.float64)}
    return found | {_SQUARED: np.square(label - middle), "pinball": pinball_losses(label, middle, 0.5)}


def _loss_metrics(losses: Mapping[str, Array], prediction: Array) -> dict[str, float]:
    means = {name: float(each.mean()) for name, each in losses.items()}
    found = {name: value for name, value in means.items() if name not in (_SQUARED, _BIAS)}
    found[BASE_RATE] = float(prediction.mean()) + means[_BIAS]
    return found if _SQUARED not in means else {**found, "rmse": float(np.sqrt(max(0.0, means[_SQUARED])))}


def _class_metrics(prediction: Array, probability: Array) -> dict[str, float]:
    if prediction.ndim == 1:
        return expected_binary_metrics(prediction, probability)
    return expected_class_metrics(prediction, probability)


def _references(
    both: Callable[[Rows], tuple[dict[str, float], dict[str, float]]],
    groups: Rows,
    inflation: Callable[[Array], float],
) -> dict[str, MetricReference]:
    """Return the metrics with the standard error of realised minus expected: the jackknife over groups of blocks."""
    everything = np.arange(len(groups), dtype=np.int64)
    realised, expected = both(everything)
    count = int(groups.max()) + 1
    without = [both(everything[groups != each]) for each in range(count)]
    found = {}
    for name in realised.keys() & expected.keys():
        differences = [one[name] - other[name] for one, other in without if name in one and name in other]
        if len(differences) < count:
            continue
        influence = np.array(differences) - np.mean(differences)
        variance = (count - 1) / count * float(influence @ influence) * inflation(influence)
        found[name] = MetricReference(realised=realised[name], expected=expected[name], error=float(np.sqrt(variance)))
    return dict(sorted(found.items()))


def _groups(block: npt.NDArray[Any]) -> Rows:
    """Return the number of each row's group of neighbouring blocks, from 0."""
    _, codes = np.unique(block, return_inverse=True)
    count = int(codes.max(initial=0)) + 1
    return np.asarray(codes if count <= MAXIMUM_GROUPS else codes * MAXIMUM_GROUPS // count)


def _one_hot(label: Array, classes: int) -> Array:
    return np.eye(classes)[label.astype(np.int64)]


def _some(losses: Mapping[str, Array], rows: Rows) -> dict[str, Array]:
    return {name: each[rows] for name, each in losses.items()}


def _range(metric: str, estimator: Estimator) -> tuple[float, float]:
    if metric == BASE_RATE and estimator.method == "DLE":
        return -np.inf, np.inf
    # The Brier score of several classes is a sum over them.
    largest = 2.0 if metric == "brier" and estimator.outputs else 1.0
    return 0.0, np.inf if metric in UNBOUNDED else largest
