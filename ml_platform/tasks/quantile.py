"""The task that predicts several quantiles of a number, compared with a seasonal naive forecast."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from ml_platform.tasks.metrics import Array, Bounds, pinball_losses
from ml_platform.tasks.resampling import Codes, resampled_mean
from ml_platform.tasks.seasonal_naive import MASE, SeasonalTask, resampled_mase
from ml_platform.tasks.task import (
    Context,
    MetricOptions,
    Task,
    explained_share,
    named_outputs,
    number_label,
    output_arrays,
    outputs_schema,
)

MEDIAN = 0.5

Level = Annotated[float, Field(gt=0, lt=1)]


class QuantileTask(SeasonalTask):
    """Predict quantiles of a number. The median is the score, and all quantiles ascend within a row.

    A trainer fits each level alone, so quantiles of a row may cross. They are sorted, which never raises the pinball
    loss (Chernozhukov, Fernández-Val and Galichon 2010, Quantile and probability curves without crossing).

    >>> QuantileTask().prediction(np.array([[2.0, 1.0, 4.0]])).tolist()
    [[1.0, 2.0, 4.0]]
    """

    type: Literal["quantile"] = Field(default="quantile", description="Labels that are numbers.")
    levels: list[Level] = Field(
        default_factory=lambda: [0.1, MEDIAN, 0.9],
        min_length=2,
        description="Levels of the quantiles, ascending; 0.5 must be among them, and its quantile is the score.",
    )

    metrics: ClassVar[tuple[str, ...]] = ("pinball", "mae", "coverage", "mase")
    primary_metric: ClassVar[str] = "pinball"
    baseline_metric: ClassVar[str] = "pinball"
    slice_metric: ClassVar[str] = "pinball"
    loss: ClassVar[str] = "pinball"
    label_type: ClassVar[str] = "Float64"
    score_text: ClassVar[str] = "Predicted median, in units of the label."
    answer_text: ClassVar[str] = "Not applicable: the endpoint returns the median and all quantiles."

    @field_validator("levels")
    @classmethod
    def _require_ascending_levels_with_median(cls, given: list[float]) -> list[float]:
        if given != sorted(set(given)) or MEDIAN not in given:
            raise ValueError("levels must ascend and contain 0.5, for example [0.1, 0.5, 0.9]")
        return given

    @property
    def output_names(self) -> list[str]:
        return [f"{level:g}" for level in self.levels]

    def with_outputs(self, names: Sequence[str]) -> Self:
        same = self.output_names == list(names)
        return self if same else self.model_copy(update={"levels": [float(name) for name in names]})

    @property
    def quantile_levels(self) -> list[float]:
        return self.levels

    @property
    def loss_text(self) -> str:
        return "pinball loss"

    def encode(self, label: pl.Series, subject: str) -> Array:
        return number_label(label, subject, fix="Return a number for each example, or declare another task.")

    def prediction(self, outputs: Array) -> Array:
        return np.sort(outputs, axis=1)

    def aligned(self, prediction: Array, task: Task) -> Array:
        """Return the quantiles of another version, interpolated between its levels and constant beyond them."""
        own, others = self.levels, [float(name) for name in task.output_names]
        if own == others:
            return prediction
        return np.array([np.interp(own, others, row) for row in prediction]).reshape(len(prediction), len(own))

    def baseline(self, label: Array, rows: int) -> Array:
        return np.tile(np.quantile(label, self.levels), (rows, 1))

    def naive_prediction(self, naive: Array, errors: Array) -> Array:
        """Return the naive forecast plus the quantiles of its errors on the known rows, shape (rows, levels)."""
        errors = errors[np.isfinite(errors)]
        offsets = np.quantile(errors, self.levels) if errors.size else np.full(len(self.levels), np.nan)
        return np.asarray(naive[:, np.newaxis] + offsets)

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
        """Return the metrics of each resample.

        ``pinball`` is the mean over rows and levels, ``mae`` that of the median, and ``coverage`` the share of rows
        within the lowest and the highest quantile. ``mase`` is that of the median, see :func:`.resampled_mase`.
        """
        truth, quantiles = output_arrays(self, label, prediction, "quantile of each level")
        error = np.abs(quantiles[:, self._median] - truth)
        rows = {
            "pinball": self.losses(truth, quantiles),
            "mae": error,
            "coverage": ((quantiles[:, 0] <= truth) & (truth <= quantiles[:, -1])).astype(np.float64),
        }
        values = {metric: resampled_mean(rows[metric], codes, counts) for metric in metrics if metric in rows}
        if MASE in metrics:
            values |= resampled_mase(error, truth, context, codes, counts)
        return {metric: values[metric] for metric in metrics if metric in values}

    def losses(self, label: Array, outputs: Array, context: Context | None = None) -> Array:
        levels = enumerate(self.levels)
        return np.asarray(np.mean([pinball_losses(label, outputs[:, at], level) for at, level in levels], axis=0))

    def explained_output(self, outputs: Array) -> Array:
        return np.full(len(outputs), self._median)

    def explained_variance(self, label: Array, prediction: Array) -> float | None:
        return explained_share(label, prediction[:, self._median])

    def summary(self, label: Array) -> dict[str, float]:
        return {"base_rate": float(label.mean())}

    def tables(self, label: Array, prediction: Array) -> dict[str, list[dict[str, Any]]]:
        return {
            "Quantiles: a level is right when as many outcomes lie at or below it": [
                {
                    "level": name,
                    "outcomes at or below": float((label <= prediction[:, at]).mean()),
                    "pinball loss": float(pinball_losses(label, prediction[:, at], self.levels[at]).mean()),
                }
                for at, name in enumerate(self.output_names)
            ]
        }

    @property
    def details(self) -> dict[str, Any]:
        return {"quantiles": outputs_schema(self, "Predicted quantiles by level, ascending, in units of the label.")}

    def answer_details(
        self, prediction: Array, half_width: float | Array | None, context: Context | None = None
    ) -> list[dict[str, Any]] | None:
        return [{"quantiles": quantiles} for quantiles in named_outputs(self, prediction)]

    def scores(self, prediction: Array) -> Array:
        return prediction[:, self._median]

    def realised_metrics(self, outcomes: pl.DataFrame) -> dict[str, float]:
        """Return the metrics of the levels that the version answered, without mase: an answer has no naive forecast."""
        label, quantiles = self.realised_rows(outcomes)
        return self.with_outputs(_answered_levels(outcomes)).score(label, quantiles) | self.summary(label)

    def realised_rows(self, outcomes: pl.DataFrame) -> tuple[Array, Array]:
        """Return the label and the quantiles of each row, those of the levels that the version answered, ascending."""
        return outcomes["outcome"].to_numpy(), self.logged_predictions(outcomes)[1]

    def logged_predictions(self, rows: pl.DataFrame) -> tuple[Self, Array]:
        answered, names = (json.loads(text)["quantiles"] for text in rows["details"]), _answered_levels(rows)
        quantiles = np.array([[row[name] for name in names] for row in answered], dtype=np.float64)
        return self.with_outputs(names), quantiles

    @property
    def _median(self) -> int:
        return self.levels.index(MEDIAN)


def _answered_levels(outcomes: pl.DataFrame) -> list[str]:
    return sorted(json.loads(outcomes["details"][0])["quantiles"], key=float)
