"""The interface of a task: all that differs between kinds of prediction, so that callers ask it and compare no names.

A declared task has the settings of `defs.yaml`. :meth:`Task.fitted_to` adds what the training rows determine, for
example the classes; that task is stored with the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import ConfigDict

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError
from ml_platform.tasks.metrics import ALERT_RATE, Array, Bounds, EvaluationError, regression_arrays
from ml_platform.tasks.resampling import Codes

Context = Mapping[str, Array]
"""Numbers of each row that a task needs besides label and prediction, by name, each of shape (rows,)."""


class LabelError(PlatformError):
    """Raised when labels do not suit the task: wrong values, classes without rows, or a constant."""


@dataclass(frozen=True)
class MetricOptions:
    """Parameters of metrics that a declaration sets.

    ``quantile`` is that of the pinball loss of a regression, and ``alert_rate`` the share of rows with an alert for
    recall_at_rate.
    """

    quantile: float = 0.5
    alert_rate: float = ALERT_RATE


class Task(Settings, ABC):
    """A kind of prediction. Labels are codes and predictions are numbers, both float64.

    A prediction has shape (rows,) for a task with one output, otherwise (rows, outputs). ``loss`` names what trainers
    minimise: ``log_loss``, ``multinomial``, ``squared_error``, ``pinball`` or ``lambdarank``.
    """

    model_config = ConfigDict(frozen=True)

    metrics: ClassVar[tuple[str, ...]]
    interval_metrics: ClassVar[frozenset[str]] = frozenset()
    """Metrics of predicted intervals, which baselines and slices do not have."""

    primary_metric: ClassVar[str]
    """Metric that chooses the best of several candidates by default."""

    baseline_metric: ClassVar[str]
    """Metric of the comparison with the baselines by default."""

    slice_metric: ClassVar[str]
    """Metric by which slices are ordered and shown."""

    loss: ClassVar[str]
    label_type: ClassVar[str]
    """Type of the label in the training set, for readers of its schema."""

    has_probabilities: ClassVar[bool] = False
    """Whether predictions are probabilities: they are calibrated, and explained in log-odds."""

    has_threshold: ClassVar[bool] = False
    """Whether a threshold turns a score into an answer."""

    has_interval: ClassVar[bool] = False
    """Whether an interval around the value is fitted on the validation rows."""

    has_two_values: ClassVar[bool] = False
    """Whether the label is 0 or 1, which the leakage screen needs."""

    score_text: ClassVar[str]
    """Meaning of the score of an answer, for the reference of the endpoint."""

    answer_text: ClassVar[str]
    """Text about the answer of the endpoint, for the model card of a task without a threshold."""

    @property
    def name(self) -> str:
        """The name in `defs.yaml`."""
        return str(self.type)  # type: ignore[attr-defined] # each task declares its literal

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs; empty for a task with one output."""
        return []

    @property
    def usable_metrics(self) -> tuple[str, ...]:
        """The metrics that have a value with the declared settings."""
        return self.metrics

    @property
    def quantile_levels(self) -> list[float]:
        """Levels of the quantiles that a trainer fits, one for each output; empty for other tasks."""
        return []

    @property
    def ranked_rows(self) -> int | None:
        """Number of first rows that the metric of early stopping counts; None for a task that ranks no rows."""
        return None

    @property
    def context_features(self) -> dict[str, str]:
        """Settings that name a feature, ``view__feature``, whose values :meth:`context` reads, with the feature."""
        return {}

    @property
    def context_fields(self) -> dict[str, str]:
        """Settings that name a request field whose values :meth:`context` reads, with the field."""
        return {}

    @property
    def baseline_names(self) -> list[str]:
        """Names of the baselines of :meth:`baselines`."""
        return []

    @property
    def loss_text(self) -> str:
        """Name of the loss of a row, for readers of reports."""
        return "log loss" if self.has_probabilities else "squared error"

    @property
    def outputs(self) -> int:
        """Number of columns that a fitted model returns."""
        return max(1, len(self.output_names))

    def with_outputs(self, names: Sequence[str]) -> Self:
        """Return the task whose outputs have ``names``, as a stored table has them."""
        return self

    def fitted_to(self, label: pl.Series, subject: str) -> Self:
        """Return the task with what the labels of the training rows determine. Raises :class:`LabelError`."""
        return self

    @abstractmethod
    def encode(self, label: pl.Series, subject: str) -> Array:
        """Return ``label`` as numbers, shape (rows,). Raises :class:`LabelError`, which names ``subject``."""

    def require_evaluable(self, label: Array, subject: str) -> None:
        """Raise :class:`LabelError` when no metric has a value on ``label``, the codes of the test rows."""

    def prediction(self, outputs: Array) -> Array:
        """Return the prediction from the ``outputs`` of a fitted model, shape (rows, outputs)."""
        if outputs.ndim == 1:  # a trainer of a team's own with one output
            return outputs
        return outputs if self.output_names else outputs[:, 0]

    def aligned(self, prediction: Array, task: "Task") -> Array:
        """Return a ``prediction`` of another version, whose task is ``task``, in the outputs of this task."""
        return prediction

    def context(self, rows: pl.DataFrame) -> dict[str, Array]:
        """Return the numbers besides label and prediction that the task needs, from request fields and features."""
        return {}

    def answer_context(self, fields: Mapping[str, Sequence[Any]] | pl.DataFrame) -> dict[str, Array]:
        """Return the part of :meth:`context` that :meth:`answer_details` needs, from the ``fields`` of one request."""
        return {}

    @abstractmethod
    def baseline(self, label: Array, rows: int) -> Array:
        """Return the best constant prediction by the known ``label``, for ``rows`` rows."""

    def baselines(self, label: Array, context: Context, rows: Context) -> dict[str, Array]:
        """Return the predictions of further baselines by name, for rows with the context ``rows``.

        ``label`` and ``context`` are those of the known rows.
        """
        return {}

    def score(
        self,
        label: Any,
        prediction: Any,
        bounds: Bounds | None = None,
        options: MetricOptions | None = None,
        context: Context | None = None,
    ) -> dict[str, float]:
        """Return the metrics; raises :class:`~ml_platform.tasks.metrics.EvaluationError` without a value.

        ``context`` is that of the rows. A metric that needs what it lacks is left out. By default the metrics are those
        of one resample that has every row once.
        """
        once, block = np.ones((1, 1)), np.zeros(len(np.asarray(label)), dtype=np.int64)
        found = self.resampled(
            label, prediction, block, once, self.metrics, bounds=bounds, options=options, context=context
        )
        return {name: float(values[0]) for name, values in found.items()}

    @abstractmethod
    def resampled(
        self,
        label: Any,
        prediction: Any,
        codes: Codes,
        counts: Array,
        metrics: Sequence[str],
        *,
        bounds: Bounds | None = None,
        options: MetricOptions | None = None,
        context: Context | None = None,
    ) -> dict[str, Array]:
        """Return ``metrics`` of each resample, shape (resamples,), as :mod:`ml_platform.tasks.resampling` defines it.

        NaN marks a resample in which a metric has no value; a metric that needs absent ``bounds`` or ``context`` is
        left out.
        """

    @abstractmethod
    def losses(self, label: Array, outputs: Array, context: Context | None = None) -> Array:
        """Return the loss of each row that trainers minimise, from ``outputs`` (rows, outputs), shape (rows,)."""

    def explained_output(self, outputs: Array) -> Array:
        """Return the number of the output that explanations explain for each row of ``outputs``, shape (rows,)."""
        return np.asarray(outputs.argmax(axis=1))

    def explained_variance(self, label: Array, prediction: Array) -> float | None:
        """Return the share of the variance of ``label`` that is explained (R²); None for a task that has none."""
        return None

    def is_comparable(self, label: Array) -> bool:
        """Return whether a metric has a value on the rows of a slice."""
        return True

    def rarest_class_rows(self, label: Array) -> int | None:
        """Return the number of rows of the rarest class; None for a task without classes."""
        return None

    def summary(self, label: Array) -> dict[str, float]:
        """Return numbers about the labels that belong beside the metrics, by stable names."""
        return {}

    def probabilities(self, label: Array, prediction: Array) -> dict[str, tuple[Array, Array]]:
        """Return by class its 0/1 labels and its probabilities, for reliability curves; empty without classes."""
        return {}

    def calibration_bias(self, label: Array, prediction: Array) -> float:
        """Return the largest difference between a mean probability and the share of its class."""
        gaps = [float(each.mean() - truth.mean()) for truth, each in self.probabilities(label, prediction).values()]
        return max(gaps, key=abs, default=float("nan"))

    def tables(self, label: Array, prediction: Array) -> dict[str, list[dict[str, Any]]]:
        """Return the tables by title that the model card shows besides the metrics, as rows."""
        return {}

    def score_columns(self, prediction: Array) -> dict[str, Array]:
        """Return the columns whose distribution is monitored for drift, each of shape (rows,)."""
        if not self.output_names:
            return {"score": prediction}
        return {f"score_{name}": prediction[:, output] for output, name in enumerate(self.output_names)}

    @property
    def answer_schema(self) -> dict[str, Any]:
        """OpenAPI schema of the answer, the field ``label``."""
        return {
            "type": ["boolean", "null"],
            "description": "Whether the score reaches the model's threshold; null for a task that answers a number.",
        }

    @property
    def details(self) -> dict[str, Any]:
        """OpenAPI schemas of the fields of an answer besides ``score`` and ``label``, by name."""
        return {}

    def answer_details(
        self, prediction: Array, half_width: float | Array | None, context: Context | None = None
    ) -> list[dict[str, Any]] | None:
        """Return the fields of :attr:`details` of each row, and None for a task without them.

        ``half_width`` is that of a fitted interval, one for all or one for each row; ``context`` is that of the rows of
        one request.
        """
        return None

    def scores(self, prediction: Array) -> Array:
        """Return the one number of each row that is answered and logged as its score, shape (rows,)."""
        return prediction

    def labels(self, prediction: Array, threshold: float | None) -> list[Any]:
        """Return the answer of each row; None for a task that answers a number."""
        return [None] * len(prediction)

    @property
    def outcome_type(self) -> pl.DataType:
        """Type of an outcome in the outcomes table."""
        return pl.Float64()

    def realised_metrics(self, outcomes: pl.DataFrame) -> dict[str, float]:
        """Return the metrics of logged predictions whose outcomes are known.

        ``outcomes`` has ``outcome``, ``score``, ``request_id`` and the JSON text ``details``, null for a task without
        details.
        """
        label = outcomes["outcome"].to_numpy()
        return self.score(label, outcomes["score"].to_numpy()) | self.summary(label)

    def logged_predictions(self, rows: pl.DataFrame) -> tuple[Self, Array]:
        """Return the task with the outputs that one version answered, and its predictions of logged ``rows``.

        ``rows`` are not empty and have ``score`` and ``details``; an outcome is not needed.
        """
        return self, rows["score"].cast(pl.Float64).to_numpy()

    def realised_rows(self, outcomes: pl.DataFrame) -> tuple[Array, Array]:
        """Return label (rows,) and prediction of ``outcomes`` of one version, in the shape that they had in training.

        The metrics of a team's own are computed on them.
        """
        label, score = (outcomes[name].cast(pl.Float64).to_numpy() for name in ("outcome", "score"))
        return label, score


