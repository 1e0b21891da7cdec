"""The calendar of each cadence: the number of a partition key, the key of a number, and its first instant.

A number counts partitions from a fixed origin, so that shifts, distances and order are integer arithmetic. The keys are
those of Dagster: the first local hour or day of a partition. Quarters are named by their first month.
"""

import re
from abc import ABC, abstractmethod
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

TimeCadence = Literal["hour", "day", "week", "month", "quarter", "year"]

SECONDS_PER_HOUR = 3600
HOUR_KEY = re.compile(r"^(\d{4})-(\d\d)-(\d\d)-(\d\d):(\d\d)([+-]\d{4})?$")
"""Form of an hour; the second of two equal local hours ends with its offset from UTC, as Dagster writes it."""


class Calendar(ABC):
    """Conversions of one cadence; ``form`` is the strftime format of its keys, ``cron`` their beginnings."""

    form: str
    cron: str
    example: str

    @abstractmethod
    def number(self, key: str, zone: ZoneInfo) -> int | None:
        """Return the number of ``key``, or None for text that is no key of this cadence."""

    @abstractmethod
    def key(self, number: int, zone: ZoneInfo, offset: int = 0) -> str:
        """Return the key of ``number``; ``offset`` as in :meth:`first_instant`."""

    def keys(self, first: int, last: int, zone: ZoneInfo, offset: int = 0) -> list[str]:
        """Return the keys of the numbers from ``first`` to ``last``, both included."""
        return [self.key(number, zone, offset) for number in range(first, last + 1)]

    @abstractmethod
    def first_instant(self, number: int, zone: ZoneInfo, offset: int = 0) -> datetime:
        """Return the first instant of ``number`` in UTC.

        ``offset`` are the seconds by which the hours of a zone like Asia/Kolkata begin after those of UTC.
        """

    @abstractmethod
    def number_at(self, instant: datetime, zone: ZoneInfo, offset: int = 0) -> int:
        """Return the number of the partition that contains ``instant``."""


@dataclass(frozen=True)
class _Dates(Calendar):
    """A cadence of whole local days. ``count`` maps a day to its partition, and ``first`` a partition to its first day.

    A local day begins at midnight. Where the clock skips midnight, it begins with the first instant after the gap;
    where midnight occurs twice, it begins with the first one.
    """

    form: str
    cron: str
    example: str
    pattern: re.Pattern[str]
    count: Callable[[date], int]
    first: Callable[[int], date]

    def number(self, key: str, zone: ZoneInfo) -> int | None:
        matched = self.pattern.match(key)
        if matched is None:
            return None
        year, month, day = ([int(part) for part in matched.groups()] + [1, 1])[:3]
        try:
            begins = date(year, month, day)
        except ValueError:
            return None
        number = self.count(begins)
        return number if self.first(number) == begins else None

    def key(self, number: int, zone: ZoneInfo, offset: int = 0) -> str:
        return self.first(number).isoformat()[: len(self.example)]

    def first_instant(self, number: int, zone: ZoneInfo, offset: int = 0) -> datetime:
        day = self.first(number)
        return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)

    def number_at(self, instant: datetime, zone: ZoneInfo, offset: int = 0) -> int:
        return self.count(instant.astimezone(zone).date())


_EPOCH = date(1970, 1, 1).toordinal()


