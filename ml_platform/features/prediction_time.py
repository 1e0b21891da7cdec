"""When a prediction is made, as a rule on the request: the same for training rows and for rows that are served."""

from datetime import timedelta

import polars as pl
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.features.view import PREDICT_AT


class PredictionTime(Settings):
    """So many minutes before a time that the request names."""

    field: str = Field(description="Request field that holds the time, for example the scheduled departure.")
    minutes_before: int = Field(
        default=0, ge=0, description="Minutes before that time at which the prediction is made."
    )

    def expression(self) -> pl.Expr:
        """Return the column ``predict_at`` (UTC, like the field)."""
        return (pl.col(self.field) - timedelta(minutes=self.minutes_before)).alias(PREDICT_AT)
