"""The seasonal naive forecast: what tasks that predict a number share to be compared with one season before."""

from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from ml_platform.tasks.metrics import Array
from ml_platform.tasks.resampling import Codes, resampled_sum
from ml_platform.tasks.task import Context, Task

MASE = "mase"

NAIVE = "naive"
"""Name of the seasonal naive forecast in the context of the rows."""

SEASONAL_NAIVE = "seasonal_naive"
"""Name of the baseline that forecasts the value of one season before."""


class SeasonalTask(Task):
    """A task of numbers that may name a feature as its seasonal naive forecast."""

    season_feature: str | None = Field(
        default=None,
        description="Feature, as view__feature, with the outcome of the same entity one season before, as known at "
        "prediction time: the seasonal naive forecast. It adds the metric mase and the baseline seasonal_naive.",
    )

    @property
    def usable_metrics(self) -> tuple[str, ...]:
        return tuple(name for name in self.metrics if name != MASE or self.season_feature)

    @property
    def context_features(self) -> dict[str, str]:
        return {"season_feature": self.season_feature} if self.season_feature else {}

    @property
    def baseline_names(self) -> list[str]:
        return [SEASONAL_NAIVE] if self.season_feature else []

    def context(self, rows: pl.DataFrame) -> dict[str, Array]:
        """Return the seasonal naive forecast of each row, NaN where none was known at prediction time."""
        if self.season_feature is None:
            return {}
        values = rows[self.season_feature].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return {NAIVE: np.where(np.isfinite(values), values, np.nan)}

    def baselines(self, label: Array, context: Context, rows: Context) -> dict[str, Array]:
        """Return the seasonal naive forecast; a row without one gets the constant prediction of the known labels."""
        if NAIVE not in context:
            return {}
        naive = rows[NAIVE]
        forecast = self.naive_prediction(naive, label - context[NAIVE])
        return {SEASONAL_NAIVE: np.where(np.isfinite(forecast), forecast, self.baseline(label, len(naive)))}

    def naive_prediction(self, naive: Array, errors: Array) -> Array:
        """Return the ``naive`` forecast, shape (rows,), as a prediction; ``errors`` are those of the known rows."""
        return naive


def resampled_mase(
    error: Array, label: Array, context: Context | None, codes: Codes, counts: Array
) -> dict[str, np.ndarray[Any, Any]]:
    """Return ``mase`` of each resample: the absolute ``error`` by that of the seasonal naive forecast.

    It counts the rows that have a forecast. It scales as Hyndman and Koehler (2006, Another look at measures of
    forecast accuracy), but on the evaluated rows, so it needs no training rows. Empty without a forecast, or if it
    never errs.
    """
    naive = (context or {}).get(NAIVE)
    if naive is None:
        return {}
    known = np.isfinite(naive)
    naive_error = np.where(known, np.abs(np.nan_to_num(naive) - label), 0.0)
    if not naive_error.any():
        return {}
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = resampled_sum(error * known, codes, counts) / resampled_sum(naive_error, codes, counts)
    return {MASE: np.where(np.isfinite(ratio), ratio, np.nan)}
