"""The loaders: local clock times become the right instants, and bad values stay for the contract to find."""

import functools
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
import yaml

from assets.aviation.datasets import loaders
from assets.aviation.landing import land
from ml_platform.components.dataset.component import Dataset
from ml_platform.data.contract import ContractReport, ContractSubject
from ml_platform.data.dataset import DatasetSource, audit_partition
from ml_platform.data.landing import Landing
from ml_platform.data.schema import check_schema

HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,"
    "carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n"
)
AIRPORTS = pl.DataFrame(
    {"faa": ["LAX", "IAH", "PBI"], "tzone": ["America/Los_Angeles", "America/Chicago", "America/New_York"]}
)
DEFS = Path(loaders.__file__).with_name("defs.yaml")


def declared() -> dict[str, Dataset]:
    datasets = [Dataset.model_validate(each["attributes"]) for each in yaml.safe_load_all(DEFS.read_text())]
    return {dataset.name: dataset for dataset in datasets}


def flights(tmp_path: Path, *lines: str) -> list[dict[str, object]]:
    path = tmp_path / "2013-01.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return loaders.flights(path, AIRPORTS).to_dicts()


def at(*when: int) -> datetime:
    return datetime(*when, tzinfo=UTC)  # type: ignore[arg-type, misc]


def test_times_of_a_flight_are_read_in_the_zones_of_origin_and_destination(tmp_path: Path) -> None:
    (flight,) = flights(tmp_path, "2013,1,1,602,600,2,915,920,-5,UA,1,N1,EWR,LAX,340,2454,6,0,2013-01-01T11:00:00Z")

    assert flight["flight_date"] == date(2013, 1, 1)
    assert (flight["scheduled_departure"], flight["departed_at"]) == (at(2013, 1, 1, 11), at(2013, 1, 1, 11, 2))
    # 09:20 in Los Angeles is 17:20 in UTC.
    assert (flight["scheduled_arrival"], flight["arrived_at"]) == (at(2013, 1, 1, 17, 20), at(2013, 1, 1, 17, 15))


def test_an_arrival_after_midnight_is_on_the_next_day(tmp_path: Path) -> None:
    (flight,) = flights(tmp_path, "2013,1,1,2310,2300,10,150,130,20,UA,1,N1,EWR,IAH,200,1400,23,0,2013-01-02T04:00:00Z")

    # 01:30 in Houston on January 2nd is 07:30 in UTC.
    assert (flight["scheduled_arrival"], flight["arrived_at"]) == (at(2013, 1, 2, 7, 30), at(2013, 1, 2, 7, 50))


def test_a_delay_over_midnight_moves_the_departure_to_the_next_day(tmp_path: Path) -> None:
    (flight,) = flights(tmp_path, "2013,1,1,30,2330,60,300,200,60,UA,1,N1,EWR,IAH,200,1400,23,30,2013-01-02T04:00:00Z")

    assert flight["departed_at"] == at(2013, 1, 2, 5, 30)


def test_puerto_rico_keeps_its_clock_in_summer(tmp_path: Path) -> None:
    (flight,) = flights(tmp_path, "2013,7,1,600,600,0,954,954,0,B6,1,N1,JFK,SJU,200,1598,6,0,2013-07-01T10:00:00Z")

    # 09:54 in San Juan is 13:54 in UTC, all year round.
    assert flight["scheduled_arrival"] == at(2013, 7, 1, 13, 54)


def test_cancelled_and_diverted_flights_have_no_arrival(tmp_path: Path) -> None:
    cancelled, diverted = flights(
        tmp_path,
        "2013,1,1,NA,600,NA,NA,920,NA,UA,1,NA,EWR,LAX,NA,2454,6,0,2013-01-01T11:00:00Z",
        "2013,1,1,602,600,2,1515,920,NA,UA,2,N1,EWR,LAX,NA,2454,6,0,2013-01-01T11:00:00Z",
    )

    assert (cancelled["cancelled"], cancelled["diverted"], cancelled["departed_at"]) == (True, False, None)
    assert (diverted["cancelled"], diverted["diverted"], diverted["arrived_at"]) == (False, True, None)
    assert cancelled["scheduled_arrival"] == diverted["scheduled_arrival"] == at(2013, 1, 1, 17, 20)


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Landing:
    landing = Landing(tmp_path_factory.mktemp("year"))
    land(landing, "2013-12")
    return landing


