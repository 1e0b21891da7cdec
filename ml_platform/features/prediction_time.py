"""The rule that computes the prediction time of a request, the same in training and in serving."""

from datetime import timedelta

import polars as pl
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.features.view import PREDICT_AT


class PredictionTime(Settings):
    """A prediction time that lies a number of minutes before a time in the request."""

    field: str = Field(description="Request field with the time, for example the scheduled departure.")
    minutes_before: int = Field(
        default=0, ge=0, description="How long before that time the prediction is made (minutes)."
    )

    def expression(self) -> pl.Expr:
        """Return the expression of the column ``predict_at``, in the time zone of the field."""
        return (pl.col(self.field) - timedelta(minutes=self.minutes_before)).alias(PREDICT_AT)
