"""Declared search space and budget of tuning, independent of the tuning library."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ml_platform.data.settings import Settings


class FloatRange(Settings):
    """A float between two bounds, both included."""

    kind: Literal["float"] = "float"
    low: float = Field(allow_inf_nan=False, description="Lowest value.")
    high: float = Field(allow_inf_nan=False, description="Highest value.")
    log: bool = Field(default=False, description="Search on a logarithmic scale, for rates and penalties.")

    @model_validator(mode="after")
    def _require_ascending_bounds(self) -> "FloatRange":
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self


class IntRange(Settings):
    """A whole number between two bounds, both included."""

    kind: Literal["int"] = "int"
    low: int = Field(description="Lowest value.")
    high: int = Field(description="Highest value.")
    log: bool = Field(default=False, description="Search on a logarithmic scale, for sizes.")

    @model_validator(mode="after")
    def _require_ascending_bounds(self) -> "IntRange":
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self


class Choices(Settings):
    """One of several values."""

    kind: Literal["choice"] = "choice"
    values: list[str | int | float | bool] = Field(min_length=1, description="Values to choose from.")


SearchRange = Annotated[FloatRange | IntRange | Choices, Field(discriminator="kind")]


class TuningSettings(Settings):
    """A search on the validation rows: its space, its budget, and the rules for stopping trials early."""

    space: dict[str, SearchRange] = Field(min_length=1, description="Settings of the trainer to search, by name.")
    trials: int = Field(default=30, ge=1, description="Number of trials, including those of earlier runs.")
    minutes: float | None = Field(default=None, gt=0, description="Minutes after which no trial starts.")
    parallel: int = Field(
        default=1, ge=1, description="Number of trials at the same time, in threads; torch fits them one after another."
    )
    pruning: bool = Field(default=True, description="Stop a trial that is worse than the median of the others.")
    pruning_interval_steps: int | None = Field(
        default=None,
        ge=1,
        description="Rounds between two pruning checks of a trial; none: 10, or 1 for epochs.",
    )
    pruning_warmup_steps: int | None = Field(
        default=None, ge=0, description="Rounds before the first pruning check; none: 30, or 1 for epochs."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the sampler; the order of parallel trials still varies.")
