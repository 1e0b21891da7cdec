"""Landing of the aviation data: months land byte for byte and once, and damaged files land again."""

import gzip
from pathlib import Path

import pytest

from assets.aviation.landing import AviationLandingError, land
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
