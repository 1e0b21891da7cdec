"""The aviation views on a few flights with numbers computed by hand, and on real flights."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from assets.aviation.datasets import loaders
from assets.aviation.features import aircraft, delays, history, request, weather
from assets.aviation.landing import land
from ml_platform.data.landing import Landing
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.change_log import Window, build
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.leak import choose_cuts, run_leak_test
from ml_platform.features.row_columns import call_with_table
from ml_platform.features.view import FeatureView

MONTHS = PartitionScheme(start="2013-01", time_zone="America/New_York")
NOON = datetime(2013, 3, 5, 12, tzinfo=UTC)
WINDOW = Window(NOON - timedelta(hours=12), NOON + timedelta(hours=12))
DECLARATIONS = Path(delays.__file__).with_name("defs.yaml")


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def flights(*rows: tuple[int, int | None, int | None]) -> dict[str, pl.LazyFrame]:
    """Flights of one aircraft from JFK to LAX, each planned for 100 minutes: due, minutes late out, minutes late in."""
    records = [
        {
            "origin": "JFK",
            "dest": "LAX",
            "carrier": "AA",
            "flight": 1,
            "tailnum": "N1",
            "scheduled_departure": at(due),
            "scheduled_arrival": at(due + 100),
            "departed_at": None if out is None else at(due + out),
            "arrived_at": None if late is None else at(due + 100 + late),
        }
        for due, out, late in rows
    ]
    times = ["scheduled_departure", "scheduled_arrival", "departed_at", "arrived_at"]
    return {"flights": pl.LazyFrame(records).with_columns(pl.col(times).cast(pl.Datetime("us", "UTC")))}


def schedule(rows: pl.DataFrame) -> pl.DataFrame:
    return call_with_table(request.schedule, rows)


def outlook(rows: pl.DataFrame) -> pl.DataFrame:
    return call_with_table(request.outlook, rows)


def fact(facts: pl.DataFrame, minutes: int) -> dict[str, float]:
    return facts.filter(pl.col("known_at") == at(minutes)).row(0, named=True)


def declared() -> list[FeatureView]:
    fields = set(FeatureView.model_fields)
    documents = yaml.safe_load_all(DECLARATIONS.read_text(encoding="utf-8"))
    return [FeatureView.model_validate({k: v for k, v in d["attributes"].items() if k in fields}) for d in documents]


def test_departures_count_from_the_tick_at_which_they_are_known() -> None:
    facts = delays.origin(flights((0, 5, 0), (10, 30, 40)), WINDOW)
    # The first left at 12:05: unknown at 12:00, counted at 12:10, out of the last hour at 13:10.
    assert [fact(facts, m)["departures_60m"] for m in (0, 10, 40, 60, 70)] == [0, 1, 2, 2, 1]
    assert fact(facts, 40)["departure_delay_60m"] == (5 + 30) / 2
    assert fact(facts, 40)["departures_late_60m"] == 0.5


def test_flight_that_has_not_left_is_overdue_until_it_leaves() -> None:
    facts = delays.origin(flights((0, 35, 0)), WINDOW)
    assert [fact(facts, m)["overdue_0m"] for m in (0, 10, 30, 40)] == [1, 1, 1, 0]
    assert [fact(facts, m)["overdue_15m"] for m in (10, 20, 40)] == [0, 1, 0]
    assert [fact(facts, m)["overdue_minutes"] for m in (0, 10, 30, 40)] == [0, 10, 30, 0]


def test_cancelled_flight_is_overdue_for_four_hours_and_then_given_up() -> None:
    facts = delays.origin(flights((0, None, None)), WINDOW)
    assert [fact(facts, m)["overdue_0m"] for m in (230, 240)] == [1, 0]
    assert [fact(facts, m)["given_up_360m"] for m in (230, 240, 590, 600)] == [0, 1, 1, 0]


def test_means_of_the_last_flights_include_the_landing_itself() -> None:
    facts = history.route(flights((0, 0, 10), (200, 0, 20), (400, 0, 60)))
    assert facts["arrival_delay_last_2"].to_list() == [10, 15, 40]
    assert facts["arrivals_late_last_5"].to_list() == pytest.approx([0, 1 / 2, 2 / 3])
    assert facts["known_at"].to_list() == [at(110), at(320), at(560)]


def test_departures_of_a_route_are_known_when_they_leave_and_counted_over_a_day_and_a_week() -> None:
    facts = history.route_departures(flights((0, 10, 90), (200, 30, 0), (3 * 1440, 0, 0), (3 * 1440 + 60, None, None)))
    assert facts["known_at"].to_list() == [at(10), at(230), at(3 * 1440)]
    assert facts["departure_delay_last_2"].to_list() == [10, 20, 15]
    assert facts["departures_late_last_20"].to_list() == pytest.approx([0, 1 / 2, 1 / 3])
    assert facts["departures_1d"].to_list() == [1, 2, 1]
    assert facts["departures_7d"].to_list() == [1, 2, 3]


def test_departures_of_a_flight_number_are_counted_over_four_weeks() -> None:
    facts = history.flight_number_departures(flights((0, 5, 0), (27 * 1440, 20, 0), (29 * 1440, 0, 0)))
    assert facts["departures_28d"].to_list() == [1, 2, 2]
    assert facts["last_departure_delay"].to_list() == [5, 20, 0]


def test_legs_of_an_aircraft_count_from_eight_in_the_morning_utc() -> None:
    # Noon less five hours is 07:00 UTC: still the day before.
    history_of = aircraft.aircraft_history(flights((-300, 0, 0), (0, 0, 0), (240, 0, 0)))
    assert history_of["legs_that_day"].to_list() == [1, 1, 2]
    assert history_of["legs_1d"].to_list() == [1, 2, 3]


def test_days_to_the_next_holiday_are_null_after_the_last_known_holiday() -> None:
    due = pl.Series([datetime(2100, 12, 24, 15, tzinfo=UTC), datetime(2103, 5, 3, 15, tzinfo=UTC)])
    rows = pl.DataFrame({"origin": "JFK", "dest": "LAX", "carrier": "AA", "scheduled_departure": due})
    found = call_with_table(
        request.schedule, rows.with_columns(scheduled_arrival=pl.col("scheduled_departure") + timedelta(hours=6))
    )
    assert found["days_to_holiday"].to_list() == [0, None]  # Christmas falls on a Saturday and is observed on Friday
    assert found["days_since_holiday"].to_list() == [0, 8]
    alone = call_with_table(
        request.schedule, rows.tail(1).with_columns(scheduled_arrival=due.tail(1) + timedelta(hours=6))
    )
    assert (alone["days_to_holiday"].item(), alone["days_since_holiday"].item()) == (None, 8)


@pytest.mark.parametrize("year", [1685, 1799, 1870, 2254])
def test_schedule_of_any_year_that_a_request_can_have_is_computed(year: int) -> None:
    due = pl.Series([datetime(year, 7, 4, 15, tzinfo=UTC)], dtype=pl.Datetime("us", "UTC"))
    rows = pl.DataFrame({"origin": "JFK", "dest": "LAX", "carrier": "AA", "scheduled_departure": due})
    found = schedule(rows.with_columns(scheduled_arrival=pl.col("scheduled_departure") + timedelta(hours=6)))
    assert found["weekday"].item() == datetime(year, 7, 4).isoweekday()
    assert found["days_since_holiday"].item() in (None, *range(9))


def test_legs_of_yesterday_do_not_count_as_legs_of_today() -> None:
    row = {"as_of": at(600), "aircraft_history__last_left_at": None, "aircraft_history__legs_that_day": None}
    seen = [None, at(-300), at(-240), at(0)]
    rows = pl.DataFrame([row | {"aircraft_history__last_left_at": left} for left in seen]).with_columns(
        aircraft_history__legs_that_day=pl.when(pl.col("aircraft_history__last_left_at").is_not_null()).then(3)
    )
    times = {"scheduled_departure": at(720), "scheduled_arrival": at(900)}
    views = {view.name: view for view in declared()}
    inputs = {name: dtype for each in views["outlook"].inputs for name, dtype in views[each].columns.items()}
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in inputs.items() if name not in rows.columns]
    found = call_with_table(
        request.outlook, rows.with_columns(*(pl.lit(at).alias(name) for name, at in times.items()), *absent)
    )
    assert found["aircraft_legs_today"].to_list() == [None, 0, 3, 3]


def test_flights_of_more_than_thirty_days_ago_are_left_out_of_means() -> None:
    facts = history.route(flights((0, 0, 10), (31 * 1440, 0, 20)))
    assert facts["arrival_delay_last_20"].to_list() == [10, 20]


def test_each_fact_of_a_leg_has_the_minute_in_which_it_becomes_known() -> None:
    facts = aircraft.aircraft_leg(flights((0, 20, 25)))
    assert facts.select("known_at", "status", "delay").rows() == [
        (at(0), 0, 0), (at(15), 0, 15), (at(20), 1, 20), (at(125), 2, 25)
    ]  # fmt: skip


def test_facts_of_an_older_leg_do_not_replace_the_latest_leg() -> None:
    facts = aircraft.aircraft_leg(flights((0, 90, 90), (60, None, None)))
    assert facts.filter(pl.col("known_at") == at(60)).tail(1)["scheduled_departure"].to_list() == [at(60)]
    assert facts.filter(pl.col("known_at") > at(60))["scheduled_departure"].unique().to_list() == [at(60)]


def test_weather_is_known_an_hour_after_its_stamp_with_its_trend() -> None:
    hours = [at(60 * h) for h in range(5)]
    names = ["dewp", "humid", "pressure", "wind_speed", "wind_gust", "wind_dir", "visib", "precip"]
    rows = pl.LazyFrame({"origin": ["JFK"] * 5, "observed_at": hours, "temp": [50.0, 51, 52, 56, 57]})
    rows = rows.with_columns(pl.lit(1.0).alias(name) for name in names)
    facts = weather.weather({"weather": rows}, WINDOW).collect()
    assert fact(facts, 60)["temperature"] == 50
    assert fact(facts, 240)["temperature_change_3h"] == 6
    assert fact(facts, 240)["rain_3h"] == 3


def test_schedule_uses_the_clock_and_calendar_of_new_york() -> None:
    due = pl.Series([datetime(2013, 7, 4, 3, 30, tzinfo=UTC), datetime(2013, 7, 4, 13, 5, tzinfo=UTC)])
    rows = pl.DataFrame({"origin": "JFK", "dest": "LAX", "carrier": "AA", "scheduled_departure": due})
    found = call_with_table(
        request.schedule, rows.with_columns(scheduled_arrival=pl.col("scheduled_departure") + timedelta(hours=6))
    )
    # 03:30 UTC on Independence Day is 23:30 of the day before in New York.
    assert found.select("hour", "minute", "weekday", "days_to_holiday", "days_since_holiday", "block").rows() == [
        (23, 30, 3, 1, 8, 360), (9, 5, 4, 0, 0, 360)
    ]  # fmt: skip


def test_clock_of_new_york_equals_that_of_polars_around_clock_changes() -> None:
    changes = [datetime(2013, 3, 10, tzinfo=UTC), datetime(2013, 11, 3, tzinfo=UTC), datetime(2023, 12, 31, tzinfo=UTC)]
    due = [
        day + timedelta(minutes=minutes, microseconds=off)
        for day in changes
        for minutes in range(1440)
        for off in (0, -1)
    ]
    rows = pl.DataFrame({"origin": "JFK", "dest": "LAX", "carrier": "AA", "scheduled_departure": due})
    rows = rows.with_columns(scheduled_arrival=pl.col("scheduled_departure") + timedelta(minutes=61.5))
    local = pl.col("scheduled_departure").dt.convert_time_zone("America/New_York")
    expected = rows.select(
        hour=local.dt.hour(),
        minute_of_day=local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute(),
        weekday=local.dt.weekday(),
        day_of_year=local.dt.ordinal_day(),
        block=pl.lit(61),
    )
    assert schedule(rows).select(expected.columns).rows() == expected.rows()


def test_flight_without_a_planned_arrival_has_no_duration_and_keeps_the_rest() -> None:
    due = pl.Series([datetime(2013, 7, 4, 13, 5, tzinfo=UTC)] * 2)
    rows = pl.DataFrame({"origin": "JFK", "dest": "LAX", "carrier": "AA", "scheduled_departure": due})
    arrival = pl.Series("scheduled_arrival", [None, datetime(2013, 7, 4, 15, 5, tzinfo=UTC)])
    found = schedule(rows.hstack([arrival]))
    assert found.select("hour", "block", "arrival_minute_of_day").rows() == [(9, None, None), (9, 120, 665)]


def test_every_view_describes_its_columns_and_declares_when_its_sources_are_known() -> None:
    views = declared()
    assert len(views) >= 20
    for view in views:
        assert view.description
        assert view.owner
        assert all(feature.description for feature in view.features)
        assert all(source.visible_columns and not source.columns for source in view.sources)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.LazyFrame]:
    landing = Landing(tmp_path_factory.mktemp("landing"))
    land(landing, "2013-02")
    airports = loaders.airports(landing.find("airports", None).path)
    months = ["2013-01", "2013-02"]
    return {
        "flights": pl.concat([loaders.flights(landing.find("flights", m).path, airports) for m in months]).lazy(),
        "weather": pl.concat([loaders.weather(landing.find("weather", m).path) for m in months]).lazy(),
        "planes": loaders.planes(landing.find("planes", None).path).lazy(),
    }


@pytest.mark.slow
def test_months_built_one_by_one_equal_months_built_together(sources: dict[str, pl.LazyFrame]) -> None:
    january, february = (Window(*MONTHS.bounds(month)) for month in ("2013-01", "2013-02"))
    only_january = sources | {"flights": sources["flights"].filter(pl.col("scheduled_departure") < january.end)}
    for view in (each for each in declared() if each.kind == "stored" and each.name != "published_schedule"):
        if view.name in ("fleet", "distance"):
            continue  # known from the start of any window
        together = build(view, sources, Window(january.start, february.end)).frame
        apart = pl.concat([build(view, only_january, january).frame, build(view, sources, february).frame])
        first_half = together.filter(pl.col("known_at") < january.end)
        assert apart.filter(pl.col("known_at") < january.end).height == first_half.height, view.name
        assert apart.filter(pl.col("known_at") >= january.end).equals(
            together.filter(pl.col("known_at") >= january.end)
        ), view.name


@pytest.mark.slow
def test_no_feature_uses_a_fact_that_became_known_later(sources: dict[str, pl.LazyFrame]) -> None:
    window = Window(*MONTHS.bounds("2013-02"))
    due = pl.col("scheduled_departure")
    fields = ["carrier", "flight", "tailnum", "origin", "dest", "scheduled_departure", "scheduled_arrival"]
    examples = sources["flights"].select(*fields, predict_at=due - timedelta(hours=2))
    examples = examples.filter(pl.col("predict_at") >= window.start)
    report = run_leak_test(FeatureSet(declared()), sources, examples, window, choose_cuts(examples, 2))
    assert report.leaks == []
    assert report.features > 200
