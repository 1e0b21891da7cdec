"""How earlier estimates did: the estimate of each period whose labels have matured beside its realised value.

An estimate whose intervals miss the realised value too often is not reliable, and a retraining policy does not use it.
"""

from collections.abc import Sequence
from datetime import datetime
from math import comb

from pydantic import BaseModel, ConfigDict

from ml_platform.monitoring.estimates import CONFIDENCE
from ml_platform.monitoring.performance import Period

PERIODS_COUNTED = 12
"""Last periods that count."""

LEAST_PERIODS = 3
"""Periods from which a record without too many misses makes an estimate reliable."""

CHANCE = 0.05
"""Probability below which so many misses are no chance."""


class PastEstimate(BaseModel):
    """The estimate of one period and version, with its interval, and the realised value."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    version: str
    estimated: float
    low: float
    high: float
    realised: float

    @property
    def is_within(self) -> bool:
        """Whether the realised value lies in the interval of the estimate."""
        return self.low <= self.realised <= self.high


class TrackRecord(BaseModel):
    """The past estimates of one metric, oldest first."""

    model_config = ConfigDict(frozen=True)

    metric: str
    past: list[PastEstimate]

    @property
    def within(self) -> int:
        """Number of estimates whose interval contains the realised value."""
        return sum(each.is_within for each in self.past)

    @property
    def mean_error(self) -> float:
        """Mean of estimated minus realised; 0 without a period."""
        return sum(each.estimated - each.realised for each in self.past) / max(1, len(self.past))

    @property
    def probability(self) -> float:
        """Probability of so many misses, or more, of 95 % intervals.

        >>> TrackRecord(metric="auc", past=[]).probability
        1.0
        """
        count, miss = len(self.past), 1 - CONFIDENCE
        missed = count - self.within
        return sum(comb(count, each) * miss**each * CONFIDENCE ** (count - each) for each in range(missed, count + 1))

    @property
    def is_reliable(self) -> bool | None:
        """False if intervals missed too often to be chance; None before three periods; else True."""
        if self.probability < CHANCE:
            return False
        return None if len(self.past) < LEAST_PERIODS else True

    @property
    def text(self) -> str:
        """The record in words."""
        if not self.past:
            return "No period with an earlier estimate has all its labels yet."
        counted = (
            f"{self.within} of {len(self.past)} realised values were in the interval of their estimate, mean error "
            f"{self.mean_error:+.4f}."
        )
        verdict = {True: "", False: "Not reliable: ", None: "Too few periods for a judgement: "}
        return verdict[self.is_reliable] + counted


def track_record(periods: Sequence[Period], metric: str) -> TrackRecord:
    """Return the record of the estimates of ``metric`` over the last 12 of ``periods`` whose labels leave no doubt."""
    compared = [
        period for period in periods
        if period.evaluated and period.label_state == "complete" and not period.pending
        and metric in period.metrics and metric in period.estimates
    ]  # fmt: skip
    found = [
        PastEstimate(
            start=period.start,
            version=period.version,
            estimated=period.estimates[metric].value,
            low=period.estimates[metric].low,
            high=period.estimates[metric].high,
            realised=period.metrics[metric],
        )
        for period in compared[-PERIODS_COUNTED:]
    ]
    return TrackRecord(metric=metric, past=found)


def track_records(periods: Sequence[Period]) -> dict[str, TrackRecord]:
    """Return the record of each metric that has an estimate in one of ``periods``, by name."""
    names = sorted({name for period in periods for name in period.estimates})
    return {name: track_record(periods, name) for name in names}
