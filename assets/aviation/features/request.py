"""Request views: features of the request, and of the facts that were read for it, for training and for serving.

They compute on plain arrays, with instants in microseconds and NaN for null. An endpoint calls them for every request,
and for a single row one call of the query engine costs more than all of this.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from assets.aviation.features.movements import NIGHT_UTC

NEW_YORK = "America/New_York"
LAST_HOLIDAY_YEAR = 2100
"""The last one that the library knows."""

HOLIDAY_HORIZON_DAYS = np.array([8.0])
DAYS_OF_YEAR = 366
"""Rounded up: years come out right or one too early, and the years beside them are looked up too."""

# For one row, a calculation with an array takes a third of the time of one with a number.
TURNAROUND_MINUTES, SAME_DAY_MINUTES = np.array([40.0]), np.array([20 * 60.0])
MINUTE = np.array([60_000_000.0])
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
NIGHT = NIGHT_UTC * MINUTE
ONE, WEEK = np.array([1.0]), np.array([7.0])
THURSDAY = np.array([3.0])
"""The first day of 1970, counted from Monday."""

FIRST_YEAR = 1600
_FIRST_DAYS = np.arange(f"{FIRST_YEAR}", "2400", dtype="datetime64[Y]").astype("datetime64[D]").astype(np.float64)
"""The first days of the years around those that instants can have, in days since 1970."""

Numbers = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]


def schedule(rows: Columns) -> Columns:
    """Return one row per request: local clock and calendar, holidays, planned duration, and keys of other views."""
    departure, arrival = rows["scheduled_departure"], rows["scheduled_arrival"]
    # A call costs more than a value, so both times go through it together.
    both = _local(np.concatenate([departure, arrival]))
    local, local_arrival = both[: len(departure)], both[len(departure) :]
    day, time_of_day = np.divmod(local, DAY)
    return {
        **{name: rows[name] for name in ("origin", "dest", "carrier")},
        "hour": time_of_day // HOUR,
        "minute_of_day": time_of_day // MINUTE,
        "minute": local % HOUR // MINUTE,
        "arrival_minute_of_day": local_arrival % DAY // MINUTE,
        "weekday": (day + THURSDAY) % WEEK + ONE,
        "day_of_year": day - _first_of_year(day) + ONE,
        "block": _minutes(arrival - departure),
        "departure_hour": departure // HOUR,
        **_beside_holidays(day),
    }


def outlook(rows: Columns) -> Columns:
    """Return one row per request, computed from the facts: slack of its aircraft, ages of facts, likely duration."""
    due, now = rows["scheduled_departure"], rows["as_of"]
    block = _minutes(rows["scheduled_arrival"] - due)
    gap = _minutes(due - rows["aircraft_leg__scheduled_departure"])
    same_day = np.where(gap < SAME_DAY_MINUTES, 0.0, np.nan)
    last_block = rows["aircraft_leg__block"]
    plan = gap - (last_block + last_block) - TURNAROUND_MINUTES + same_day
    delay = rows["aircraft_leg__delay"]
    left = rows["aircraft_history__last_left_at"]
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = rows["distance__miles"] / block
    return {
        "aircraft_gap": gap,
        "aircraft_planned_slack": plan,
        "aircraft_slack": plan - np.maximum(delay, 0),
        "aircraft_delay_today": delay + same_day,
        "aircraft_legs_today": _legs_today(now, left, rows["aircraft_history__legs_that_day"]),
        "aircraft_idle": _minutes(now - left),
        "aircraft_age": _year(due) - rows["fleet__built_in"],
        "route_idle": _minutes(now - rows["route__last_landed_at"]),
        "flight_number_idle": _minutes(now - rows["flight_number__last_landed_at"]),
        "likely_duration": block + rows["flight_number__lost_in_air_last_5"],
        "speed": speed,
    }


def _legs_today(now: Numbers, left: Numbers, legs_that_day: Numbers) -> Numbers:
    """Return the departures of an aircraft since the last 08:00 UTC, NaN for an aircraft without a departure."""
    morning = (now - NIGHT) // DAY * DAY + NIGHT
    return np.where(left < morning, 0.0, legs_that_day)


def _minutes(duration: Numbers) -> Numbers:
    minutes: Numbers = np.trunc(duration / MINUTE)
    return minutes


def _local(instants: Numbers) -> Numbers:
    """Return the local time of New York, in microseconds since 1970."""
    changes, offsets = _clock_changes(*_years(instants // DAY))
    return instants + offsets[changes.searchsorted(instants, side="right")]


def _year(instants: Numbers) -> Numbers:
    # NaN minus itself is NaN, and 0 for every time.
    return FIRST_YEAR + _place_of_year(instants // DAY) + (instants - instants)


def _first_of_year(days: Numbers) -> Numbers:
    return _FIRST_DAYS[_place_of_year(days)]


def _place_of_year(days: Numbers) -> npt.NDArray[np.int64]:
    """Return the places of the years in :data:`_FIRST_DAYS`; any of them for NaN."""
    return _FIRST_DAYS.searchsorted(days, side="right") - 1


def _years(days: Numbers) -> tuple[int, int]:
    """Return the first and the last year of ``days``, 1970 where there is none."""
    first, last = np.fmin.reduce(days, initial=np.nan), np.fmax.reduce(days, initial=np.nan)
    if np.isnan(first):
        return 1970, 1970
    return int(first) // DAYS_OF_YEAR + 1970, int(last) // DAYS_OF_YEAR + 1970


def _beside_holidays(days: Numbers) -> dict[str, Numbers]:
    """Return days to the next holiday and since the last one: 0 on a holiday, at most eight.

    Both are NaN beyond the holidays that the library knows.
    """
    known = _holidays(*_years(days))
    # The neighbours of a day are one place to the left and right in a list that begins and ends with NaN.
    between = known[1:-1]
    ahead = known[between.searchsorted(days, side="left") + 1] - days
    since = days - known[between.searchsorted(days, side="right")]
    return {
        name: np.minimum(distance, HOLIDAY_HORIZON_DAYS)
        for name, distance in (("days_to_holiday", ahead), ("days_since_holiday", since))
    }


@lru_cache(maxsize=32)
def _holidays(first: int, last: int) -> Numbers:
    """Return the federal holidays from the year before ``first`` to the year after ``last``, as days since 1970.

    NaN stands before the first and after the last one.
    """
    import holidays

    found = holidays.country_holidays("US", years=range(min(first - 1, LAST_HOLIDAY_YEAR), last + 2))
    days = np.array(sorted(found), dtype="datetime64[D]").astype(np.float64)
    return np.concatenate([[np.nan], days, [np.nan]])


@lru_cache(maxsize=32)
def _clock_changes(first: int, last: int) -> tuple[Numbers, Numbers]:
    """Return the clock changes of New York in these and neighbouring years, and the offsets from UTC between them.

    Both are in microseconds, and there is one offset more than there are changes. Clocks change at full hours.
    """
    zone, hour = ZoneInfo(NEW_YORK), timedelta(hours=1)
    at, end = datetime(first - 1, 1, 1, tzinfo=UTC), datetime(last + 3, 1, 1, tzinfo=UTC)
    offsets = [at.astimezone(zone).utcoffset()]
    changes = []
    while at < end:
        day = at + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != offsets[-1]:
            while (changed := at.astimezone(zone).utcoffset()) == offsets[-1]:
                at += hour
            changes.append(at.timestamp() * 1e6)
            offsets.append(changed)
        at = day
    return np.array(changes), np.array([offset.total_seconds() * 1e6 for offset in offsets if offset is not None])
