"""Write, audit, publish: what breaks its contract never reaches a reader, whatever is wrong with it."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.contract import ColumnRule, Contract, ContractViolatedError
from ml_platform.data.dataset import DatasetSource, LoaderError, expire, load_and_publish
from ml_platform.data.lake import Lake
from ml_platform.data.landing import Landing
from ml_platform.data.reading import read_csv

COLUMNS = {"id": pl.Int64, "hour": pl.Int64, "origin": pl.String}
HEADER = "id,hour,origin\n"


def loader(path: Path) -> pl.DataFrame:
    return read_csv(path, COLUMNS)


def broken_loader(path: Path) -> pl.DataFrame:
    return read_csv(path, COLUMNS).select("hours")


CONTRACT = Contract(
    columns=[
        ColumnRule(name="id", type="integer", description="Number"),
        ColumnRule(name="hour", type="integer", minimum=0, maximum=23, description="Hour"),
        ColumnRule(name="origin", type="string", allowed=["EWR", "JFK"], description="From"),
    ],
    minimum_rows=2,
)
SOURCE = DatasetSource("orders", loader, CONTRACT, keys=["id"], declared_at="assets/x/defs.yaml:4")


class Place:
    """A landing zone and a lake in which January is published: two rows, as `GOOD` says."""

    GOOD = HEADER + "1,5,JFK\n2,6,EWR\n"

    def __init__(self, root: Path) -> None:
        self.landing, self.lake = Landing(root / "landing"), Lake(str(root / "lake"))
        self.land("2013-01", self.GOOD)
        self.publish("2013-01")

    def land(self, month: str, text: str, keep: float = 1.0) -> None:
        data = gzip.compress(text.encode(), mtime=0)
        self.landing.land_bytes("orders", month, data[: int(len(data) * keep)], "csv.gz")

    def publish(self, *months: str, source: DatasetSource = SOURCE) -> list[int]:
        return [each.version.rows for each in load_and_publish(source, list(months), self.landing, self.lake)]

    def rows(self) -> list[tuple[object, ...]]:
        return sorted(self.lake.scan("datasets/orders").select(*COLUMNS, "partition").collect().rows())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


JANUARY = [(1, 5, "JFK", "2013-01"), (2, 6, "EWR", "2013-01")]


def test_a_good_month_is_published_beside_the_others(place: Place) -> None:
    place.land("2013-02", HEADER + "7,0,EWR\n8,23,EWR\n")

    assert place.publish("2013-02") == [2]
    assert place.rows() == [*JANUARY, (7, 0, "EWR", "2013-02"), (8, 23, "EWR", "2013-02")]


@pytest.mark.parametrize(
    ("text", "check", "message"),
    [
        ("id,origin\n1,JFK\n2,EWR\n", "schema", "column 'hour' should be there"),
        ("id,hours,origin\n1,5,JFK\n2,6,EWR\n", "schema", "column 'hour' should be there.*Did you mean 'hours'"),
        (
            HEADER + "1,5h,JFK\n2,6,EWR\n",
            "schema",
            "'hour' should be integer, found string in 1 rows .first: row 1, '5h'",
        ),
        (HEADER + "1,5,JFK\n1,6,EWR\n", "expectations", "key 'id' should be unique, found 2 of 2 rows"),
        (HEADER + "1,31,JFK\n2,6,EWR\n", "expectations", "'hour' should lie between 0 and 23, found 1 of 2"),
        (HEADER + "1,5,XXX\n2,6,EWR\n", "expectations", "'origin' should be one of EWR, JFK, found 1 of 2.*'XXX'"),
        (HEADER, "landed", "expected at least 2 rows, found 0"),
        ("", "landed", "found an empty file"),
    ],
)
def test_a_bad_month_is_refused_and_the_last_good_one_stays(place: Place, text: str, check: str, message: str) -> None:
    place.land("2013-01", text)

    with pytest.raises(ContractViolatedError, match=f"Dataset 'orders', partition.*{message}") as refused:
        place.publish("2013-01")
    assert [report.check for report in refused.value.reports if not report.passed] == [check]
    assert place.rows() == JANUARY
    assert place.lake.version("datasets/orders") == 0


def test_a_truncated_archive_is_refused(place: Place) -> None:
    place.land("2013-01", place.GOOD * 50, keep=0.6)

    with pytest.raises(ContractViolatedError, match=r"expected a whole gzip archive"):
        place.publish("2013-01")
    assert place.rows() == JANUARY


def test_a_month_that_has_not_landed_is_refused(place: Place) -> None:
    with pytest.raises(ContractViolatedError, match=r"partition 2013-09: expected a file .*found 1 other partitions"):
        place.publish("2013-09")


def test_one_bad_month_keeps_the_whole_range_out_and_the_good_ones_are_named(place: Place) -> None:
    place.land("2013-02", HEADER + "7,0,EWR\n8,23,EWR\n")
    place.land("2013-03", HEADER + "7,99,EWR\n8,23,EWR\n")

    with pytest.raises(ContractViolatedError, match=r"Good are '2013-02': materialize them on their own"):
        place.publish("2013-02", "2013-03")
    assert place.lake.partitions("datasets/orders") == ["2013-01"]


def test_the_message_says_where_to_mend(place: Place) -> None:
    place.land("2013-01", HEADER + "1,31,JFK\n2,6,EWR\n")

    with pytest.raises(
        ContractViolatedError, match=r"relax the contract in assets/x/defs.yaml:4. Nothing was published"
    ):
        place.publish("2013-01")


def test_a_loader_that_fails_by_itself_is_told_apart_from_bad_data(place: Place) -> None:
    with pytest.raises(LoaderError, match=r"broken_loader.*ColumnNotFoundError.*Mend the loader"):
        place.publish("2013-01", source=DatasetSource("orders", broken_loader, CONTRACT))


def test_the_same_file_again_leaves_the_version_that_stands(place: Place) -> None:
    first = place.lake.digests("datasets/orders")
    place.publish("2013-01")

    assert place.lake.digests("datasets/orders") == first
    assert place.lake.version("datasets/orders") == 0


def test_partitions_past_retention_leave_the_table(place: Place) -> None:
    for month in ("2013-02", "2013-03"):
        place.land(month, place.GOOD)
        place.publish(month)

    assert expire(SOURCE, 2, place.lake) == ["2013-01"]
    assert place.lake.partitions("datasets/orders") == ["2013-02", "2013-03"]
    assert expire(SOURCE, 2, place.lake) == []
