"""The retraining policy of a model as a team declares it: what calls for a retraining, and what prevents it."""

from datetime import date
from typing import Literal

from pydantic import Field, model_validator

from ml_platform.data.settings import Settings

SECONDS_OF_HOUR = 3600.0


class NewDataRule(Settings):
    """Retrain when enough windows have closed."""

    every_windows: int = Field(
        default=1,
        ge=1,
        description="Closed windows since the last evaluated one that call for a retraining.",
        json_schema_extra={"unit": "windows"},
    )


class DriftRule(Settings):
    """Retrain when the drift check of the window finds enough."""

    severity: Literal["notice", "alert"] = Field(
        default="alert",
        description="notice: shifted features call for a retraining too; alert: only shifted scores and broken data.",
    )


class LossRule(Settings):
    """Retrain when the realised loss of the champion is worse than its evaluation promised."""

    tolerance: float = Field(
        default=0.02,
        ge=0,
        description="Loss above the upper end of the promised interval that is still accepted, in units of the loss.",
        json_schema_extra={"unit": "unit of the loss"},
    )
    error: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Highest probability that a champion as good as promised is ever found worse, over all looks.",
        json_schema_extra={"unit": "probability"},
    )
    estimated: bool = Field(
        default=False,
        description="Whether the estimated loss of the latest period counts while its labels are not known, if earlier "
        "estimates are reliable.",
    )


class BudgetRule(Settings):
    """A limit of the retrainings within a time; a retraining beyond it is not started."""

    days: float = Field(gt=0, description="Length of the time on the data clock, up to the end of the window.")
    runs: int | None = Field(
        default=None,
        ge=1,
        description="Highest number of training runs within it, failed ones included; none: any number.",
        json_schema_extra={"unit": "runs"},
        examples=[4],
    )
    training_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Highest duration of all training runs within it, failed ones included; none: any duration.",
        examples=[7200],
    )

    @model_validator(mode="after")
    def _require_a_limit(self) -> "BudgetRule":
        if self.runs is None and self.training_seconds is None:
            raise ValueError("a budget needs runs, training_seconds or both.")
        return self


class CalendarBlock(Settings):
    """Days on the data clock on which no window calls for a retraining."""

    first: date = Field(description="First day, in the time zone of the model.", examples=["2013-12-20"])
    last: date = Field(description="Last day, included.", examples=["2014-01-02"])
    every_year: bool = Field(default=False, description="Whether it returns each year; only month and day count then.")
    reason: str = Field(min_length=1, description="Reason, for the record.", examples=["Holiday traffic"])

    @model_validator(mode="after")
    def _require_order(self) -> "CalendarBlock":
        if not self.every_year and self.last < self.first:
            raise ValueError(f"the last day {self.last} is before the first day {self.first}.")
        return self

    def covers(self, day: date) -> bool:
        """Return whether ``day`` lies within; a block of every year may go over its end.

        >>> CalendarBlock(first="2013-12-20", last="2014-01-02", every_year=True, reason="Holidays").covers(
        ...     date(2020, 1, 1)
        ... )
        True
        """
        if not self.every_year:
            return self.first <= day <= self.last
        first, last, found = ((each.month, each.day) for each in (self.first, self.last, day))
        return first <= found <= last if first <= last else found >= first or found <= last


class RetrainingPolicy(Settings):
    """When a closed window is trained on.

    `new_data`, `drift`, `loss` and `max_age_days` call for a retraining, and one of them is enough. `cooldown_days`,
    `budget` and `calendar` prevent it. All times are on the data clock: the time of a window is its end.
    """

    new_data: NewDataRule | None = Field(default=None, description="Retrain every so many closed windows.")
    drift: DriftRule | None = Field(default=None, description="Retrain on drift of the window.")
    loss: LossRule | None = Field(default=None, description="Retrain when the realised loss is worse than promised.")
    max_age_days: float | None = Field(
        default=None,
        gt=0,
        description="Retrain when the window on which the champion was evaluated ended so long ago; none: never.",
        examples=[90],
    )
    cooldown_days: float | None = Field(
        default=None,
        gt=0,
        description="Time after the last evaluated window in which no further one is trained on; none: no such time.",
        examples=[14],
    )
    budget: BudgetRule | None = Field(default=None, description="Limit of the retrainings within a time.")
    calendar: list[CalendarBlock] = Field(
        default_factory=list, description="Days on which no window is trained on, with the reason."
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=6,
        description="Runs that may fail for one decision; then retraining stops until a person resumes it, or another "
        "window or changed code leads to another decision.",
        json_schema_extra={"unit": "runs"},
    )

    @model_validator(mode="after")
    def _require_a_trigger(self) -> "RetrainingPolicy":
        if self.new_data is None and self.drift is None and self.loss is None and self.max_age_days is None:
            raise ValueError(
                "a policy needs a rule that calls for a retraining: new_data, drift, loss or max_age_days. Without "
                "any, the model is never trained again."
            )
        return self
