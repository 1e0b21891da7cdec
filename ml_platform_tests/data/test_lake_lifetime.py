"""The lake notices damage, appends without rewriting, and loses nothing with its Delta log or with a killed writer."""

import shutil
import urllib.parse
from pathlib import Path

import duckdb
import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data.delta_log import DeltaLogError
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake, LakeError
from ml_platform.state.schema import cursors
from ml_platform.state.store import now_text

TABLE = "datasets/orders"


def rows(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": list(values)}, schema={"value": pl.Int64})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake.standalone(tmp_path / "lake")
    made.write(TABLE, rows(1, 2), "2013-01")
    made.write(TABLE, rows(3), "2013-02")
    return made


def stored_file(lake: Lake, partition: str) -> Path:
    (file,) = (Path(lake.root) / TABLE / f"partition={partition}").glob("*.parquet")
    return file


def values(lake: Lake, **scan: object) -> list[tuple[str, int]]:
    return sorted(lake.scan(TABLE, **scan).select("partition", "value").collect().rows())  # type: ignore[arg-type]


def test_lost_file_is_named_and_a_repeated_write_restores_the_rows(lake: Lake) -> None:
    file = stored_file(lake, "2013-01")
    file.unlink()

    with pytest.raises(
        LakeError, match=rf"'{TABLE}', partition 2013-01: expected the file .*{file.name}.*found no file"
    ):
        lake.scan(TABLE)
    assert values(lake, partitions=["2013-02"]) == [("2013-02", 3)]
    assert [each.found for each in lake.damaged_files(TABLE, "2013-01")] == ["no file"]
    lake.write(TABLE, rows(2, 1), "2013-01")
    assert values(lake) == [("2013-01", 1), ("2013-01", 2), ("2013-02", 3)]


def test_truncated_file_is_named(lake: Lake) -> None:
    file = stored_file(lake, "2013-01")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])

    with pytest.raises(LakeError, match=rf"found {len(data) // 2} bytes instead of {len(data)}"):
        lake.scan(TABLE)


def test_every_flipped_bit_is_noticed_before_the_rows_are_read(lake: Lake) -> None:
    file = stored_file(lake, "2013-01")
    data = file.read_bytes()
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        file.write_bytes(flipped)
        with pytest.raises(LakeError, match="bytes with the digest"):
            lake.scan(TABLE, partitions=["2013-01"])
    file.write_bytes(data)
    assert values(lake, partitions=["2013-01"]) == [("2013-01", 1), ("2013-01", 2)]


@pytest.mark.parametrize("entry", ["newest", "middle", "all"])
def test_rows_do_not_depend_on_the_delta_log_and_the_log_can_be_rewritten(lake: Lake, entry: str) -> None:
    lake.write(TABLE, rows(9), "2013-01")
    log = Path(lake.delta_address(TABLE)) / "_delta_log"
    entries = sorted(log.glob("*.json"))
    if entry == "all":
        shutil.rmtree(log)
    elif entry == "newest":
        entries[-1].write_bytes(b"")
    else:
        entries[1].unlink()

    assert values(lake) == [("2013-01", 9), ("2013-02", 3)]
    assert values(lake, version=1) == [("2013-01", 1), ("2013-01", 2), ("2013-02", 3)]
    if entry == "middle":
        with pytest.raises(DeltaLogError, match="The rows are safe"):
            lake.write(TABLE, rows(4), "2013-03")
        lake.rewrite_delta_log(TABLE)
    else:
        lake.write(TABLE, rows(4), "2013-03")
    assert published(lake) == values(lake)


def published(lake: Lake) -> list[tuple[str, int]]:
    """Return the rows that another tool reads from the Delta table."""
    table = DeltaTable(f"file://{urllib.parse.quote(lake.delta_address(TABLE))}")
    paths = [urllib.parse.unquote(uri.removeprefix("file://")) for uri in table.file_uris()]
    return sorted(duckdb.read_parquet(paths).project("partition, value").fetchall())


def test_other_tools_read_the_current_rows_from_the_delta_table(lake: Lake) -> None:
    lake.write(TABLE, rows(), "2013-02")
    lake.append(TABLE, rows(5), "2013-01")

    assert published(lake) == [("2013-01", 1), ("2013-01", 2), ("2013-01", 5)] == values(lake)