def test_every_instant_of_the_year_agrees_with_the_clock_time_of_the_file(year: Landing) -> None:
    airports = loaders.airports(year.find("airports", None).path)
    zones = pl.concat(
        [
            airports.select("faa", "tzone"),
            pl.DataFrame({"faa": ["SJU", "BQN", "PSE", "STT"], "tzone": "America/Puerto_Rico"}),
        ]
    )
    all_flights = pl.concat(
        [loaders.flights(year.find("flights", month).path, airports) for month in year.partitions("flights")]
    ).join(zones, left_on="dest", right_on="faa")

    def clock(column: str) -> pl.Expr:
        return pl.col(column).dt.hour().cast(pl.Int64) * 100 + pl.col(column).dt.minute()

    disagreeing = []
    for (zone,), group in all_flights.group_by("tzone"):
        local = group.with_columns(pl.col("scheduled_arrival", "arrived_at").dt.convert_time_zone(str(zone)))
        disagreeing.append(local.filter(clock("scheduled_arrival") != pl.col("sched_arr_time") % 2400).height)
        disagreeing.append(local.filter(clock("arrived_at") != pl.col("arr_time") % 2400).height)
    in_new_york = all_flights.with_columns(pl.col("departed_at").dt.convert_time_zone(loaders.NEW_YORK))
    minutes = (all_flights["scheduled_arrival"] - all_flights["scheduled_departure"]).dt.total_minutes()

    assert all_flights.height == 336_776
    # The one arrival at 02:03 in the night in which New York has no such time.
    assert sum(disagreeing) == 1
    assert in_new_york.filter(clock("departed_at") != pl.col("dep_time") % 2400).height == 0
    assert (minutes.min(), minutes.max()) == (50, 700)


def checked(landing: Landing, name: str, month: str | None, folder: Path) -> tuple[ContractReport, ...]:
    dataset = declared()[name]
    lookups = {"airports": loaders.airports(landing.find("airports", None).path)} if dataset.lookups else {}
    source = DatasetSource(
        name, getattr(loaders, name), dataset.contract, dataset.keys, dataset.partitions, dataset.event_time, lookups
    )
    return audit_partition(source, month, landing, folder).reports


@pytest.mark.parametrize(
    ("name", "month"),
    [("flights", "2013-03"), ("weather", "2013-02"), ("weather", "2013-11"), ("planes", None), ("airports", None)],
)
def test_real_data_keep_their_contract(year: Landing, tmp_path: Path, name: str, month: str | None) -> None:
    reports = checked(year, name, month, tmp_path)

    assert [(report.check, report.passed) for report in reports] == [
        ("landed", True),
        ("schema", True),
        ("expectations", True),
    ]
    assert reports[-1].rows > 1000


@pytest.mark.slow  # every month of the year through Great Expectations
@pytest.mark.parametrize("name", ["flights", "weather"])
def test_the_whole_year_keeps_its_contract(year: Landing, tmp_path: Path, name: str) -> None:
    broken = {month: checked(year, name, month, tmp_path)[-1].violations for month in year.partitions(name)}

    assert broken == dict.fromkeys(year.partitions(name), ())


@functools.cache
def _january(landing: Landing) -> str:
    import gzip

    return gzip.decompress(landing.find("flights", "2013-01").path.read_bytes()).decode()


@pytest.mark.parametrize(
    ("old", "new", "column"),
    [
        (",5,15,2013-01-01T10", ",31,15,2013-01-01T10", "hour"),
        (",EWR,IAH,", ",XXX,IAH,", "origin"),
        ("2013,1,1,517,515", "2013,1,1,517,3115", "sched_dep_time"),
    ],
)
def test_an_impossible_value_in_the_first_flight_is_found(
    year: Landing, tmp_path: Path, old: str, new: str, column: str
) -> None:
    tampered = Landing(tmp_path / "landing")
    tampered.land_bytes("flights", "2013-01", _january(year).replace(old, new, 1).encode(), "csv")
    tampered.land("airports", None, year.find("airports", None).path, "csv")
    (violation,) = checked(tampered, "flights", "2013-01", tmp_path)[-1].violations

    assert (violation.column, violation.count, violation.examples[0]["row"]) == (column, 1, 1)


def test_a_delay_that_is_not_a_number_stays_text_and_the_schema_check_names_it(tmp_path: Path) -> None:
    path = tmp_path / "2013-01.csv"
    path.write_text(HEADER + "2013,1,1,602,600,  12m,915,920,-5,UA,1,N1,EWR,LAX,340,2454,6,0,2013-01-01T11:00:00Z\n")
    report = check_schema(
        loaders.flights(path, AIRPORTS), declared()["flights"].contract, ContractSubject("flights", "2013-01")
    )

    assert [violation.column for violation in report.violations] == ["dep_delay"]
    assert "should be float (min), found string in 1 rows (first: row 1, '  12m')" in report.violations[0].message