def answered_numbers(details: Mapping[str, Any]) -> list[float]:
    """Return the numbers in the fields of one answer, those of an object one after the other.

    >>> answered_numbers({"rank": 2, "interval": {"lower": 0.5, "upper": 1.5}, "other": None})
    [2, 0.5, 1.5]
    """
    parts = [list(each.values()) if isinstance(each, Mapping) else [each] for each in details.values()]
    return [number for part in parts for number in part if number is not None]


def output_arrays(task: Task, label: Any, prediction: Any, each: str) -> tuple[Array, Array]:
    """Return label (rows,) and prediction (rows, outputs) of ``task`` as float64.

    Raises :class:`~ml_platform.tasks.metrics.EvaluationError` unless the prediction has ``each`` (an output, in words)
    in every row.
    """
    outputs = np.asarray(prediction, dtype=np.float64)
    truth, _ = regression_arrays(label, label)
    expected = (len(truth), len(task.output_names))
    if outputs.shape != expected or not np.isfinite(outputs).all():
        raise EvaluationError(
            "Predictions",
            expected=f"a finite {each}, shape {expected}",
            found=f"shape {outputs.shape}" if outputs.shape != expected else "NaN or infinity",
            fix=f"Predict with a trainer of task {task.name}.",
        )
    return truth, outputs


