"""The lake replaces partitions, keeps versions, and loses no rows of concurrent writers."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake, LakeError


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.standalone(tmp_path / "lake")


def rows(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": list(values)}, schema={"value": pl.Int64})


def values(lake: Lake, **scan: object) -> list[tuple[str, int]]:
    return sorted(lake.scan("datasets/orders", **scan).select("partition", "value").collect().rows())  # type: ignore[arg-type]


def test_partition_is_replaced_and_the_others_stay(lake: Lake) -> None:
    lake.write("datasets/orders", rows(1, 2), "2013-01")
    lake.write("datasets/orders", rows(3), "2013-02")
    lake.write("datasets/orders", rows(9), "2013-01")

    assert values(lake) == [("2013-01", 9), ("2013-02", 3)]
    assert lake.partitions("datasets/orders") == ["2013-01", "2013-02"]


def test_older_version_stays_readable(lake: Lake) -> None:
    first = lake.write("datasets/orders", rows(1, 2), "2013-01")
    second = lake.write("datasets/orders", rows(9), "2013-01")

    assert (first.version, second.version, lake.version("datasets/orders")) == (0, 1, 1)
    assert values(lake, version=0) == [("2013-01", 1), ("2013-01", 2)]


def test_equal_content_is_not_written_again(lake: Lake) -> None:
    first = lake.write("datasets/orders", rows(1, 2), "2013-01")
    other = lake.write("datasets/orders", rows(3), "2013-02")
    again = lake.write("datasets/orders", rows(2, 1), "2013-01")

    assert (again.version, again.sha256, again.rows, again.size_bytes) == (1, first.sha256, 2, first.size_bytes)
    assert lake.version("datasets/orders") == other.version


def test_partition_without_rows_has_a_digest(lake: Lake) -> None:
    lake.write("datasets/orders", rows(1), "2013-01")
    empty = lake.write("datasets/orders", rows(), "2013-02")
    lake.write("datasets/orders", rows(3), "2013-03")
    lake.drop_partitions("datasets/orders", ["2013-03"])

    assert set(lake.digests("datasets/orders")) == {"2013-01", "2013-02"}
    assert lake.write("datasets/orders", rows(), "2013-02").sha256 == empty.sha256
    assert lake.version("datasets/orders") == 3


def test_content_that_disappeared_and_returns_is_written_again(lake: Lake) -> None:
    lake.write("datasets/orders", rows(1), "2013-01")
    lake.write("datasets/orders", rows(2), "2013-01")
    back = lake.write("datasets/orders", rows(1), "2013-01")
    lake.drop_partitions("datasets/orders", ["2013-01"])
    again = lake.write("datasets/orders", rows(1), "2013-01")

    assert (back.version, again.version) == (2, 4)
    assert values(lake) == [("2013-01", 1)]


def test_only_the_requested_partitions_are_read(lake: Lake) -> None:
    for month in ("2013-01", "2013-02", "2013-03"):
        lake.write("datasets/orders", rows(int(month[-1])), month)

    assert values(lake, partitions=["2013-01", "2013-03"]) == [("2013-01", 1), ("2013-03", 3)]
    plan = lake.scan("datasets/orders", partitions=["2013-02"]).explain()
    assert "partition=2013-02" in plan
    assert "partition=2013-01" not in plan


def test_write_returns_rows_bytes_and_hash_of_the_stored_content(lake: Lake) -> None:
    frame = pl.DataFrame(
        {
            "count": pl.Series([1, 2], dtype=pl.UInt32),
            "kind": pl.Series(["a", "b"], dtype=pl.Categorical),
            "at": pl.Series([datetime(2013, 1, 1, tzinfo=UTC)] * 2, dtype=pl.Datetime("ns", "UTC")),
        }
    )
    written = lake.write("datasets/orders", frame, "2013-01")
    stored = lake.scan("datasets/orders").drop("partition").collect()

    assert written.sha256 == content_hash(stored)
    assert written.rows == stored.height == 2
    assert written.size_bytes == sum(file.stat().st_size for file in Path(lake.root).glob("**/*.parquet"))
    assert stored.schema == {"count": pl.Int64, "kind": pl.String, "at": pl.Datetime("us", "UTC")}


def test_digests_come_from_the_latest_write_of_each_partition(lake: Lake) -> None:
    lake.write("datasets/orders", rows(1), "2013-01")
    february = lake.write("datasets/orders", rows(2), "2013-02")
    january = lake.write("datasets/orders", rows(9), "2013-01")

    assert lake.digests("datasets/orders") == {"2013-01": january.sha256, "2013-02": february.sha256}


def test_unpartitioned_table_is_replaced_with_its_columns(lake: Lake) -> None:
    lake.write("shops", pl.DataFrame({"a": [1, 2]}), None)
    lake.write("shops", pl.DataFrame({"b": ["x"]}), None)

    assert lake.scan("shops").collect().to_dicts() == [{"b": "x"}]
    assert lake.scan("shops", version=0).collect().to_dicts() == [{"a": 1}, {"a": 2}]


def test_concurrent_writers_keep_each_others_partitions(lake: Lake) -> None:
    months = [f"2013-{month:02d}" for month in range(1, 9)]
    with ThreadPoolExecutor(len(months)) as pool:
        written = list(pool.map(lambda month: lake.write("datasets/orders", rows(int(month[-2:])), month), months))

    assert values(lake) == [(month, int(month[-2:])) for month in months]
    assert sorted(each.version for each in written) == list(range(8))


def test_processes_that_create_a_table_at_the_same_time_each_return_their_version(lake: Lake) -> None:
    months = [f"2013-{month:02d}" for month in range(1, 5)]
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        written = list(pool.map(write_month, [lake.root] * 4, months))

    assert sorted(written) == [0, 1, 2, 3]
    assert values(lake) == [(month, int(month[-2:])) for month in months]


def write_month(root: str, month: str) -> int:
    return Lake.standalone(root).write("datasets/orders", rows(int(month[-2:])), month).version


def test_concurrent_writers_of_one_partition_leave_the_content_of_one_of_them(lake: Lake) -> None:
    lake.write("datasets/orders", rows(0), "2013-01")
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda value: lake.write("datasets/orders", rows(value), "2013-01"), range(1, 5)))

    last = max(written, key=lambda each: each.version)
    assert len(values(lake)) == 1
    assert content_hash(lake.scan("datasets/orders").drop("partition").collect()) == last.sha256


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (pl.DataFrame({"value": ["1"]}), "'value: Int64 → String'"),
        (pl.DataFrame({"value": [1], "other": [2]}), "'other: absent → Int64'"),
        (pl.DataFrame({"other": [1]}), "2 that differ"),
    ],
)
def test_partition_with_other_columns_is_rejected_and_not_cast(lake: Lake, frame: pl.DataFrame, found: str) -> None:
    lake.write("datasets/orders", rows(1), "2013-01")

    with pytest.raises(LakeError, match=f"expected the columns that it already has, found .*{found}"):
        lake.write("datasets/orders", frame, "2013-02")
    assert values(lake) == [("2013-01", 1)]


def test_column_of_untyped_nulls_is_rejected(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"only nulls, without a type, in 'value'"):
        lake.write("datasets/orders", pl.DataFrame({"value": [None]}), "2013-01")


def test_absent_table_version_or_partition_is_rejected_and_not_read_as_empty(lake: Lake) -> None:
    lake.write("datasets/orders", rows(1), "2013-01")

    with pytest.raises(LakeError, match=r"Table 'datasets/order'.*Did you mean 'datasets/orders'"):
        lake.scan("datasets/order")
    with pytest.raises(LakeError, match=r"expected version 7, found versions 0 to 0"):
        lake.scan("datasets/orders", version=7)
    with pytest.raises(LakeError, match=r"expected partitions '2013-09', found 1 partitions: '2013-01'"):
        lake.scan("datasets/orders", partitions=["2013-09"])
    assert lake.version("datasets/order") is None
    assert lake.partitions("datasets/order") == []
    assert lake.digests("datasets/order") == {}


def test_dropped_partitions_disappear_from_the_latest_version_only(lake: Lake) -> None:
    lake.write("datasets/orders", rows(1), "2013-01")
    lake.write("datasets/orders", rows(2), "2013-02")

    assert lake.drop_partitions("datasets/orders", ["2013-01", "2012-01"]) == 2
    assert values(lake) == [("2013-02", 2)]
    assert values(lake, version=1) == [("2013-01", 1), ("2013-02", 2)]
    assert list(lake.digests("datasets/orders")) == ["2013-02"]
    assert lake.drop_partitions("datasets/orders", ["2013-01"]) is None
