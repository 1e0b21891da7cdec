"""The task that predicts a number, with an interval that is calibrated on the validation rows."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from ml_platform.tasks.metrics import Array, Bounds, pinball_losses, regression_arrays, score_regression
from ml_platform.tasks.resampling import Codes, resampled_mean
from ml_platform.tasks.seasonal_naive import MASE, SeasonalTask, resampled_mase
from ml_platform.tasks.task import Context, LabelError, MetricOptions, constant, explained_share, number_label


class RegressionTask(SeasonalTask):
    """Predict the mean of a number."""

    type: Literal["regression"] = Field(default="regression", description="Labels that are numbers.")

    minimum: float | None = Field(
        default=None,
        description="Lowest possible label, such as 0 for a count; no prediction and no interval goes below it.",
    )

    metrics: ClassVar[tuple[str, ...]] = ("mae", "rmse", "pinball", "coverage", "mase")
    interval_metrics: ClassVar[frozenset[str]] = frozenset({"coverage"})
    primary_metric: ClassVar[str] = "rmse"
    baseline_metric: ClassVar[str] = "rmse"
    slice_metric: ClassVar[str] = "rmse"
    loss: ClassVar[str] = "squared_error"
    label_type: ClassVar[str] = "Float64"
    has_interval: ClassVar[bool] = True
    score_text: ClassVar[str] = "Predicted value, in units of the label."
    answer_text: ClassVar[str] = "Not applicable: a regression returns a value and its interval."

    def encode(self, label: pl.Series, subject: str) -> Array:
        values = number_label(label, subject, fix="Return a number for each example, or declare task: multiclass.")
        if self.minimum is not None and (low := values[values < self.minimum]).size:
            raise LabelError(
                subject,
                expected=f"labels of at least {self.minimum:g}, the declared minimum of the task",
                found=f"{low.size} of {values.size} below it, for example {low[0]:g}",
                fix="Correct the label rule in the examples function, or the minimum.",
            )
        return values

    def prediction(self, outputs: Array) -> Array:
        return self._limited(super().prediction(outputs))

    def baseline(self, label: Array, rows: int) -> Array:
        return constant([float(label.mean())], rows)

    def score(
        self,
        label: Any,
        prediction: Any,
        bounds: Bounds | None = None,
        options: MetricOptions | None = None,
        context: Context | None = None,
    ) -> dict[str, float]:
        lower, upper = bounds or (None, None)
        quantile = (options or MetricOptions()).quantile
        found = score_regression(label, prediction, quantile=quantile, lower=lower, upper=upper)
        truth, predicted = regression_arrays(label, prediction)
        once, block = np.ones((1, 1)), np.zeros(len(truth), dtype=np.int64)
        scaled = resampled_mase(np.abs(predicted - truth), truth, context, block, once)
        return found | {name: float(values[0]) for name, values in scaled.items()}

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
        truth, predicted = regression_arrays(label, prediction)
        quantile = (options or MetricOptions()).quantile
        values = {
            "mae": resampled_mean(np.abs(predicted - truth), codes, counts),
            "rmse": np.sqrt(resampled_mean(np.square(predicted - truth), codes, counts)),
            "pinball": resampled_mean(pinball_losses(truth, predicted, quantile), codes, counts),
        }
        if bounds is not None and "coverage" in metrics:
            values["coverage"] = resampled_mean(is_covered(label, *bounds), codes, counts)
        if MASE in metrics:
            values |= resampled_mase(np.abs(predicted - truth), truth, context, codes, counts)
        return {metric: values[metric] for metric in metrics if metric in values}

    def losses(self, label: Array, outputs: Array, context: Context | None = None) -> Array:
        return np.asarray(np.square(outputs[:, 0] - label))

    def explained_variance(self, label: Array, prediction: Array) -> float | None:
        return explained_share(label, prediction)

    def summary(self, label: Array) -> dict[str, float]:
        return {"base_rate": float(label.mean())}

    @property
    def details(self) -> dict[str, Any]:
        number = {"type": "number"}
        return {
            "interval": {
                "type": ["object", "null"],
                "description": "Interval that contains the declared share of outcomes; null when none was fitted.",
                "properties": {"lower": number, "upper": number},
                "required": ["lower", "upper"],
                "additionalProperties": False,
            }
        }

    def answer_details(
        self, prediction: Array, half_width: float | Array | None, context: Context | None = None
    ) -> list[dict[str, Any]] | None:
        if half_width is None:
            return [{"interval": None}] * len(prediction)
        lower, upper = self._limited(prediction - half_width), prediction + half_width
        ends = zip(lower.tolist(), upper.tolist(), strict=True)
        return [{"interval": {"lower": low, "upper": high}} for low, high in ends]

    def _limited(self, values: Array) -> Array:
        return values if self.minimum is None else np.maximum(values, self.minimum)


def is_covered(label: Any, lower: Any, upper: Any) -> Array:
    """Return 1.0 for each row whose label lies within its interval, shape (rows,)."""
    truth, low = regression_arrays(label, lower)
    _, high = regression_arrays(label, upper)
    return ((low <= truth) & (truth <= high)).astype(np.float64)
