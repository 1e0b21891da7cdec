"""Arrivals: the facts that are usable at an instant, compared with a walk over local clocks."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_platform.data.arrival import Arrival, cut_offs

NEW_YORK = "America/New_York"
NIGHTS = [datetime(2013, 3, 10, 5, tzinfo=UTC), datetime(2013, 11, 3, 4, tzinfo=UTC)]
"""Midnight in New York before the clock changes."""

INSTANTS = st.builds(
    lambda night, minutes, micro: night + timedelta(minutes=minutes, microseconds=micro),
    st.sampled_from(NIGHTS),
    st.integers(-3_000, 3_000),
    st.integers(-1, 1),
)
ARRIVALS = st.builds(
    lambda every, delay, zone: Arrival(every=every, delay=delay, time_zone=zone),
    st.sampled_from(["hour", "day", "week", "month", None]),
    st.sampled_from(["0m", "15m", "6h", "1d"]),
    st.sampled_from([NEW_YORK, "UTC", "Asia/Kolkata"]),
)
DELAYS = {
    "0m": timedelta(),
    "15m": timedelta(minutes=15),
    "6h": timedelta(hours=6),
    "1d": timedelta(hours=24),
}


def period_of(instant: datetime, arrival: Arrival) -> tuple[object, ...]:
    """Return the local calendar's name of the period that contains ``instant``."""
    local = instant.astimezone(ZoneInfo(arrival.time_zone))
    week = local.date() - timedelta(days=local.isoweekday() % 7)
    return {
        "hour": (local.date(), local.hour, local.utcoffset()),
        "day": (local.date(),),
        "week": (week,),
        "month": (local.year, local.month),
    }[arrival.every or "day"]


def is_first_instant(instant: datetime, arrival: Arrival) -> bool:
    return period_of(instant, arrival) != period_of(instant - timedelta(microseconds=1), arrival)


@settings(max_examples=80, deadline=None)
@given(ARRIVALS, INSTANTS)
def test_cut_off_is_the_start_of_the_period_that_is_still_open(arrival: Arrival, instant: datetime) -> None:
    arrived = instant - DELAYS[arrival.delay]
    cut = arrival.cut_off(instant)
    if arrival.every is None:
        assert cut == arrived + timedelta(microseconds=1)
    else:
        assert cut <= arrived
        assert is_first_instant(cut, arrival)
        assert period_of(cut, arrival) == period_of(arrived, arrival)


@settings(max_examples=50, deadline=None)
@given(st.lists(ARRIVALS, min_size=1, max_size=3), st.lists(INSTANTS, max_size=20))
def test_cut_offs_of_many_rows_are_those_of_each_row_and_of_the_slowest_arrival(
    arrivals: list[Arrival], instants: list[datetime]
) -> None:
    found = cut_offs(arrivals, pl.Series("at", instants, dtype=pl.Datetime("us", "UTC")))
    assert found.to_list() == [min(arrival.cut_off(instant) for arrival in arrivals) for instant in instants]


@settings(max_examples=50, deadline=None)
@given(ARRIVALS, INSTANTS)
def test_fact_is_usable_from_its_arrival_on_and_not_before(arrival: Arrival, known_at: datetime) -> None:
    arrives = arrival.arrived_with(known_at) + DELAYS[arrival.delay] - timedelta(microseconds=arrival.every is None)
    assert known_at < arrival.cut_off(arrives)
    assert known_at >= arrival.cut_off(arrives - timedelta(microseconds=1))


def test_day_of_25_hours_arrives_after_25_hours() -> None:
    day = Arrival(every="day", delay="15m", time_zone=NEW_YORK)
    assert day.arrived_with(NIGHTS[1]) - NIGHTS[1] == timedelta(hours=25)


@pytest.mark.parametrize("delay", ["", "15", "-1h", "1.5h", "2 days"])
def test_delay_in_another_form_is_refused(delay: str) -> None:
    with pytest.raises(ValidationError, match="delay"):
        Arrival(every="hour", delay=delay)


def test_hours_of_a_clock_that_changes_by_half_an_hour_are_refused() -> None:
    with pytest.raises(ValidationError, match="let the data arrive by day"):
        Arrival(every="hour", time_zone="Australia/Lord_Howe")