class _Hours(Calendar):
    """Hours of the clock of a zone; they are counted in UTC, because a local hour may occur twice or never."""

    form = "%Y-%m-%d-%H:%M"
    cron = "0 * * * *"
    example = "2013-06-01-09:00"

    def number(self, key: str, zone: ZoneInfo) -> int | None:
        matched = HOUR_KEY.match(key)
        if matched is None:
            return None
        year, month, day, hour, minute, suffix = matched.groups()
        if minute != "00":
            return None
        try:
            local = datetime(int(year), int(month), int(day), int(hour), tzinfo=zone)
        except ValueError:
            return None
        first, second = local.utcoffset(), local.replace(fold=1).utcoffset()
        number, offset = divmod(int((local.replace(fold=1) if suffix else local).timestamp()), SECONDS_PER_HOUR)
        if first == second and not suffix:
            return number
        # The way back differs for an hour that the clock skips, and for an offset that the zone does not have.
        return number if self.key(number, zone, offset) == key else None

    def key(self, number: int, zone: ZoneInfo, offset: int = 0) -> str:
        local = self.first_instant(number, zone, offset).astimezone(zone)
        return local.strftime(f"{self.form}%z" if local.fold else self.form)

    def keys(self, first: int, last: int, zone: ZoneInfo, offset: int = 0) -> list[str]:
        if zone.key != "UTC" or offset:
            return super().keys(first, last, zone, offset)
        # Twenty years of hours take a tenth of the time of single keys.
        (day, skipped), last_day = divmod(first, 24), last // 24
        days = (date.fromordinal(_EPOCH + each).isoformat() for each in range(day, last_day + 1))
        return [f"{each}-{hour:02}:00" for each in days for hour in range(24)][skipped : skipped + last - first + 1]

    def first_instant(self, number: int, zone: ZoneInfo, offset: int = 0) -> datetime:
        return datetime.fromtimestamp(number * SECONDS_PER_HOUR + offset, UTC)

    def number_at(self, instant: datetime, zone: ZoneInfo, offset: int = 0) -> int:
        return int((instant.timestamp() - offset) // SECONDS_PER_HOUR)


SPAN = r"^[1-9]\d*[hdw]$"
"""Form of a length of time: a number of hours, days or weeks."""

MONTHS_PER_QUARTER, MONTHS_PER_YEAR, DAYS_PER_WEEK = 3, 12, 7

_DAY = re.compile(r"^(\d{4})-(\d\d)-(\d\d)$")
_MONTH = re.compile(r"^(\d{4})-(\d\d)$")

CALENDARS: dict[TimeCadence, Calendar] = {
    "hour": _Hours(),
    "day": _Dates("%Y-%m-%d", "0 0 * * *", "2013-06-01", _DAY, date.toordinal, date.fromordinal),
    # Dagster's weeks begin on Sunday, and Sundays have ordinals that are divisible by seven.
    "week": _Dates(
        "%Y-%m-%d",
        "0 0 * * 0",
        "2013-06-02",
        _DAY,
        lambda day: day.toordinal() // DAYS_PER_WEEK,
        lambda number: date.fromordinal(number * DAYS_PER_WEEK),
    ),
    "month": _Dates(
        "%Y-%m",
        "0 0 1 * *",
        "2013-06",
        _MONTH,
        lambda day: day.year * MONTHS_PER_YEAR + day.month - 1,
        lambda number: date(number // MONTHS_PER_YEAR, number % MONTHS_PER_YEAR + 1, 1),
    ),
    "quarter": _Dates(
        "%Y-%m",
        "0 0 1 1,4,7,10 *",
        "2013-04",
        _MONTH,
        lambda day: (day.year * MONTHS_PER_YEAR + day.month - 1) // MONTHS_PER_QUARTER,
        lambda number: date(number // 4, number % 4 * MONTHS_PER_QUARTER + 1, 1),
    ),
    "year": _Dates(
        "%Y", "0 0 1 1 *", "2013", re.compile(r"^(\d{4})$"), lambda day: day.year, lambda number: date(number, 1, 1)
    ),
}


def cadences_of(key: str) -> list[TimeCadence]:
    """Return the cadences that have a partition of the name ``key``, for messages about a wrong cadence."""
    return [name for name, calendar in CALENDARS.items() if calendar.number(key, ZoneInfo("UTC")) is not None]


def shifts_by_whole_hours(zone: ZoneInfo, near: datetime) -> bool:
    """Return whether the clock of ``zone`` changes by whole hours in the two years after ``near``."""
    offsets = {(near + timedelta(days=30 * month)).astimezone(zone).utcoffset() or timedelta() for month in range(24)}
    first = min(offsets)
    return all((each - first) % timedelta(hours=1) == timedelta() for each in offsets)


def span_before(instant: datetime, span: str, zone: ZoneInfo) -> datetime:
    """Return the instant ``span`` (like ``12h``, ``28d`` or ``4w``) before ``instant``, in UTC.

    Days and weeks are those of the calendar: they end at the same local time, also over a clock change.

    >>> span_before(datetime(2013, 3, 11, 4, tzinfo=UTC), "1d", ZoneInfo("America/New_York")).isoformat()
    '2013-03-10T05:00:00+00:00'
    """
    count, unit = int(span[:-1]), span[-1]
    if unit == "h":
        return instant - timedelta(hours=count)
    days = count * (DAYS_PER_WEEK if unit == "w" else 1)
    # Arithmetic on a local time keeps its clock reading, so the result needs no correction for the clock change.
    return (instant.astimezone(zone) - timedelta(days=days)).replace(fold=0).astimezone(UTC)


def span_length(span: str) -> timedelta:
    """Return the length of ``span`` (like ``12h``, ``30d`` or ``4w``) with days of 24 hours.

    >>> span_length("2w")
    datetime.timedelta(days=14)
    """
    count, unit = int(span[:-1]), span[-1]
    return timedelta(hours=count) if unit == "h" else timedelta(days=count * (DAYS_PER_WEEK if unit == "w" else 1))


def months_before(instant: datetime, months: int, zone: ZoneInfo) -> datetime:
    """Return the same local time ``months`` calendar months before ``instant``, in UTC; a day too late is cut.

    >>> months_before(datetime(2013, 3, 31, tzinfo=UTC), 1, ZoneInfo("UTC")).isoformat()
    '2013-02-28T00:00:00+00:00'
    """
    local = instant.astimezone(zone)
    year, month = divmod(local.year * MONTHS_PER_YEAR + local.month - 1 - months, MONTHS_PER_YEAR)
    day = min(local.day, monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day, fold=0).astimezone(UTC)
