"""Gaps in the prediction log: hours without a prediction where the usual traffic says that there should be some."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from pydantic import Field

from ml_platform.data.settings import Settings

HOUR = timedelta(hours=1)
WEEKS, WEEKS_NEEDED = 4, 3
DAYS, DAYS_NEEDED = 14, 5
READ_DAYS = WEEKS * 7 + 2
"""Days of the log that a check reads."""


class PredictionGapSettings(Settings):
    """When an hour without predictions is a gap."""

    usual_predictions: int = Field(
        default=20, ge=1, description="Usual predictions of an hour from which none is a gap."
    )
    hours: int = Field(default=24, ge=1, le=24 * 7, description="Hours before now that are judged.")


@dataclass(frozen=True)
class PredictionGap:
    """Consecutive hours without a prediction, from ``start`` to ``end``; ``usual`` predictions were expected."""

    start: datetime
    end: datetime
    usual: float

    @property
    def hours(self) -> int:
        return round((self.end - self.start) / HOUR)


@dataclass(frozen=True)
class GapReport:
    """The gaps, and the number of hours that could be judged; 0 proves nothing."""

    gaps: list[PredictionGap]
    judged_hours: int


def find_gaps(counts: Mapping[datetime, int], now: datetime, settings: PredictionGapSettings) -> GapReport:
    """Return the gaps in the last ``settings.hours`` whole hours before ``now``.

    ``counts`` has the predictions of each hour (its first instant, UTC) with any. An hour is compared with the same
    hour of the same weekday in the last four weeks if three of them lie after the first prediction, else with the same
    hour of the last 14 days, of which five must. It is judged if all of the former, or all but one of the latter, have
    predictions, and their median is at least ``settings.usual_predictions``.
    """
    first = min(counts, default=now)
    end = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    gaps: list[PredictionGap] = []
    judged = 0
    for back in range(settings.hours, 0, -1):
        hour = end - HOUR * back
        usual = _usual(counts, hour, first)
        if usual is None or usual < settings.usual_predictions:
            continue
        judged += 1
        if counts.get(hour, 0):
            continue
        if gaps and gaps[-1].end == hour:
            gaps[-1] = PredictionGap(gaps[-1].start, hour + HOUR, gaps[-1].usual + usual)
        else:
            gaps.append(PredictionGap(hour, hour + HOUR, usual))
    return GapReport(gaps, judged)


def _usual(counts: Mapping[datetime, int], hour: datetime, first: datetime) -> float | None:
    """Return the usual predictions of ``hour``; None with too little history, or where hours without any are usual."""
    for step, number, needed, empty in ((7, WEEKS, WEEKS_NEEDED, 0), (1, DAYS, DAYS_NEEDED, 1)):
        hours = [hour - timedelta(days=step * at) for at in range(1, number + 1)]
        earlier = [counts.get(each, 0) for each in hours if each >= first]
        if len(earlier) >= needed:
            return float(median(earlier)) if earlier.count(0) <= empty else None
    return None
