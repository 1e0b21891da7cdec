"""Delta tables of earlier releases become tables of the catalog with all their versions."""

import json
from pathlib import Path

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake, LakeError
from ml_platform.data.lake_adoption import adopt_delta_tables

TABLE = "datasets/orders"


def rows(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": list(values)}, schema={"value": pl.Int64})


def write_as_before(root: Path, table: str, frame: pl.DataFrame, partition: str | None, *, note: bool = True) -> str:
    """Write one partition as releases up to 0.2.0 did, with a note in the commit, and return its digest."""
    digest = content_hash(frame)
    content = json.dumps({"partition": partition, "rows": frame.height, "sha256": digest})
    properties = CommitProperties(custom_metadata={"content": content} if note else {})
    stored = frame if partition is None else frame.with_columns(pl.lit(partition).alias("partition"))
    if DeltaTable.is_deltatable(str(root / table)):
        write_deltalake(
            DeltaTable(str(root / table)),
            stored,
            mode="overwrite",
            predicate=None if partition is None else f"partition = '{partition}'",
            commit_properties=properties,
        )
    else:
        partition_by = None if partition is None else ["partition"]
        write_deltalake(str(root / table), stored, partition_by=partition_by, commit_properties=properties)
    return digest


def values(lake: Lake, table: str = TABLE, version: int | None = None) -> list[tuple[str, int]]:
    return sorted(lake.scan(table, version).select("partition", "value").collect().rows())


@pytest.mark.parametrize("note", [True, False])
def test_versions_of_an_earlier_release_stay_readable_and_new_ones_follow(tmp_path: Path, note: bool) -> None:
    root = tmp_path / "lake"
    write_as_before(root, TABLE, rows(1, 2), "2013-01", note=note)
    february = write_as_before(root, TABLE, rows(3), "2013-02", note=note)
    january = write_as_before(root, TABLE, rows(9), "2013-01", note=note)
    write_as_before(root, "models/late/training_set/abc", rows(5), "2013-01", note=note)
    write_as_before(root, "shops", rows(7), None, note=note)

    lake = Lake.standalone(root)
    first = adopt_delta_tables(lake)
    again = adopt_delta_tables(lake)

    assert (first.tables, first.failed) == ([TABLE, "models/late/training_set/abc", "shops"], {})
    assert again.tables == []
    assert lake.digests(TABLE) == {"2013-01": january, "2013-02": february}
    assert lake.version(TABLE) == 2
    assert values(lake) == [("2013-01", 9), ("2013-02", 3)]
    assert values(lake, version=1) == [("2013-01", 1), ("2013-01", 2), ("2013-02", 3)]
    assert values(lake, version=0) == [("2013-01", 1), ("2013-01", 2)]
    assert lake.scan("shops").collect().rows() == [(7,)]

    assert lake.write(TABLE, rows(9), "2013-01").version == 2
    assert lake.write(TABLE, rows(4), "2013-03").version == 3
    assert values(lake) == [("2013-01", 9), ("2013-02", 3), ("2013-03", 4)]
    assert set(pl.scan_delta(str(root / TABLE)).select("value").collect()["value"]) == {9, 3, 4}


def test_empty_partition_of_an_earlier_release_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    write_as_before(root, TABLE, rows(1), "2013-01")
    empty = write_as_before(root, TABLE, rows(), "2013-02")
    write_as_before(root, TABLE, rows(3), "2013-03")

    lake = Lake.standalone(root)
    adopt_delta_tables(lake)
    assert lake.digests(TABLE)["2013-02"] == empty
    assert lake.partitions(TABLE) == ["2013-01", "2013-02", "2013-03"]
    assert lake.scan(TABLE, partitions=["2013-02"]).collect().is_empty()


def test_lost_file_is_reported_for_a_current_version_and_tolerated_for_an_old_one(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    for table in (TABLE, "datasets/broken"):
        write_as_before(root, table, rows(1), "2013-01")
        old = next((root / table).glob("partition=2013-01/*.parquet"))
        write_as_before(root, table, rows(2), "2013-01")
        old.unlink()
    next((root / "datasets/broken").glob("partition=2013-01/*.parquet")).unlink()

    lake = Lake.standalone(root)
    report = adopt_delta_tables(lake)
    assert report.tables == [TABLE]
    assert "Materialize the partition again" in report.failed["datasets/broken"]
    assert values(lake) == [("2013-01", 2)]
    with pytest.raises(LakeError, match="a version that retention removed"):
        lake.scan(TABLE, version=0)