def outputs_schema(task: Task, description: str) -> dict[str, Any]:
    """Return the OpenAPI schema of an object with a number for each output of ``task``."""
    return {
        "type": "object",
        "description": description,
        "properties": {name: {"type": "number"} for name in task.output_names},
        "required": task.output_names,
        "additionalProperties": False,
    }


def named_outputs(task: Task, prediction: Array) -> list[dict[str, float]]:
    """Return for each row of ``prediction`` (rows, outputs) its numbers by the names of the outputs."""
    names = task.output_names
    return [dict(zip(names, row, strict=True)) for row in prediction.tolist()]


def explained_share(label: Array, value: Array) -> float:
    """Return the share of the variance of ``label`` that ``value`` explains (R²), and 0 for a constant label."""
    variance = float(label.var())
    return 1 - float(np.square(value - label).mean()) / variance if variance else 0.0


def rows_of(context: Context, rows: Any) -> dict[str, Array]:
    """Return the ``context`` of some ``rows``, given as numbers, flags or a slice."""
    return {name: values[rows] for name, values in context.items()}


def number_label(label: pl.Series, subject: str, *, fix: str) -> Array:
    """Return a label of numbers as float64; raises :class:`LabelError` for text, nulls and infinite values."""
    if not (label.dtype.is_numeric() or label.dtype in (pl.Boolean, pl.Null)):
        raise LabelError(
            subject,
            expected="labels that are numbers",
            found=f"{label.dtype} values{_examples(label)}",
            fix=fix,
        )
    values = label.cast(pl.Float64)
    invalid = values.filter(~values.is_finite() | values.is_null())
    if invalid.len():
        raise LabelError(
            subject,
            expected="labels that are numbers",
            found=f"{invalid.len()} of {len(label)} others, for example {invalid[0]}",
            fix="Correct the label rule in the examples function.",
        )
    return values.to_numpy()


def _examples(label: pl.Series) -> str:
    present = label.drop_nulls().unique(maintain_order=True).head(3).to_list()
    return f", for example {', '.join(repr(each) for each in present)}" if present else ""


def constant(values: Sequence[float], rows: int) -> Array:
    """Return ``values`` in each of ``rows`` rows: shape (rows,) for one value, else (rows, values)."""
    repeated = np.tile(np.asarray(values, dtype=np.float64), (rows, 1))
    return repeated[:, 0] if len(values) == 1 else repeated
