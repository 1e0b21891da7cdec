"""Whether the realised loss of a champion is worse than its evaluation promised, by a test that holds at every look.

The test bets once for each day, on the mean loss of the day: rows of one day are alike, so they are one observation.
Its state is a few numbers, so a further day costs the same after years.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.monitoring.retraining_policy import LossEvidence
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.store import StateStore
from ml_platform.tasks.betting import bet_on, evidence, no_wealth

_PREFIX = "loss_test/"


class LossTest(BaseModel):
    """The test of one champion so far.

    The null hypothesis is "given the days before, the mean loss of a day is at most ``promised`` + ``tolerance``".
    Losses are at least 0, and a bet that the mean is higher needs no upper limit of them.

    >>> test = LossTest(version=3, metric="log_loss", promised=0.4, tolerance=0.1)
    >>> round(test.after("2013-06-01", 1.0, labels=80).evidence.evidence, 3)
    1.384
    """

    model_config = ConfigDict(frozen=True)

    version: int
    metric: str
    promised: float = Field(gt=0, description="Upper end of the promised interval of the loss.")
    tolerance: float
    days: int = 0
    labels: int = 0
    total: float = Field(default=0.0, description="Sum of the mean losses of the days.")
    log_wealth: list[float] = Field(default_factory=lambda: no_wealth(1)[0].tolist())
    until: str = Field(default="", description="Last day that was read, in UTC; empty before the first one.")
    waiting_for: str = Field(default="", description="First later day whose labels are not due; empty: none.")

    def after(self, day: str, mean_loss: float, labels: int) -> "LossTest":
        """Return the test after ``day`` with its mean loss (at least 0) over ``labels`` known outcomes.

        A day without any known outcome counts as read, and changes no evidence.
        """
        if not labels:
            return self.model_copy(update={"until": day})
        limit = self.promised + self.tolerance
        wealth = bet_on(np.array([self.log_wealth]), np.array([[mean_loss - limit]]), limit)
        return self.model_copy(
            update={
                "days": self.days + 1,
                "labels": self.labels + labels,
                "total": self.total + mean_loss,
                "log_wealth": wealth[0].tolist(),
                "until": day,
            }
        )

    def has_settings_of(self, other: "LossTest") -> bool:
        """Return whether ``other`` tests the same version against the same promise."""
        return all(
            getattr(self, name) == getattr(other, name) for name in ("version", "metric", "promised", "tolerance")
        )

    @property
    def evidence(self) -> LossEvidence:
        """The test as evidence for the retraining policy."""
        return LossEvidence(
            version=self.version,
            metric=self.metric,
            promised=self.promised,
            mean=self.total / self.days if self.days else 0.0,
            days=self.days,
            labels=self.labels,
            evidence=evidence(np.array([self.log_wealth])),
            until=self.until,
            waiting_for=self.waiting_for,
        )


def after_days(test: LossTest, days: Sequence[tuple[str, float, int]]) -> LossTest:
    """Return ``test`` after further ``days``, each with its mean loss and its number of known outcomes."""
    for day, mean_loss, labels in days:
        test = test.after(day, mean_loss, labels)
    return test


def read_loss_test(state: StateStore, model: str) -> LossTest | None:
    """Return the stored test of the champion of ``model``; None before the first day."""
    found: Any = read_cursor(state, f"{_PREFIX}{model}")
    return None if found is None else LossTest.model_validate(found)


def write_loss_test(state: StateStore, model: str, test: LossTest) -> None:
    """Store ``test`` as that of ``model``, in the current transaction if one is open."""
    write_cursor(state, f"{_PREFIX}{model}", test.model_dump(mode="json"))
