"""When facts arrive: the declared cadence and delay of a dataset, and the facts that are usable at an instant.

A fact has two times. It becomes known at ``known_at``, and it is usable from its arrival on. History stores the first
one only; the second one follows from the declaration, so a changed declaration rewrites no data.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.cadences import CALENDARS, SECONDS_PER_HOUR, TimeCadence, shifts_by_whole_hours
from ml_platform.data.instants import instant_of, microseconds_of
from ml_platform.data.settings import Settings

DELAY = r"^\d+[mhdw]$"
"""Form of a delay: a number of minutes, hours, days or weeks."""

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_INSTANT = pl.Datetime("us", "UTC")
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR = SECONDS_PER_HOUR * 1_000_000
_REFERENCE = datetime(2020, 1, 1, tzinfo=UTC)


class ArrivalSettings(Settings):
    """How a dataset arrives, as declared."""

    every: TimeCadence | None = Field(
        default=None,
        description="Period whose facts arrive together, at its end: hour, day, week, month, quarter or year in the "
        "time zone of the partitions; none: each fact arrives by itself.",
    )
    delay: str = Field(
        default="0m",
        pattern=DELAY,
        description="Time from the end of the period, or from the fact, to the arrival, like 15m, 6h or 1d (24 hours).",
    )
    clock: list[str] = Field(
        default_factory=list,
        description="Timestamp columns whose latest value shows how far the latest partition has arrived; default: "
        "event_time. Name others if rows arrive before their event, such as a schedule.",
    )


class Arrival(ArrivalSettings):
    """How one dataset arrives, with the time zone of its periods.

    The facts known in a period ``[a, b)`` arrive together at ``b + delay``; an instant equal to that may use them.

    >>> hourly = Arrival(every="hour", delay="15m")
    >>> hourly.cut_off(datetime(2013, 6, 1, 12, 14, tzinfo=UTC)).isoformat()
    '2013-06-01T11:00:00+00:00'
    >>> hourly.cut_off(datetime(2013, 6, 1, 12, 15, tzinfo=UTC)).isoformat()
    '2013-06-01T12:00:00+00:00'
    """

    dataset: str = Field(default="", description="Name of the dataset.")
    time_zone: str = Field(default="UTC", description="Time zone of the periods, for example America/New_York.")

    def cut_off(self, instant: datetime) -> datetime:
        """Return the instant before which a fact must be known to be usable at ``instant``."""
        arrived = instant - self._delay
        return arrived + _MICROSECOND if self.every is None else self._period(arrived, 0)

    def cut_offs(self, instants: np.ndarray) -> np.ndarray:
        """Return :meth:`cut_off` of each of ``instants``, as microseconds since 1970 in UTC (n, int64)."""
        arrived = instants - self._delay // _MICROSECOND
        if self.every is None:
            return arrived + 1
        if self.every == "hour":
            offset = self._hour_offset * 1_000_000
            return (arrived - offset) // _MICROSECONDS_PER_HOUR * _MICROSECONDS_PER_HOUR + offset
        if not len(arrived):
            return arrived
        calendar, zone = CALENDARS[self.every], self._zone
        first, last = (calendar.number_at(instant_of(int(at)), zone) for at in (arrived.min(), arrived.max()))
        starts = [microseconds_of(calendar.first_instant(number, zone)) for number in range(first, last + 1)]
        begins = np.array(starts, dtype=np.int64)
        return begins[np.searchsorted(begins, arrived, side="right") - 1]

    @property
    def timing(self) -> dict[str, object]:
        """The settings that determine reads: period, delay and time zone."""
        return {"every": self.every, "delay": self.delay, "time_zone": self.time_zone}

    def arrived_with(self, known_at: datetime) -> datetime:
        """Return the end of the period of a fact: all facts known before that instant arrive with it or earlier."""
        return known_at + _MICROSECOND if self.every is None else self._period(known_at, 1)

    def _period(self, instant: datetime, steps: int) -> datetime:
        assert self.every is not None
        calendar = CALENDARS[self.every]
        number = calendar.number_at(instant, self._zone, self._hour_offset)
        return calendar.first_instant(number + steps, self._zone, self._hour_offset)

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @cached_property
    def _delay(self) -> timedelta:
        return delay_of(self.delay)

    @cached_property
    def _hour_offset(self) -> int:
        """Seconds by which the hours of the zone begin after those of UTC; 0 for other cadences."""
        if self.every != "hour":
            return 0
        local = _REFERENCE.astimezone(self._zone).utcoffset() or timedelta()
        return int(-local.total_seconds()) % SECONDS_PER_HOUR

    @model_validator(mode="after")
    def _validate_hours(self) -> "Arrival":
        if self.every == "hour" and not shifts_by_whole_hours(self._zone, _REFERENCE):
            raise ValueError(f"the clock of {self.time_zone} changes by less than an hour; let the data arrive by day")
        return self


def delay_of(text: str) -> timedelta:
    """Return the length of a delay like ``15m``.

    >>> delay_of("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    return int(text[:-1]) * _UNITS[text[-1]]


def cut_offs(arrivals: Sequence[Arrival], instants: pl.Series) -> pl.Series:
    """Return, for each of ``instants`` (UTC), the instant before which a fact must be known to be usable.

    A fact is made of all its sources, so the slowest of ``arrivals`` counts. They must not be empty.
    """
    at = instants.cast(_INSTANT).to_physical().to_numpy()
    return pl.Series(instants.name, np.minimum.reduce([arrival.cut_offs(at) for arrival in arrivals])).cast(_INSTANT)
