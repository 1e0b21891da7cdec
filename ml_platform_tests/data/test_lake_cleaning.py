"""Cleaning of the lake removes what no reader can need, and never a current or pinned row."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from ml_platform.data import lake_cleaning
from ml_platform.data.lake import Lake, LakeError
from ml_platform.data.lake_files import LakeFiles
from ml_platform.data.leftovers import Leftover
from ml_platform.state.schema import lake_segments

TABLE = "datasets/orders"
LATER = datetime.now(UTC) + timedelta(days=40)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.standalone(tmp_path / "lake")


def rows(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"order": values})


def files(lake: Lake, table: str = TABLE) -> set[str]:
    return {path for path, _, _ in lake.files.stored(table)}


def replaced(lake: Lake, now: datetime = LATER, days: int | None = 30) -> list[Leftover]:
    limit = None if days is None else now - timedelta(days=days)
    return list(lake_cleaning.replaced_versions(lake, lambda _: limit))


def remove(found: Iterable[Leftover]) -> int:
    return sum(len(each.names) for each in found if each.remove() is not False)


def test_replaced_version_is_removed_and_the_current_rows_stay(lake: Lake) -> None:
    old = lake.write(TABLE, rows(1, 2), "2013-01")
    lake.write(TABLE, rows(3), "2013-02")
    new = lake.write(TABLE, rows(1, 2, 4), "2013-01")
    (found,) = replaced(lake)

    assert (found.names, found.size_bytes) == (["datasets/orders 2013-01 version 0"], old.size_bytes)
    assert remove([found]) == 1
    assert len(files(lake)) == 2
    assert sorted(lake.scan(TABLE).collect()["order"]) == [1, 2, 3, 4]
    assert lake.digests(TABLE)["2013-01"] == new.sha256
    with pytest.raises(LakeError, match="a version that retention removed"):
        lake.scan(TABLE, 0)
    assert replaced(lake) == []


def test_young_pinned_and_unlimited_versions_stay(lake: Lake) -> None:
    lake.write(TABLE, rows(1), "2013-01")
    lake.write(TABLE, rows(2), "2013-01")
    lake.write(TABLE, rows(3), "2013-01")

    assert replaced(lake, datetime.now(UTC) + timedelta(days=29)) == []
    assert replaced(lake, days=None) == []
    lake.catalog.pin([(TABLE, 1)], "model/late/abc")
    assert remove(replaced(lake)) == 1
    assert lake.scan(TABLE, 1).collect()["order"].to_list() == [2]
    with pytest.raises(LakeError, match="retention removed"):
        lake.scan(TABLE, 0)


def test_pin_that_comes_after_the_search_keeps_the_version(lake: Lake) -> None:
    lake.write(TABLE, rows(1), "2013-01")
    lake.write(TABLE, rows(2), "2013-01")
    found = replaced(lake)
    lake.catalog.pin([(TABLE, 0)], "model/late/abc")
    remove(found)
    assert lake.scan(TABLE, 0).collect()["order"].to_list() == [1]


def test_removal_that_was_killed_before_its_files_leaves_orphans_that_the_next_one_removes(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.write(TABLE, rows(1), "2013-01")
    lake.write(TABLE, rows(2), "2013-01")

    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LakeFiles, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(replaced(lake))
    assert len(files(lake)) == 2

    assert remove(lake_cleaning.orphan_files(lake, LATER)) == 1
    assert len(files(lake)) == 1
    assert lake.scan(TABLE).collect()["order"].to_list() == [2]


def test_orphans_are_files_of_killed_writers_and_nothing_else(lake: Lake) -> None:
    lake.write(TABLE, rows(1), "2013-01")
    lake.write("datasets/orders_whole", rows(9), None)
    lake.stage(TABLE, rows(2), "2013-02")
    lake.stage("datasets/never_recorded", rows(3), "2013-02")
    unfinished = Path(lake.root) / TABLE / "partition=2013-01" / ".part-1.parquet"
    unfinished.write_bytes(b"PAR1")
    foreign = Path(lake.root) / "other"
    rows(5).write_delta(foreign)
    before = set(foreign.rglob("*.parquet"))
    current = files(lake) & lake.catalog.known_files(TABLE)

    assert remove(lake_cleaning.orphan_files(lake, datetime.now(UTC) - timedelta(days=1))) == 0
    assert remove(lake_cleaning.orphan_files(lake, LATER)) == 3
    assert files(lake) == current
    assert set(foreign.rglob("*.parquet")) == before
    assert (Path(lake.root) / TABLE / "_delta_log").is_dir()
    assert lake.scan("datasets/orders_whole").collect()["order"].to_list() == [9]
    assert list(lake_cleaning.orphan_files(lake, LATER)) == []


def test_table_of_earlier_code_is_dropped_unless_a_pin_names_it(lake: Lake) -> None:
    for table in ("features/shops/old", "features/shops/pinned", "features/shops/now", "features/gone/old"):
        lake.write(table, rows(1), "2013-01")
    lake.catalog.pin([("features/shops/pinned", 0)], "model/late/abc")
    current = {"features/shops/now"}

    assert list(lake_cleaning.earlier_tables(lake, current, datetime.now(UTC) - timedelta(days=1))) == []
    remove(lake_cleaning.earlier_tables(lake, current, LATER))
    kept = [table for table in lake.catalog.tables() if lake.partitions(table)]
    assert kept == ["features/gone/old", "features/shops/now", "features/shops/pinned"]
    assert list(lake_cleaning.earlier_tables(lake, current, LATER)) == []


def test_file_that_a_current_segment_also_names_stays(lake: Lake) -> None:
    lake.write(TABLE, rows(1), "2013-01")
    lake.write(TABLE, rows(2), "2013-01")
    (old,), (new,) = lake.catalog.segments(TABLE, 0), lake.catalog.segments(TABLE)
    with lake.state.write() as connection:
        values = {"segment_id": new.id, **old.files[0]._asdict()}
        connection.execute(sa.text("INSERT INTO lake_files VALUES (:segment_id, :path, :size_bytes, :sha256)"), values)
    remove(replaced(lake))
    assert old.files[0].path in files(lake)


def test_partition_written_long_ago_is_distinguished_from_one_with_new_rows(lake: Lake) -> None:
    lake.append(TABLE, rows(1), "a")
    lake.append(TABLE, rows(1), "b")
    with lake.state.write() as connection:
        connection.execute(sa.update(lake_segments).values(written_at="2020-01-01T00:00:00.000000+00:00"))
    lake.append(TABLE, rows(2), "b")
    limit = datetime.now(UTC) - timedelta(days=1)
    assert lake_cleaning.partitions_written_before(lake, TABLE, limit) == ["a"]
