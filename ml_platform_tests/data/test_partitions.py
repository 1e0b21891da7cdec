"""Partition schemes: keys, bounds and arithmetic, compared with Dagster's own partitions."""

import time
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_platform.components.declaration import partitions_definition, scheme_of
from ml_platform.data.partitions import PartitionError, PartitionScheme, file_stem, partition_of_stem

MONTHS = PartitionScheme(start="2013-01", time_zone="America/New_York")
HOURS = PartitionScheme(cadence="hour", start="2013-01-01-00:00", time_zone="America/New_York")
DAYS = PartitionScheme(cadence="day", start="2013-01-01", time_zone="America/New_York")
REGIONS = PartitionScheme(cadence="names", names=["south", "north", "east"])
CADENCES = ["hour", "day", "week", "month", "quarter", "year"]
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Kolkata"]
CLOCK_CHANGES = [date(2013, 3, 9), date(2013, 11, 2), date(2013, 2, 16), date(2013, 10, 19), date(2013, 10, 26)]


def test_month_begins_at_local_midnight_on_both_sides_of_daylight_saving() -> None:
    # New York is five hours behind UTC on March 1st, four on April 1st.
    assert MONTHS.bounds("2013-03") == (datetime(2013, 3, 1, 5, tzinfo=UTC), datetime(2013, 4, 1, 4, tzinfo=UTC))


def test_days_of_a_clock_change_have_23_and_25_hours() -> None:
    lengths = [end - start for start, end in map(DAYS.bounds, ("2013-03-10", "2013-03-11", "2013-11-03"))]

    assert lengths == [timedelta(hours=hours) for hours in (23, 24, 25)]


def test_repeated_hour_has_its_offset_and_skipped_hour_does_not_exist() -> None:
    assert HOURS.between("2013-11-03-00:00", "2013-11-03-02:00") == [
        "2013-11-03-00:00",
        "2013-11-03-01:00",
        "2013-11-03-01:00-0500",
        "2013-11-03-02:00",
    ]
    assert HOURS.bounds("2013-11-03-01:00-0500")[0] == datetime(2013, 11, 3, 6, tzinfo=UTC)
    assert HOURS.shift("2013-03-10-01:00", 1) == "2013-03-10-03:00"
    for absent in ("2013-03-10-02:00", "2013-11-03-01:00-0400", "2013-06-01-01:00-0500", "2013-06-01-01:30"):
        assert not HOURS.contains(absent)


def test_week_over_a_clock_change_begins_on_sunday_midnight() -> None:
    weeks = PartitionScheme(cadence="week", start="2013-01-06", time_zone="America/New_York")

    assert weeks.bounds("2013-03-10") == (datetime(2013, 3, 10, 5, tzinfo=UTC), datetime(2013, 3, 17, 4, tzinfo=UTC))
    assert len(DAYS.covering(*weeks.bounds("2013-03-10"))) == 7


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(CADENCES),
    st.sampled_from(ZONES),
    st.one_of(st.sampled_from(CLOCK_CHANGES), st.dates(date(2005, 1, 1), date(2023, 1, 1))),
    st.integers(1, 60),
)
def test_keys_and_bounds_are_those_of_dagster(cadence: str, zone: str, day: date, count: int) -> None:
    every = PartitionScheme.model_validate({"cadence": cadence, "start": _first_key(cadence), "time_zone": zone})
    first = every.key_at(datetime(day.year, day.month, day.day, 12, tzinfo=UTC))
    scheme = every.model_copy(update={"start": first, "end": every.shift(first, count - 1)})
    definition = partitions_definition(PartitionScheme.model_validate(scheme.model_dump()))
    assert isinstance(definition, dg.TimeWindowPartitionsDefinition)

    keys = list(definition.get_partition_keys(current_time=datetime(2100, 1, 1, tzinfo=UTC)))

    assert keys == scheme.between(first, scheme.last or first)
    assert keys == sorted(keys) == scheme.sort(reversed(keys))
    for key in keys:
        window = definition.time_window_for_partition_key(key)
        start, end = scheme.bounds(key)
        assert (start.timestamp(), end.timestamp()) == (window.start.timestamp(), window.end.timestamp())
        assert scheme.key_at(start) == scheme.key_at(end - timedelta(microseconds=1)) == key
        assert scheme.covering(start, end) == [key] == scheme.starting_in(start, end)


def _first_key(cadence: str) -> str:
    return {"hour": "2000-01-01-00:00", "day": "2000-01-01", "week": "2000-01-02", "year": "2000"}.get(
        cadence, "2000-01"
    )


@given(st.integers(-500, 500), st.integers(0, 500))
def test_shift_distance_and_between_agree(steps: int, count: int) -> None:
    first = MONTHS.shift("2013-01", steps)
    last = MONTHS.shift(first, count)

    assert MONTHS.distance(first, last) == count
    assert len(MONTHS.between(first, last)) == count + 1
    assert MONTHS.shift(last, -count) == first


def test_months_cross_the_year() -> None:
    assert MONTHS.between("2012-11", "2013-02") == ["2012-11", "2012-12", "2013-01", "2013-02"]
    assert MONTHS.between("2013-02", "2013-01") == []


def test_covering_stays_within_start_and_end() -> None:
    days = PartitionScheme(cadence="day", start="2013-01-30", end="2013-02-02")

    assert days.covering(datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)) == [
        "2013-01-30",
        "2013-01-31",
    ]
    assert days.covering(datetime(2013, 2, 2, 23, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)) == ["2013-02-02"]
    assert days.covering(datetime(2013, 2, 2, tzinfo=UTC), datetime(2013, 2, 2, tzinfo=UTC)) == []


