"""The partitions of a dataset or model: which keys exist, when they begin and end, and the arithmetic on them.

All engine code asks the scheme; no other module formats, parses or compares keys.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, model_validator

from ml_platform.data.cadences import CALENDARS, HOUR_KEY, Calendar, cadences_of, shifts_by_whole_hours
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed

Cadence = Literal["hour", "day", "week", "month", "quarter", "year", "names"]
NAMES = "names"
WHOLE = "whole"
"""Name of the file of a dataset without partitions, so it names no partition."""

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")


class PartitionError(PlatformError):
    """Raised for a text that is no key of the scheme, and where keys without a time are used for their time."""


def _key_text(value: Any) -> Any:
    # Unquoted YAML reads 2013-06-01 as a date and 2013 as a number.
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


PartitionKey = Annotated[str, BeforeValidator(_key_text)]
"""A key in a declaration, where YAML may have read a date or a number."""


class PartitionScheme(Settings):
    """The partitions of a table; ``end`` is the last one, included, or None while data still arrive.

    Keys are those of Dagster: an hour ``2013-06-01-09:00`` (the second of two equal local hours ends with its offset,
    like ``-0500``), a day ``2013-06-01``, a week by its Sunday, a month ``2013-06``, a quarter by its first month, a
    year ``2013``, or one of ``names``. All arithmetic takes a time that does not depend on the number of partitions.
    """

    cadence: Cadence = Field(
        default="month", description="Length of a partition; 'names' for partitions without a time."
    )
    start: PartitionKey | None = Field(default=None, description="First partition, like 2013-01 for months.")
    end: PartitionKey | None = Field(
        default=None, description="Last partition, included; none while data still arrive."
    )
    time_zone: str = Field(default="UTC", description="IANA zone in which a partition begins, like America/New_York.")
    names: list[PartitionKey] = Field(
        default_factory=list, description="All partitions of the cadence 'names', in order."
    )

    @property
    def is_timed(self) -> bool:
        """Whether the partitions are ranges of time."""
        return self.cadence != NAMES

    @property
    def first(self) -> str:
        """The first partition."""
        return self.start if self.start is not None else self.names[0]

    @property
    def last(self) -> str | None:
        """The last partition; None while data still arrive."""
        return self.end if self.is_timed else self.names[-1]

    def describe(self) -> str:
        """Return the scheme in words, for messages: ``days from 2013-01-01 to now``."""
        if not self.is_timed:
            return f"the names {listed(self.names)}"
        return f"{self.cadence}s from {self.start} to {self.end or 'now'} in {self.time_zone}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "PartitionScheme":
        # A plain copy would keep the numbers that are cached for the old start and end.
        return type(self).model_validate(self.model_dump() | dict(update or {}))

    def contains(self, key: str) -> bool:
        """Return whether ``key`` is one of these partitions."""
        number = self._number_or_none(key)
        return number is not None and self._first_number <= number and self._is_until_last(number)

    def names_key(self, key: str) -> bool:
        """Return whether ``key`` has the form of these partitions, also outside of their range."""
        return self._number_or_none(key) is not None

    def require(self, key: str) -> str:
        """Return ``key``; raises :class:`PartitionError` when it is not one of these partitions."""
        self.number(key)
        if not self.contains(key):
            raise PartitionError(
                f"Partition '{key}'",
                expected=self.describe(),
                found="a partition outside of these",
                fix="Name a partition of this range, or change start or end of 'partitions'.",
            )
        return key

    def bounds(self, key: str) -> tuple[datetime, datetime]:
        """Return the first instant of ``key`` and the first instant after it, both in UTC.

        >>> PartitionScheme(start="2013-01", time_zone="America/New_York").bounds("2013-03")[1].isoformat()
        '2013-04-01T04:00:00+00:00'
        """
        number = self.number(key)
        return self._first_instant(number), self._first_instant(number + 1)

    def shift(self, key: str, steps: int) -> str:
        """Return the key that lies ``steps`` partitions after ``key``; a negative number goes back.

        A range of time may be left; raises :class:`PartitionError` where names end.

        >>> PartitionScheme(start="2013-01").shift("2013-01", -1)
        '2012-12'
        """
        return self._key(self.number(key) + steps)

    def distance(self, first: str, last: str) -> int:
        """Return the number of steps from ``first`` to ``last``; negative when ``last`` comes before ``first``."""
        return self.number(last) - self.number(first)

    def between(self, first: str, last: str) -> list[str]:
        """Return the keys from ``first`` to ``last``, both included; empty when ``last`` comes before ``first``.

        >>> PartitionScheme(start="2012-01").between("2012-12", "2013-02")
        ['2012-12', '2013-01', '2013-02']
        """
        return self._keys(self.number(first), self.number(last))

    def covering(self, start: datetime, end: datetime) -> list[str]:
        """Return the partitions of the scheme whose time overlaps that from ``start`` to before ``end``, in order."""
        if end <= start:
            return []
        first = max(self.number_at(start), self._first_number)
        last = self.number_at(end)
        if self._first_instant(last) >= end:
            last -= 1
        return self._keys(first, self._limited(last))

    def starting_in(self, start: datetime, end: datetime) -> list[str]:
        """Return the partitions of the scheme that begin at or after ``start`` and before ``end``, in order.

        Ranges of time without gap or overlap share out all partitions: each belongs to exactly one of them.
        """
        return [key for key in self.covering(start, end) if self.bounds(key)[0] >= start]

    def key_at(self, instant: datetime) -> str:
        """Return the key of the partition that contains ``instant``, also outside of the scheme's range."""
        return self._key(self.number_at(instant))

    def last_begun(self, now: datetime) -> str | None:
        """Return the last partition of the scheme that has begun at ``now``; None before the first. Names are all."""
        if not self.is_timed:
            return self.last
        number = self._limited(self.number_at(now))
        return self._key(number) if number >= self._first_number else None

    def sort(self, keys: Iterable[str]) -> list[str]:
        """Return ``keys`` in the order of the scheme."""
        return sorted(keys, key=self._order)

    def latest(self, keys: Iterable[str]) -> str:
        """Return the last of ``keys`` in the order of the scheme."""
        return max(keys, key=self._order)

    def earliest(self, keys: Iterable[str]) -> str:
        """Return the first of ``keys`` in the order of the scheme."""
        return min(keys, key=self._order)

    def precedes(self, key: str, other: str) -> bool:
        """Return whether ``key`` comes before ``other``.

        Keys of another cadence are compared by their first instants: the cadence of a model may have changed.
        """
        first, second = self._number_or_none(key), self._number_or_none(other)
        if first is not None and second is not None:
            return first < second
        return self._beginning(key) < self._beginning(other)

    def ranges(self, keys: Iterable[str]) -> list[list[str]]:
        """Return ``keys`` in order, as ranges of consecutive partitions; each is one Dagster run."""
        found: list[list[str]] = []
        previous: int | None = None
        for number, key in sorted((self.number(key), key) for key in set(keys)):
            if previous is not None and number == previous + 1:
                found[-1].append(key)
            else:
                found.append([key])
            previous = number
        return found

    def until(self, keys: Iterable[str], last: str) -> list[str]:
        """Return those of ``keys`` that are not after ``last``, in order."""
        limit = self.number(last)
        return [key for key in self.sort(keys) if self.number(key) <= limit]

    @property
    def _order(self) -> Callable[[str], Any] | None:
        # Keys of time sort like text in every cadence, which is faster than to parse them.
        return None if self.is_timed else self.number

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def calendar(self) -> Calendar:
        """The calendar of the cadence; raises :class:`PartitionError` for names, which have no time."""
        if self.cadence == "names":
            raise PartitionError(
                f"Partitions {listed(self.names)}",
                expected="partitions with a time",
                found="names, which have none",
                fix="Declare a cadence (hour, day, week, month, quarter or year) where time is needed.",
            )
        return CALENDARS[self.cadence]

    def _first_instant(self, number: int) -> datetime:
        return self.calendar.first_instant(number, self.zone, self._hour_offset)

    def number_at(self, instant: datetime) -> int:
        """Return the number of the partition that contains ``instant``."""
        return self.calendar.number_at(instant, self.zone, self._hour_offset)

    def number(self, key: str) -> int:
        """Return the place of ``key`` in the order of the scheme; consecutive partitions have consecutive numbers."""
        number = self._number_or_none(key)
        if number is None:
            raise self._not_a_key(key)
        return number

    def _number_or_none(self, key: str) -> int | None:
        return self.calendar.number(key, self.zone) if self.is_timed else self._positions.get(key)

    def _beginning(self, key: str) -> datetime:
        number = self._number_or_none(key)
        if number is not None:
            return self._first_instant(number)
        for cadence in cadences_of(key):
            return CALENDARS[cadence].first_instant(CALENDARS[cadence].number(key, self.zone) or 0, self.zone)
        raise self._not_a_key(key)

    def _key(self, number: int) -> str:
        if self.is_timed:
            return self.calendar.key(number, self.zone, self._hour_offset)
        if not 0 <= number < len(self.names):
            raise PartitionError(
                f"Partitions {listed(self.names)}",
                expected=f"a position from 1 to {len(self.names)}",
                found=f"position {number + 1}",
                fix="Name a partition of the list, or add the missing name to 'names'.",
            )
        return self.names[number]

    def _keys(self, first: int, last: int) -> list[str]:
        if self.is_timed:
            return self.calendar.keys(first, last, self.zone, self._hour_offset)
        return [self._key(number) for number in range(first, last + 1)]

    def _limited(self, number: int) -> int:
        return number if self.last is None else min(number, self.number(self.last))

    def _is_until_last(self, number: int) -> bool:
        return self.last is None or number <= self._last_number

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def _first_number(self) -> int:
        return self.number(self.first)

    @cached_property
    def _last_number(self) -> int:
        return self.number(self.last or self.first)

    @cached_property
    def _hour_offset(self) -> int:
        """Seconds by which the hours of the zone begin after those of UTC; 0 for other cadences."""
        if self.cadence != "hour" or self.start is None:
            return 0
        minutes = datetime.fromisoformat(self.start[:10]).replace(tzinfo=self.zone).astimezone(UTC).minute
        return minutes * 60

    def _not_a_key(self, key: str) -> PartitionError:
        if not self.is_timed:
            near = did_you_mean(key, self.names).strip()
            return PartitionError(
                f"Partition '{key}'",
                expected=f"one of {listed(self.names)}",
                found="another name",
                fix=near or "Correct the name.",
            )
        others = [f"a {name}" for name in cadences_of(key)]
        found = f"'{key}', which names {' or '.join(others)}" if others else repr(key)
        return PartitionError(
            f"Partition '{key}'",
            expected=f"a {self.cadence}, like {self.calendar.example}",
            found=found,
            fix=f"Write a {self.cadence} of {self.time_zone}." + _HINTS.get(self.cadence, ""),
        )

    @model_validator(mode="after")
    def _validate(self) -> "PartitionScheme":
        try:
            zone = ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f"'{self.time_zone}' is no time zone of the IANA database; write one like America/New_York"
            ) from None
        if self.cadence == NAMES:
            self._validate_names()
            return self
        if self.names:
            raise ValueError(f"names belong to the cadence 'names', and the cadence is {self.cadence}")
        if self.start is None:
            raise ValueError(f"start is missing: the first {self.cadence}, like {self.calendar.example}")
        for name, key in (("start", self.start), ("end", self.end)):
            if key is not None and self._number_or_none(key) is None:
                raise ValueError(f"{name}: {self._not_a_key(key)}")
        if self.end is not None and self.distance(self.start, self.end) < 0:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        if self.cadence == "hour" and not shifts_by_whole_hours(zone, self.bounds(self.start)[0]):
            raise ValueError(f"the clock of {self.time_zone} changes by less than an hour; declare the hours in UTC")
        return self

    def _validate_names(self) -> None:
        if self.start is not None or self.end is not None:
            raise ValueError("start and end belong to a cadence of time; partitions by names list all names")
        if not self.names:
            raise ValueError("names is empty: list all partitions in order")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names has {len(self.names) - len(set(self.names))} repeated names")
        for name in self.names:
            if not _NAME.match(name) or name == WHOLE:
                raise ValueError(f"name '{name}': use letters, digits, '-' and '_', and not '{WHOLE}'")


_HINTS = {
    "week": " A week is named by its Sunday.",
    "quarter": " A quarter is named by its first month: 01, 04, 07 or 10.",
    "hour": " An hour that the clock skips does not exist; a repeated one ends with its offset, like -0500.",
}


def file_stem(partition: str) -> str:
    """Return the file name of ``partition`` without suffix: ``_`` replaces the colon of an hour.

    >>> file_stem("2013-06-01-09:00")
    '2013-06-01-09_00'
    """
    return partition.replace(":", "_")


def partition_of_stem(stem: str) -> str:
    """Return the partition that a file name without suffix names; the inverse of :func:`file_stem`.

    >>> partition_of_stem("2013-06-01-09_00")
    '2013-06-01-09:00'
    """
    spelled = stem.replace("_", ":", 1)
    return spelled if HOUR_KEY.match(spelled) else stem
