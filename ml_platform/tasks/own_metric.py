"""The protocol of metrics of a team's own, which a model declares under `evaluation.metrics`."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ml_platform.data.extensions import Extension
from ml_platform.tasks.metrics import HIGHER_IS_BETTER, Array
from ml_platform.tasks.resampling import Codes, resampled_mean


class Metric(Extension):
    """A number about the predictions of rows, such as the profit of all decisions.

    It is computed on the rows and on each resample of them, so it gets an interval and may be compared by gates.
    """

    kind: ClassVar[str] = "metric"

    higher_is_better: ClassVar[bool] = True
    """Whether a larger value is better; the class sets it."""

    lowest: ClassVar[float] = -np.inf
    highest: ClassVar[float] = np.inf
    """The range of the values, which limits the ends of intervals."""

    @abstractmethod
    def value(self, label: Array, prediction: Array, weight: Array) -> float:
        """Return the metric of rows that count ``weight`` times each.

        ``label`` and ``weight`` have shape (rows,). ``prediction`` has shape (rows,), or (rows, outputs) for a task
        with several outputs. ``weight`` holds whole numbers, and 0 for rows that a resample lacks. Return NaN where the
        metric has no value.
        """

    def resampled(self, label: Array, prediction: Array, codes: Codes, counts: Array) -> Array:
        """Return the metric of each resample, shape (resamples,): resample i has block ``codes`` ``counts[i]`` times.

        Override it where one pass over the rows is enough for all resamples.
        """
        return np.array([self.value(label, prediction, count[codes]) for count in counts], dtype=np.float64)


class MeanMetric(Metric):
    """A metric that is the mean of a number of each row; it is resampled without a loop."""

    @abstractmethod
    def row_values(self, label: Array, prediction: Array) -> Array:
        """Return the number of each row, shape (rows,), all finite."""

    def value(self, label: Array, prediction: Array, weight: Array) -> float:
        return float(np.average(self.row_values(label, prediction), weights=weight))

    def resampled(self, label: Array, prediction: Array, codes: Codes, counts: Array) -> Array:
        return resampled_mean(np.asarray(self.row_values(label, prediction), dtype=np.float64), codes, counts)


OwnMetrics = Mapping[str, Metric]
"""The metrics of a team's own by the names that gates and reports use."""


def is_higher_better(metric: str, own: OwnMetrics) -> bool:
    """Return whether a larger value of ``metric``, a built-in one or one of ``own``, is better."""
    return own[metric].higher_is_better if metric in own else metric in HIGHER_IS_BETTER


def resampled_own(name: str, metric: Metric, label: Array, prediction: Array, codes: Codes, counts: Array) -> Array:
    """Return the values of :meth:`Metric.resampled`, checked. The first resample has every block once.

    Raises :class:`~ml_platform.data.extensions.ExtensionError` for another shape, or when the rows have no value.
    """
    values = np.asarray(metric.resampled(label, prediction, codes, counts), dtype=np.float64)
    if values.shape != (len(counts),):
        raise metric.error(
            expected=f"one value of '{name}' per resample ({len(counts)})", found=f"shape {values.shape}"
        )
    if not np.isfinite(values[0]):
        raise metric.error(expected=f"a finite value of '{name}' on {len(label)} rows", found=f"{values[0]:g}")
    return values


def own_scores(own: OwnMetrics, label: Array, prediction: Array) -> dict[str, float]:
    """Return the value of each metric on rows that count once."""
    once, codes = np.ones((1, 1)), np.zeros(len(label), dtype=np.int64)
    return {name: float(resampled_own(name, metric, label, prediction, codes, once)[0]) for name, metric in own.items()}
