"""How old the latest materialization of a dataset may be by the clock, as declared."""

from datetime import timedelta
from typing import Self

from pydantic import Field, model_validator

from ml_platform.data.arrival import DELAY, delay_of
from ml_platform.data.settings import Settings

SHORTEST = timedelta(minutes=1)
"""Shortest time that Dagster judges."""


class FreshnessSettings(Settings):
    """The age of the latest materialization from which Dagster reports a dataset as late."""

    fail_after: str = Field(pattern=DELAY, description="Age from which the dataset fails its policy, like 36h or 2d.")
    warn_after: str | None = Field(
        default=None, pattern=DELAY, description="Age from which it warns, below fail_after; none: no warning."
    )

    @property
    def fail_window(self) -> timedelta:
        return delay_of(self.fail_after)

    @property
    def warn_window(self) -> timedelta | None:
        return None if self.warn_after is None else delay_of(self.warn_after)

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        shortest = self.warn_window if self.warn_window is not None else self.fail_window
        if shortest < SHORTEST or (self.warn_window is not None and self.warn_window >= self.fail_window):
            raise ValueError(
                f"expected at least 1m, and warn_after below fail_after, found {self.warn_after or 'none'} and "
                f"{self.fail_after}"
            )
        return self
