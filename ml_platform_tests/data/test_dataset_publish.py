"""Write, audit, publish: data that break their contract never reach a reader."""

import gzip
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.contract import ColumnRule, Contract, ContractViolatedError
from ml_platform.data.dataset import DatasetSource, LoaderError, expire, load_and_publish
from ml_platform.data.lake import Lake
from ml_platform.data.landing import Landing
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.reading import read_csv
from ml_platform.data.text_values import Type

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
        self.landing, self.lake = Landing(root / "landing"), Lake.standalone(root / "lake")
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

    source = replace(SOURCE, partitions=PartitionScheme(start="2013-01"))
    assert expire(source, 2, storage.lake) == ["2013-01"]
    assert storage.lake.partitions("datasets/orders") == ["2013-02", "2013-03"]
    assert expire(source, 2, storage.lake) == []


# Values that a reader could guess, and a month without rows.

VISITS: dict[str, Type] = {"id": pl.Int64, "day": pl.Date, "late": pl.Float64, "email": pl.String}
VISITS_CONTRACT = Contract(
    columns=[
        ColumnRule(name="id", type="integer", description="Number"),
        ColumnRule(name="day", type="date", description="Day"),
        ColumnRule(name="late", type="float", nullable=True, unit="min", description="Minutes late"),
        ColumnRule(name="email", type="string", nullable=True, pii=True, description="Who"),
    ],
    minimum_rows=0,
)
VISITS_HEADER = "id,day,late,email\n"


def visits(path: Path) -> pl.DataFrame:
    return read_csv(path, VISITS)


def visits_with_nan(path: Path) -> pl.DataFrame:
    return read_csv(path, VISITS).with_columns(late=pl.col("late").fill_null(float("nan")))


def visits_by_library(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, schema_overrides={"email": pl.Int64}, infer_schema=False)


def visits_source(loader: Callable[[Path], pl.DataFrame] = visits) -> DatasetSource:
    return DatasetSource("orders", loader, VISITS_CONTRACT, keys=["id"])


@pytest.fixture
def clinic(tmp_path: Path) -> Storage:
    clinic = Storage.__new__(Storage)
    clinic.landing, clinic.lake = Landing(tmp_path / "landing"), Lake.standalone(tmp_path / "lake")
    return clinic


def test_dates_and_missing_values_are_published_as_they_stand(clinic: Storage) -> None:
    clinic.land("2013-01", VISITS_HEADER + "1,2013-01-05,16.5,a@b.org\n2,2013-01-06,,\n")
    clinic.publish("2013-01", source=visits_source())
    stored = clinic.lake.scan("datasets/orders").sort("id").collect()

    assert stored.select("id", "day", "late").rows() == [(1, date(2013, 1, 5), 16.5), (2, date(2013, 1, 6), None)]
    # Missing is not late: a comparison with null is null, never true.
    assert stored.select(pl.col("late") > 15)["late"].to_list() == [True, None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1,2013-01-05,nan,\n", "'late' should be float .min., found string in 1 rows .first: row 1, 'nan'"),
        ("1,2013-01-05,1e400,\n", "'late' should be float .min., found string in 1 rows .first: row 1, '1e400'"),
        ("1,2013-01-05,2,\n2,tomorrow,2,\n", "'day' should be date, found string in 1 rows .first: row 2, 'tomorrow'"),
        ("1,2013-01-05,2,\n2,2013-01\n3,2013-01-07,2,\n", "expected 4 fields in every row.*row 2 .line 3"),
        (
            "1,2013-01-05,2,\n9223372036854775808,2013-01-05,2,\n",
            "'id' should be integer.*row 2, '9223372036854775808'",
        ),
    ],
)
def test_value_that_would_be_guessed_is_refused_with_row_and_column(clinic: Storage, lines: str, message: str) -> None:
    clinic.land("2013-01", VISITS_HEADER + lines)

    with pytest.raises(ContractViolatedError, match=message):
        clinic.publish("2013-01", source=visits_source())
    assert clinic.lake.partitions("datasets/orders") == []


def test_nan_that_a_loader_makes_is_refused_before_any_expectation(clinic: Storage) -> None:
    clinic.land("2013-01", VISITS_HEADER + "1,2013-01-05,2,\n2,2013-01-06,,\n")

    with pytest.raises(ContractViolatedError, match=r"'late' should have finite numbers.*row 2, nan") as error:
        clinic.publish("2013-01", source=visits_source(visits_with_nan))
    assert [report.check for report in error.value.reports] == ["landed", "schema"]


def test_month_with_a_header_only_is_published_as_zero_rows_if_the_contract_allows_it(clinic: Storage) -> None:
    clinic.land("2013-01", VISITS_HEADER)
    clinic.land("2013-02", VISITS_HEADER + "1,2013-02-05,2,\n")

    assert clinic.publish("2013-01", source=visits_source()) == [0]
    assert clinic.publish("2013-02", source=visits_source()) == [1]
    empty = clinic.lake.scan("datasets/orders", partitions=["2013-01"]).collect()
    assert (empty.height, empty.schema["day"], empty.schema["late"]) == (0, pl.Date(), pl.Float64())
    assert set(clinic.lake.digests("datasets/orders")) == {"2013-01", "2013-02"}


def test_column_without_values_is_published_in_its_declared_type(clinic: Storage) -> None:
    clinic.land("2013-01", VISITS_HEADER + "1,2013-01-05,,\n")
    clinic.publish("2013-01", source=visits_source())

    assert clinic.lake.scan("datasets/orders").collect_schema()["late"] == pl.Float64


def test_error_of_a_loader_does_not_quote_values_of_a_file_with_pii_columns(clinic: Storage) -> None:
    clinic.land("2013-01", VISITS_HEADER + "1,2013-01-05,2,alice@example.org\n")

    with pytest.raises(LoaderError, match=r"visits_by_library.*ComputeError in .*: •••. Fix the loader") as error:
        clinic.publish("2013-01", source=visits_source(visits_by_library))
    assert "alice" not in "".join(traceback.format_exception(error.value))


def test_violation_of_a_pii_column_does_not_quote_its_values(clinic: Storage) -> None:
    numbers = replace(
        visits_source(),
        contract=VISITS_CONTRACT.model_copy(
            update={
                "columns": [
                    rule.model_copy(update={"type": "integer"}) if rule.name == "email" else rule
                    for rule in VISITS_CONTRACT.columns
                ]
            }
        ),
    )
    clinic.land("2013-01", VISITS_HEADER + "1,2013-01-05,2,alice@example.org\n")

    with pytest.raises(ContractViolatedError, match=r"'email' should be integer.*row 1, '•••'") as error:
        clinic.publish("2013-01", source=numbers)
    assert "alice" not in repr(error.value.reports)


def test_no_partition_expires_from_a_table_without_any(clinic: Storage) -> None:
    assert expire(visits_source(), 2, clinic.lake) == []
