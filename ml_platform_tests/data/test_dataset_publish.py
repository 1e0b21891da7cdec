"""Write, audit, publish: data that break their contract never reach a reader."""

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


class Storage:
    """A landing zone and a lake in which January is published, with the two rows of `GOOD`."""

    GOOD = HEADER + "1,5,JFK\n2,6,EWR\n"

    def __init__(self, root: Path) -> None:
        self.landing, self.lake = Landing(root / "landing"), Lake(str(root / "lake"))
        self.land("2013-01", self.GOOD)
        self.publish("2013-01")

    def land(self, month: str, text: str, keep: float = 1.0) -> None:
        data = gzip.compress(text.encode(), mtime=0)
        self.landing.land_bytes("orders", month, data[: int(len(data) * keep)], "csv.gz")

    def publish(self, *months: str, source: DatasetSource = SOURCE) -> list[int]:
        published = load_and_publish(source, list(months), self.landing, self.lake)
        return [partition.version.rows for partition in published]

    def rows(self) -> list[tuple[object, ...]]:
        return sorted(self.lake.scan("datasets/orders").select(*COLUMNS, "partition").collect().rows())


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


JANUARY = [(1, 5, "JFK", "2013-01"), (2, 6, "EWR", "2013-01")]


def test_good_month_is_published_beside_the_others(storage: Storage) -> None:
    storage.land("2013-02", HEADER + "7,0,EWR\n8,23,EWR\n")

    assert storage.publish("2013-02") == [2]
    assert storage.rows() == [*JANUARY, (7, 0, "EWR", "2013-02"), (8, 23, "EWR", "2013-02")]


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
def test_bad_month_is_rejected_and_the_last_good_one_stays(
    storage: Storage, text: str, check: str, message: str
) -> None:
    storage.land("2013-01", text)

    with pytest.raises(ContractViolatedError, match=f"Dataset 'orders', partition.*{message}") as error:
        storage.publish("2013-01")
    assert [report.check for report in error.value.reports if not report.passed] == [check]
    assert storage.rows() == JANUARY
    assert storage.lake.version("datasets/orders") == 0


def test_truncated_archive_is_rejected(storage: Storage) -> None:
    storage.land("2013-01", storage.GOOD * 50, keep=0.6)

    with pytest.raises(ContractViolatedError, match=r"expected a whole gzip archive"):
        storage.publish("2013-01")
    assert storage.rows() == JANUARY


def test_month_that_has_not_landed_is_rejected(storage: Storage) -> None:
    with pytest.raises(ContractViolatedError, match=r"partition 2013-09: expected a file .*found 1 other partitions"):
        storage.publish("2013-09")


def test_one_bad_month_keeps_the_whole_range_out_and_the_error_names_the_good_ones(storage: Storage) -> None:
    storage.land("2013-02", HEADER + "7,0,EWR\n8,23,EWR\n")
    storage.land("2013-03", HEADER + "7,99,EWR\n8,23,EWR\n")

    with pytest.raises(ContractViolatedError, match=r"Materialize the good partitions on their own: '2013-02'"):
        storage.publish("2013-02", "2013-03")
    assert storage.lake.partitions("datasets/orders") == ["2013-01"]


def test_message_names_the_line_of_the_contract(storage: Storage) -> None:
    storage.land("2013-01", HEADER + "1,31,JFK\n2,6,EWR\n")

    with pytest.raises(
        ContractViolatedError, match=r"relax the contract in assets/x/defs.yaml:4. Nothing was published"
    ):
        storage.publish("2013-01")


def test_failing_loader_is_not_reported_as_bad_data(storage: Storage) -> None:
    with pytest.raises(LoaderError, match=r"broken_loader.*ColumnNotFoundError.*Fix the loader"):
        storage.publish("2013-01", source=DatasetSource("orders", broken_loader, CONTRACT))


def test_publishing_the_same_file_again_keeps_the_current_version(storage: Storage) -> None:
    first = storage.lake.digests("datasets/orders")
    storage.publish("2013-01")

    assert storage.lake.digests("datasets/orders") == first
    assert storage.lake.version("datasets/orders") == 0


def test_partitions_older_than_the_retention_are_dropped(storage: Storage) -> None:
    for month in ("2013-02", "2013-03"):
        storage.land(month, storage.GOOD)
        storage.publish(month)

    assert expire(SOURCE, 2, storage.lake) == ["2013-01"]
    assert storage.lake.partitions("datasets/orders") == ["2013-02", "2013-03"]
    assert expire(SOURCE, 2, storage.lake) == []
