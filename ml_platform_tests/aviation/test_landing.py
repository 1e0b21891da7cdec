"""Landing of the aviation data: months land byte for byte and once, and damaged files land again."""

import gzip
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from assets.aviation.datasets import loaders
from assets.aviation.landing import AviationLandingError, land, land_until
from ml_platform.data.landing import Landing


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Landing:
    landing = Landing(tmp_path_factory.mktemp("landing"))
    land(landing, "2013-02")
    return landing


def test_months_and_whole_tables_have_landed(landed: Landing) -> None:
    assert landed.datasets() == ["airlines", "airports", "flights", "planes", "weather"]
    assert landed.partitions("flights") == landed.partitions("weather") == ["2013-01", "2013-02"]
    assert landed.partitions("planes") == []


def test_a_month_contains_the_unchanged_lines_of_that_month(landed: Landing) -> None:
    lines = gzip.decompress(landed.find("flights", "2013-02").path.read_bytes()).splitlines()

    # 24,951 flights were scheduled in February 2013.
    assert len(lines) == 24_951 + 1
    assert lines[0].startswith(b"year,month,day,dep_time,sched_dep_time")
    assert {line[:7] for line in lines[1:]} == {b"2013,2,"}


def test_landing_again_changes_no_file(landed: Landing) -> None:
    before = {path: path.stat().st_mtime_ns for path in landed.root.rglob("*")}
    land(landed, "2013-02")

    assert {path: path.stat().st_mtime_ns for path in landed.root.rglob("*")} == before


def test_landing_elsewhere_gives_the_same_bytes(landed: Landing, tmp_path: Path) -> None:
    again = land(Landing(tmp_path), "2013-01")

    assert [(file.dataset, file.partition, file.sha256) for file in again if file.partition] == [
        (name, "2013-01", landed.find(name, "2013-01").sha256) for name in ("weather", "flights")
    ]


def test_a_damaged_file_is_landed_again(landed: Landing) -> None:
    whole = landed.find("flights", "2013-01")
    whole.path.write_bytes(whole.path.read_bytes()[:1000])
    land(landed, "2013-01")

    assert landed.find("flights", "2013-01").sha256 == whole.sha256


@pytest.mark.parametrize("month", ["2014-01", "2012-12"])
def test_a_month_without_data_is_rejected(tmp_path: Path, month: str) -> None:
    with pytest.raises(AviationLandingError, match=f"expected a month from 2013-01 to 2013-12, found {month}"):
        land(Landing(tmp_path), month)


def test_month_that_has_not_ended_lands_as_it_was_at_an_hour(landed: Landing, tmp_path: Path) -> None:
    landing, noon = Landing(tmp_path), datetime(2013, 2, 20, 12, tzinfo=ZoneInfo("America/New_York"))
    landing.land("airports", None, landed.find("airports", None).path, "csv")
    before = {file.dataset: file.sha256 for file in land_until(landing, noon)}
    airports = loaders.airports(landing.find("airports", None).path)
    whole = loaders.flights(landed.find("flights", "2013-02").path, airports)
    part = loaders.flights(landing.find("flights", "2013-02").path, airports)
    weather = loaders.weather(landing.find("weather", "2013-02").path)

    scheduled = whole.filter(pl.col("flight_date") <= date(2013, 2, 23))
    known = ["flight_date", "carrier", "flight", "origin", "tailnum", "scheduled_departure", "scheduled_arrival"]
    assert part.select(known).equals(scheduled.select(known))
    for name in ("departed_at", "arrived_at"):
        assert part[name].to_list() == [at if at and at < noon else None for at in scheduled[name].to_list()]
    assert weather["observed_at"].max() == noon - timedelta(hours=1)
    assert {file.dataset: file.sha256 for file in land_until(landing, noon)} == before


def test_month_that_landed_as_a_whole_stays(landed: Landing) -> None:
    whole = landed.find("flights", "2013-02").sha256
    land_until(landed, datetime(2013, 2, 20, 12, tzinfo=ZoneInfo("America/New_York")))

    assert landed.find("flights", "2013-02").sha256 == whole
