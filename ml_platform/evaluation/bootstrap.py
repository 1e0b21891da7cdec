"""Confidence intervals of metrics by a paired block bootstrap, corrected for alike consecutive blocks.

It draws whole blocks, for example days, because the rows of a day have common errors. A resample is a vector of block
counts. A metric of all resamples is then a matrix product of these counts with sums that are computed once per block.

The bootstrap gives the standard error of independent blocks. Resamples that leave out one block each give the
influence of each block on a metric (Efron 1982, The jackknife, the bootstrap and other resampling plans). The serial
dependence of these influences corrects the standard error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.evaluation.calibration_error import CalibrationError, calibration_error
from ml_platform.evaluation.serial_dependence import Dependence, serial_dependence
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.metrics import (
    ALERT_RATE,
    UNBOUNDED,
    Array,
    Bounds,
    EvaluationError,
    require_metric,
)
from ml_platform.tasks.own_metric import OwnMetrics, is_higher_better, resampled_own
from ml_platform.tasks.task import Context, MetricOptions, Task

TIME_UNITS = ("hour", "day", "week")
"""Units of time that the bootstrap can draw as blocks; they have an order."""

ROW_UNIT = "row"
"""Unit of a table whose rows are independent."""

MINIMUM_CASES = 10
"""Rows of the rarer class from which the error of the paired test holds (`benchmarks/interval_coverage.py`)."""

MAX_BLOCKS = 512
"""More blocks are merged: neighbours in time, or blocks without an order at random. Merged blocks remain valid."""


class BootstrapSettings(Settings):
    """Settings of the confidence intervals."""

    resamples: int = Field(default=1000, ge=100, le=100_000, description="Number of times that the blocks are drawn.")
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1.0, description="Share of intervals that should contain the true value."
    )
    unit: str = Field(
        default="day",
        description="Block that is drawn whole: 'hour', 'day' or 'week', a column whose values are independent groups, "
        "or 'row' for a table of independent rows.",
    )
    seed: int = Field(default=20130101, ge=0, description="Seed of the draws: the same rows give the same interval.")
    quantile: float = Field(default=0.5, gt=0, lt=1, description="Quantile that a regression predicts (pinball loss).")
    alert_rate: float = Field(
        default=ALERT_RATE, gt=0, lt=1, description="Share of rows with an alert, for the metric recall_at_rate."
    )
    minimum_cases: int = Field(
        default=MINIMUM_CASES,
        ge=2,
        description="Rows of the rarer class below which no comparison decides, because its error rate does not hold.",
    )

    @property
    def ordered(self) -> bool:
        """Return whether the blocks are in order of time."""
        return self.unit in TIME_UNITS


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Improvement of one model over another on the same rows; for every metric, positive means better."""

    value: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    rows: int

    def one_sided_p_value(self, bound: float) -> float:
        """Return the one-sided p-value of "the true improvement is at most ``bound``"."""
        from scipy.special import stdtr

        if self.standard_error == 0:
            return 0.0 if self.value > bound else 1.0
        return float(1.0 - stdtr(self.degrees_of_freedom, (self.value - bound) / self.standard_error))

    def mirrored(self) -> "Difference":
        """Return the same difference with its sign turned."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def rows_to_decide(self, bound: float, confidence: float, power: float = 0.8) -> int | None:
        """Return about how many rows would show an improvement above ``bound``, if it is as large as measured.

        The estimate assumes that the standard error falls with the square root of the number of rows. Returns None when
        the measured improvement does not exceed the bound, because more rows of this kind would not show one.
        """
        from scipy.special import ndtri

        if self.value <= bound:
            return None
        ratio = float(ndtri(0.5 + confidence / 2) + ndtri(power)) * self.standard_error / (self.value - bound)
        return max(self.rows, int(np.ceil(self.rows * ratio**2)))


@dataclass(frozen=True)
class Bootstrap:
    """Metrics of several models on the same rows and on the same resamples of these rows.

    ``points[model][metric]`` is the value on the rows. ``draws[model][metric]`` has shape (resamples,), with NaN for a
    resample in which the metric has no value. ``influence[model][metric]`` has shape (blocks,) in order of time, and is
    empty for blocks without an order. ``calibration[model]`` is set with the metric ``ece``. ``cases`` is the number of
    rows of the rarer class, and None for a task without classes. ``own`` are the metrics of a team's own.
    """

    points: dict[str, dict[str, float]]
    draws: dict[str, dict[str, Array]]
    blocks: int
    rows: int
    confidence: float
    influence: dict[str, dict[str, Array]] = field(default_factory=dict)
    calibration: dict[str, CalibrationError] = field(default_factory=dict)
    cases: int | None = None
    own: OwnMetrics = field(default_factory=dict)

    def interval(self, model: str, metric: str) -> Interval:
        """Return the metric with its interval: Student's t times the standard error, clipped to the metric's range.

        With few blocks the t quantile covers better than percentiles of the draws (Cameron, Gelbach and Miller 2008,
        Bootstrap-based improvements for inference with clustered errors). The metric ``ece`` is given without its bias,
        see :func:`~ml_platform.evaluation.calibration_error.calibration_error`.
        """
        value = self._point(model, metric)
        if metric == "ece" and model in self.calibration:
            found = self.calibration[model]
            return Interval(found.value, found.low, found.high)
        influence = self.influence[model][metric] if self.influence else None
        error, freedom = self._standard_error(self.draws[model][metric], influence)
        half_width = self._quantile(freedom) * error
        lowest, highest = self._range(metric)
        return Interval(value, float(max(lowest, value - half_width)), float(min(highest, value + half_width)))

    def difference(self, candidate: str, champion: str, metric: str) -> Difference:
        """Return the improvement of ``candidate`` over ``champion``, paired by resample."""
        sign = 1.0 if self.is_higher_better(metric) else -1.0
        value = sign * (self._point(candidate, metric) - self._point(champion, metric)) + 0.0  # never -0.0
        paired = sign * (self.draws[candidate][metric] - self.draws[champion][metric])
        influence = self.influence[candidate][metric] - self.influence[champion][metric] if self.influence else None
        error, freedom = self._standard_error(paired, influence)
        half_width = self._quantile(freedom) * error
        return Difference(value, value - half_width, value + half_width, error, freedom, self.rows)

    def is_higher_better(self, metric: str) -> bool:
        """Return whether a larger value of ``metric`` is better."""
        return is_higher_better(metric, self.own)

    def _range(self, metric: str) -> tuple[float, float]:
        if metric in self.own:
            return self.own[metric].lowest, self.own[metric].highest
        return 0.0, np.inf if metric in UNBOUNDED else 1.0

    def _point(self, model: str, metric: str) -> float:
        if metric not in self.points[model]:
            raise EvaluationError(
                f"Metric '{metric}' of '{model}'",
                expected="a value",
                found="none (coverage needs the bounds that the model predicts, and mase the seasonal naive forecast)",
                fix="Pass them with the evidence, or remove the metric from the gates.",
            )
        return self.points[model][metric]

    def _standard_error(self, draws: Array, influence: Array | None) -> tuple[float, float]:
        """Return the standard error of the value and its degrees of freedom."""
        dependence = (
            Dependence(1.0, self.blocks - 1) if influence is None else serial_dependence(influence, ordered=True)
        )
        error = _standard_error(draws, self.blocks) * np.sqrt(dependence.inflation)
        return float(error), dependence.degrees_of_freedom

    def _quantile(self, degrees_of_freedom: float) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(degrees_of_freedom, 0.5 + self.confidence / 2))


def bootstrap(
    label: npt.ArrayLike,
    predictions: Mapping[str, npt.ArrayLike],
    block: npt.ArrayLike,
    settings: BootstrapSettings,
    *,
    task: Task | str = "binary",
    metrics: Sequence[str] | None = None,
    bounds: Mapping[str, Bounds] | None = None,
    own: OwnMetrics | None = None,
    context: Context | None = None,
) -> Bootstrap:
    """Return ``metrics`` of each model in ``predictions`` on the rows and on resamples; default: all of them.

    ``block`` is the block of each row, as sortable values without nulls. All models are scored on the same resamples,
    so their differences are paired. ``bounds`` maps models to the lower and upper ends that a regression predicts, and
    adds their coverage. ``context`` is that of the rows, for tasks that need it. ``own`` are metrics of a team's own,
    besides those of the task. Raises :class:`EvaluationError` as :func:`~ml_platform.tasks.metrics.score` does, for an
    unknown metric and for fewer than two blocks.
    """
    task = as_task(task)
    own = own or {}
    selected = tuple(metrics or [*task.metrics, *own])
    for metric in selected:
        require_metric(metric, (*task.metrics, *own))
    built_in = [metric for metric in selected if metric not in own]
    codes, blocks = merge_blocks(*block_codes(block), ordered=settings.ordered, seed=settings.seed)
    counts = draw_counts(blocks, settings.resamples, settings.seed)
    # The first row takes every block once, so the same arithmetic gives the value on the rows themselves.
    left_out = np.ones((blocks, blocks)) - np.eye(blocks) if settings.ordered else np.empty((0, blocks))
    counts = np.vstack([np.ones(blocks), counts, left_out])
    options = MetricOptions(quantile=settings.quantile, alert_rate=settings.alert_rate)
    values: dict[str, dict[str, Array]] = {}
    calibration: dict[str, CalibrationError] = {}
    for name, prediction in predictions.items():
        values[name] = task.resampled(
            label,
            prediction,
            codes,
            counts,
            built_in,
            bounds=(bounds or {}).get(name),
            options=options,
            context=context,
        )
        for metric in (each for each in selected if each in own):
            truth, predicted = np.asarray(label, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
            values[name][metric] = resampled_own(metric, own[metric], truth, predicted, codes, counts)
        if "ece" in selected and not task.output_names:
            calibration[name] = calibration_error(
                np.asarray(label, dtype=np.float64),
                np.asarray(prediction, dtype=np.float64),
                codes,
                ordered=settings.ordered,
                confidence=settings.confidence,
                draws=settings.resamples,
                seed=settings.seed,
            )
    cases = task.rarest_class_rows(np.asarray(label, dtype=np.float64))
    drawn_rows = slice(1, 1 + settings.resamples)
    return Bootstrap(
        points={name: {metric: float(drawn[0]) for metric, drawn in of.items()} for name, of in values.items()},
        draws={name: {metric: drawn[drawn_rows] for metric, drawn in of.items()} for name, of in values.items()},
        blocks=blocks,
        rows=len(codes),
        confidence=settings.confidence,
        influence={
            # A block without which a metric has no value tells nothing about the dependence.
            name: {metric: np.nan_to_num(drawn[0] - drawn[1 + settings.resamples :]) for metric, drawn in of.items()}
            for name, of in values.items()
        }
        if settings.ordered
        else {},
        calibration=calibration,
        cases=cases,
        own=own,
    )


def block_codes(block: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], int]:
    """Return the block number of each row, from 0, and the number of blocks.

    Raises :class:`EvaluationError` for fewer than two blocks.
    """
    block_values, codes = np.unique(np.asarray(block), return_inverse=True)
    if len(block_values) < 2:
        raise EvaluationError(
            "Bootstrap",
            expected="at least two blocks to draw from",
            found=f"{len(block_values)} among {len(codes)} rows",
            fix="Evaluate a longer period, or declare a smaller unit in evaluation.bootstrap.unit.",
        )
    return codes.astype(np.int64).reshape(-1), len(block_values)


def merge_blocks(
    codes: npt.NDArray[np.int64], blocks: int, *, ordered: bool, seed: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Return block numbers and their count with at most ``MAX_BLOCKS`` blocks, of about equally many blocks each."""
    if blocks <= MAX_BLOCKS:
        return codes, blocks
    merged = np.arange(blocks) * MAX_BLOCKS // blocks
    if not ordered:
        merged = np.random.Generator(np.random.PCG64(seed)).permutation(merged)
    return merged[codes], MAX_BLOCKS


def draw_counts(blocks: int, resamples: int, seed: int) -> Array:
    """Return how often each resample has each block, shape (resamples, blocks); each row sums to ``blocks``."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=resamples).astype(np.float64)


def _standard_error(draws: Array, blocks: int) -> float:
    finite = draws[np.isfinite(draws)]
    if len(finite) < max(2, len(draws) // 2):
        raise EvaluationError(
            "Bootstrap",
            expected="a value in at least half of the resamples",
            found=f"{len(finite)} of {len(draws)}",
            fix="Evaluate a longer period or a larger slice: too few blocks have both classes.",
        )
    # The draws with replacement have (blocks - 1) / blocks of the true variance.
    return float(finite.std(ddof=1) * np.sqrt(blocks / (blocks - 1)))
