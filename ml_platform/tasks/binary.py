"""The task with two classes: a probability, and a threshold that turns it into yes or no."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from ml_platform.tasks import resampled_auc
from ml_platform.tasks.metrics import (
    CALIBRATION_BINS,
    Array,
    Bounds,
    calibration_bin,
    classification_arrays,
    log_losses,
    score,
)
from ml_platform.tasks.resampling import Codes, block_sizes, resampled_mean
from ml_platform.tasks.task import Context, LabelError, MetricOptions, Task, constant


class BinaryTask(Task):
    """Predict the probability of label 1 against label 0."""

    type: Literal["binary"] = Field(default="binary", description="Labels 0 and 1.")

    metrics: ClassVar[tuple[str, ...]] = (
        "auc",
        "average_precision",
        "recall_at_rate",
        "log_loss",
        "brier",
        "ece",
    )
    primary_metric: ClassVar[str] = "auc"
    baseline_metric: ClassVar[str] = "log_loss"
    slice_metric: ClassVar[str] = "log_loss"
    loss: ClassVar[str] = "log_loss"
    label_type: ClassVar[str] = "Int8"
    has_probabilities: ClassVar[bool] = True
    has_threshold: ClassVar[bool] = True
    has_two_values: ClassVar[bool] = True
    score_text: ClassVar[str] = "Probability of label 1."
    answer_text: ClassVar[str] = "The endpoint returns true for scores that reach the threshold."

    def encode(self, label: pl.Series, subject: str) -> Array:
        if label.dtype not in (pl.Boolean, pl.Null) and not label.dtype.is_numeric():
            classes = label.drop_nulls().unique().sort().head(5).to_list()
            raise LabelError(
                subject,
                expected="labels 0 and 1",
                found=f"{label.dtype} values, for example {', '.join(repr(each) for each in classes)}",
                fix="Return 1 for the class to predict and 0 otherwise, or declare task: multiclass.",
            )
        values = label.cast(pl.Float64)
        invalid = values.filter(~values.is_in([0.0, 1.0]) | values.is_null())
        if invalid.len():
            raise LabelError(
                subject,
                expected="labels 0 and 1",
                found=f"{invalid.len()} of {len(label)} others, for example "
                + ("null" if invalid[0] is None else f"{invalid[0]:g}"),
                fix="Correct the label rule in the examples function, or declare task: regression or multiclass.",
            )
        return values.to_numpy()

    def require_evaluable(self, label: Array, subject: str) -> None:
        if len(np.unique(label)) == 1:
            raise LabelError(
                subject,
                expected="labels of both classes for the evaluation",
                found=f"{len(label)} times {label[0]:g}",
                fix="Correct the label rule in the examples function, or choose another window.",
            )

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
        return score(label, prediction)

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
        truth, scores = classification_arrays(label, prediction)
        values: dict[str, Array] = {}
        if {"auc", "average_precision"} & set(metrics):
            values.update(
                resampled_auc.resampled_ranking_metrics(
                    truth, scores, codes, counts, precision="average_precision" in metrics
                )
            )
        if "recall_at_rate" in metrics:
            rate = (options or MetricOptions()).alert_rate
            values["recall_at_rate"] = resampled_auc.resampled_recall(truth, scores, codes, counts, rate)
        if "log_loss" in metrics:
            values["log_loss"] = resampled_mean(log_losses(truth, scores), codes, counts)
        if "brier" in metrics:
            values["brier"] = resampled_mean(np.square(scores - truth), codes, counts)
        if "ece" in metrics:
            values["ece"] = resampled_ece(truth, scores, codes, counts)
        return {metric: values[metric] for metric in metrics}

    def losses(self, label: Array, outputs: Array, context: Context | None = None) -> Array:
        clipped = np.clip(outputs[:, 0], 1e-12, 1 - 1e-12)
        return np.where(np.isnan(label), np.nan, -np.log(np.where(label > 0, clipped, 1 - clipped)))

    def is_comparable(self, label: Array) -> bool:
        return len(np.unique(label)) == 2

    def rarest_class_rows(self, label: Array) -> int | None:
        return int(min(label.sum(), len(label) - label.sum()))

    def summary(self, label: Array) -> dict[str, float]:
        return {"base_rate": float(label.mean())}

    def probabilities(self, label: Array, prediction: Array) -> dict[str, tuple[Array, Array]]:
        return {"1": (label, prediction)}

    def labels(self, prediction: Array, threshold: float | None) -> list[Any]:
        return [None] * len(prediction) if threshold is None else (prediction >= threshold).tolist()


def resampled_ece(truth: Array, scores: Array, codes: Codes, counts: Array) -> Array:
    """Return the expected calibration error of each resample, shape (resamples,)."""
    cell = codes * CALIBRATION_BINS + calibration_bin(scores)
    gaps = np.bincount(cell, weights=truth - scores, minlength=counts.shape[1] * CALIBRATION_BINS)
    drawn = counts @ gaps.reshape(-1, CALIBRATION_BINS)
    return np.asarray(np.abs(drawn).sum(axis=1) / (counts @ block_sizes(codes, counts)))