def test_appended_rows_are_added_and_earlier_files_are_not_written_again(lake: Lake) -> None:
    before = stored_file(lake, "2013-01").stat()
    appended = lake.append(TABLE, rows(7), "2013-01")
    size = lambda: sum(file.stat().st_size for file in Path(lake.root).glob("**/part-*.parquet"))  # noqa: E731
    start = size()
    for value in range(10):
        lake.append(TABLE, rows(value), "2013-03")

    assert (appended.rows, appended.version) == (3, 2)
    assert values(lake, partitions=["2013-01"]) == [("2013-01", 1), ("2013-01", 2), ("2013-01", 7)]
    # Ten single rows, each in its own small file: no earlier row is written again.
    assert size() - start < 10 * 2 * before.st_size


@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=3), min_size=1, max_size=5), st.randoms())
@settings(max_examples=20, deadline=None)
def test_digest_of_appended_rows_does_not_depend_on_their_order_or_on_compaction(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], random: object
) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (Lake.standalone(tmp_path_factory.mktemp("lake")) for _ in range(2))
    for one, lake in ((batches, first), (shuffled, second)):
        for batch in one:
            lake.append(TABLE, rows(*batch), "2013-01")
    digests = [lake.digests(TABLE) for lake in (first, second)]
    first.compact(TABLE, "2013-01")

    assert digests[0] == digests[1] == first.digests(TABLE)
    assert sorted(value for _, value in values(first)) == sorted(value for batch in batches for value in batch)
    assert len(first.catalog.segments(TABLE)) == 1


def test_rows_added_during_a_compaction_stay(lake: Lake) -> None:
    lake.append(TABLE, rows(5), "2013-01")
    stage = lake.stage

    def stage_after_another_append(*arguments: object) -> object:
        lake.stage = stage  # type: ignore[method-assign]
        lake.append(TABLE, rows(6), "2013-01")
        return stage(*arguments)  # type: ignore[arg-type]

    lake.stage = stage_after_another_append  # type: ignore[method-assign, assignment]
    lake.compact(TABLE, "2013-01")

    assert [value for _, value in values(lake, partitions=["2013-01"])] == [1, 2, 5, 6]


def test_staged_rows_and_other_state_are_recorded_together_or_not_at_all(lake: Lake) -> None:
    staged = lake.stage(TABLE, rows(8), "2013-04")

    def record(fails: bool) -> None:
        with lake.state.write() as connection:
            lake.record(staged, replace=False)
            connection.execute(sa.insert(cursors).values(name="reader", value="1", changed_at=now_text()))
            if fails:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(fails=True)
    with lake.state.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(cursors)) == 0
    assert lake.partitions(TABLE) == ["2013-01", "2013-02"]
    record(fails=False)
    assert values(lake, partitions=["2013-04"]) == [("2013-04", 8)]


def test_pinned_version_survives_cleaning_and_a_cleaned_version_says_so(lake: Lake) -> None:
    lake.write(TABLE, rows(9), "2013-01")
    lake.write(TABLE, rows(10), "2013-01")
    lake.catalog.pin([(TABLE, 1)], holder="model/1")
    replaced = lake.catalog.replaced_segments(TABLE, "9999")
    lake.catalog.mark_cleaned(each.id for each in replaced)
    freed = lake.files.delete(TABLE, [file.path for each in replaced for file in each.files])

    assert freed > 0
    assert values(lake) == [("2013-01", 10), ("2013-02", 3)]
    assert values(lake, version=1) == [("2013-01", 1), ("2013-01", 2), ("2013-02", 3)]
    with pytest.raises(LakeError, match="version 2: expected its rows, found a version that retention removed"):
        lake.scan(TABLE, version=2)


@pytest.mark.parametrize("name", ["with space", "Größe", "a#b", "a%20b", "q?[1]*"])
def test_lake_works_below_a_folder_with_special_characters(tmp_path: Path, name: str) -> None:
    lake = Lake.standalone(tmp_path / name / "lake")
    lake.write(TABLE, rows(1), "2013-01")
    lake.write(TABLE, rows(2), "2013-01")
    lake.append(TABLE, rows(3), "2013-01")

    assert values(lake) == [("2013-01", 2), ("2013-01", 3)]
    assert values(lake, version=0) == [("2013-01", 1)]


def test_stored_rows_have_the_digest_in_the_catalog(lake: Lake) -> None:
    for segment in lake.catalog.segments(TABLE):
        stored = lake.scan(TABLE, partitions=[segment.partition]).drop("partition").collect()
        assert content_hash(stored) == segment.sha256