def test_weeks_that_cross_a_month_belong_to_the_month_in_which_they_begin() -> None:
    weeks = PartitionScheme(cadence="week", start="2013-01-06", time_zone="America/New_York")

    assert weeks.starting_in(*MONTHS.bounds("2013-03")) == [
        "2013-03-03",
        "2013-03-10",
        "2013-03-17",
        "2013-03-24",
        "2013-03-31",
    ]
    assert weeks.covering(*MONTHS.bounds("2013-03"))[0] == "2013-02-24"


def test_ranges_split_at_gaps() -> None:
    assert MONTHS.ranges(["2013-05", "2013-01", "2012-12", "2013-02"]) == [
        ["2012-12", "2013-01", "2013-02"],
        ["2013-05"],
    ]
    assert REGIONS.ranges(["east", "south", "north"]) == [["south", "north", "east"]]


def test_names_keep_their_order_and_have_no_time() -> None:
    assert REGIONS.sort(["east", "south"]) == ["south", "east"]
    assert REGIONS.latest(["south", "north"]) == "north"
    assert REGIONS.between("south", "north") == ["south", "north"]
    assert list(partitions_definition(REGIONS).get_partition_keys()) == ["south", "north", "east"]
    with pytest.raises(PartitionError, match=r"Partitions 'south', 'north', 'east': expected partitions with a time"):
        REGIONS.bounds("north")
    with pytest.raises(PartitionError, match=r"'nort': expected one of 'south', 'north', 'east'.*Did you mean 'north'"):
        REGIONS.shift("nort", 1)
    with pytest.raises(PartitionError, match="expected a position from 1 to 3, found position 4"):
        REGIONS.shift("east", 1)


@pytest.mark.parametrize(
    ("scheme", "key", "message"),
    [
        (MONTHS, "2013-13", "expected a month, like 2013-06, found '2013-13'"),
        (MONTHS, "", "expected a month"),
        (MONTHS, "2013-06-01", "found '2013-06-01', which names a day"),
        (DAYS, "2013-06", "expected a day, like 2013-06-01, found '2013-06', which names a month"),
        (DAYS, "2013-02-30", "expected a day"),
        (HOURS, "2013-03-10-02:00", "An hour that the clock skips does not exist"),
        (PartitionScheme(cadence="week", start="2013-01-06"), "2013-06-01", "A week is named by its Sunday"),
        (PartitionScheme(cadence="quarter", start="2013-01"), "2013-02", "A quarter is named by its first month"),
    ],
)
def test_key_of_another_cadence_is_rejected_by_name(scheme: PartitionScheme, key: str, message: str) -> None:
    assert not scheme.contains(key)
    with pytest.raises(PartitionError, match=message):
        scheme.shift(key, 1)


def test_key_outside_of_the_range_is_rejected() -> None:
    with pytest.raises(PartitionError, match=r"expected months from 2013-01 to now.*outside of these"):
        MONTHS.require("2012-12")
    assert MONTHS.require("2013-02") == "2013-02"


def test_keys_of_two_cadences_are_ordered_by_time() -> None:
    assert MONTHS.precedes("2013-05", "2013-06-02")
    assert not MONTHS.precedes("2013-06", "2013-05-31")
    assert DAYS.precedes("2013-05", "2013-05-02")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"start": "2013-01", "end": "2012-12"}, "end 2012-12 lies before start 2013-01"),
        ({"start": "2013-01", "time_zone": "New_York"}, "'New_York' is no time zone"),
        ({"start": "2013-01-01"}, "start: Partition '2013-01-01': expected a month"),
        ({"cadence": "day"}, "start is missing: the first day, like 2013-06-01"),
        ({"cadence": "names"}, "names is empty"),
        ({"cadence": "names", "names": ["a", "a"]}, "1 repeated names"),
        ({"cadence": "names", "names": ["a.b"]}, "name 'a.b'"),
        ({"cadence": "names", "names": ["a"], "start": "2013-01"}, "start and end belong to a cadence of time"),
        ({"start": "2013-01", "names": ["a"]}, "names belong to the cadence 'names'"),
        (
            {"cadence": "hour", "start": "2013-01-01-00:00", "time_zone": "Australia/Lord_Howe"},
            "changes by less than an hour",
        ),
    ],
)
def test_wrong_declaration_is_rejected(declared: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PartitionScheme.model_validate(declared)


def test_unquoted_yaml_keys_are_read_as_text() -> None:
    assert PartitionScheme.model_validate({"cadence": "day", "start": date(2013, 1, 1)}).first == "2013-01-01"
    assert PartitionScheme.model_validate({"cadence": "year", "start": 2013}).first == "2013"


@pytest.mark.parametrize(
    "scheme",
    [
        MONTHS,
        HOURS,
        DAYS,
        REGIONS,
        PartitionScheme(cadence="week", start="2013-01-06", end="2013-03-31", time_zone="Europe/Berlin"),
        PartitionScheme(cadence="quarter", start="2013-01", end="2014-10"),
        PartitionScheme(cadence="year", start="2013"),
    ],
)
def test_scheme_is_read_back_from_the_partitions_of_an_asset(scheme: PartitionScheme) -> None:
    assert scheme_of(partitions_definition(scheme)) == scheme


def test_file_names_have_no_colon() -> None:
    key = "2013-11-03-01:00-0500"

    assert file_stem(key) == "2013-11-03-01_00-0500"
    assert partition_of_stem(file_stem(key)) == partition_of_stem(key) == key
    assert partition_of_stem("new_york") == "new_york"


def test_arithmetic_over_twenty_years_of_hours_does_not_list_them() -> None:
    last = HOURS.shift("2013-01-01-00:00", 175_000)
    started = time.process_time()
    for _ in range(2_000):
        assert HOURS.contains(last)
        HOURS.bounds(HOURS.shift(last, -170_000))

    assert time.process_time() - started < 1
