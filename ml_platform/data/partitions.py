"""Monthly partitions: names like `2013-06`, their bounds in UTC, and the arithmetic on them."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError

_MONTH = re.compile(r"^(\d{4})-(0[1-9]|1[0-2])$")


class MonthlyPartitions(Settings):
    """The months of a partitioned dataset; ``end`` is the last month, included, or None while data still arrive."""

    start: str = Field(description="First month, like 2013-01.", pattern=_MONTH.pattern)
    end: str | None = Field(
        default=None, description="Last month, included; none while data still arrive.", pattern=_MONTH.pattern
    )
    time_zone: str = Field(default="UTC", description="IANA zone in which a month begins, like America/New_York.")

    def contains(self, name: str) -> bool:
        """Return whether ``name`` is one of these months."""
        return _MONTH.match(name) is not None and self.start <= name and (self.end is None or name <= self.end)

    @model_validator(mode="after")
    def _validate_bounds_and_zone(self) -> "MonthlyPartitions":
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f"'{self.time_zone}' is no time zone of the IANA database; write one like America/New_York"
            ) from None
        return self


class PartitionError(PlatformError):
    """Raised for a text that is not a month, or a name that is not a time zone."""


def month_bounds(month: str, time_zone: str) -> tuple[datetime, datetime]:
    """Return the first instant of ``month`` in ``time_zone`` and the first instant after it, both in UTC.

    >>> month_bounds("2013-03", "America/New_York")[1].isoformat()
    '2013-04-01T04:00:00+00:00'
    """
    return _month_start(month, time_zone), _month_start(shift_month(month, 1), time_zone)


def months_between(first: str, last: str) -> list[str]:
    """Return the months from ``first`` to ``last``, both included; empty when ``last`` comes before ``first``.

    >>> months_between("2012-12", "2013-02")
    ['2012-12', '2013-01', '2013-02']
    """
    return [_month_name(count) for count in range(_month_number(first), _month_number(last) + 1)]


def shift_month(month: str, months: int) -> str:
    """Return the month that lies ``months`` months after ``month``; a negative number goes back.

    >>> shift_month("2013-01", -1)
    '2012-12'
    """
    return _month_name(_month_number(month) + months)


def _month_number(month: str) -> int:
    matched = _MONTH.match(month)
    if matched is None:
        raise PartitionError(
            f"Month '{month}'", expected="the form YYYY-MM, like 2013-06", found=repr(month), fix="Correct the month."
        )
    return int(matched[1]) * 12 + int(matched[2]) - 1


def _month_name(count: int) -> str:
    return f"{count // 12:04d}-{count % 12 + 1:02d}"


def _month_start(month: str, time_zone: str) -> datetime:
    count = _month_number(month)
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise PartitionError(
            f"Time zone '{time_zone}'",
            expected="a name of the IANA database, like America/New_York",
            found=repr(time_zone),
            fix="Correct the time zone.",
        ) from error
    return datetime(count // 12, count % 12 + 1, 1, tzinfo=zone).astimezone(UTC)
