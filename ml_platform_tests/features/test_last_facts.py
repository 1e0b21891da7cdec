"""Publishing reads only what was added to the change log, and gives the same snapshot as reading all of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data.lake import Lake, LakeError
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features import change_log
from ml_platform.features.last_facts import last_facts_table
from ml_platform.features.materialize import materialize, publish
from ml_platform.features.online_store import Publication, Snapshot
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import INSTANT, FeatureView
from ml_platform.state.cursors import read_cursor

MONTHS = PartitionScheme(start="2013-01", end="2013-06", time_zone="UTC")
SOLD = {"shop": pl.String(), "at": INSTANT, "price": pl.Float64(), "clerk": pl.String()}

Sale = tuple[str, int, float | None, str | None]
"""Shop, minute of the month, price, clerk."""


def prices(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per sale, known at the sale."""
    return sources["sales"].select("shop", "price", "clerk", known_at="at")


def prices_of_all(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per sale of any shop, known at the sale."""
    return sources["sales"].select("price", "clerk", known_at="at")


def view(**changes: object) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": "prices",
            "entity": ["shop"],
            "features": [
                {"name": "price", "description": "Price of the last sale", "type": "float64"},
                {"name": "clerk", "description": "Clerk of the last sale", "type": "category"},
            ],
            "sources": [{"dataset": "sales"}],
            "function": f"{__name__}:prices",
            "code_version": "1",
            **changes,
        }
    )


class Snapshots(SnapshotStore):
    """Snapshot files that keep every published snapshot in memory too."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.published: list[Snapshot] = []

    def publish(self, snapshot: Snapshot) -> Publication:
        self.published.append(snapshot)
        return super().publish(snapshot)

    def last(self) -> list[tuple[object, ...]]:
        """Return the rows of the last snapshot."""
        return self.published[-1].frame.rows()


class Shop:
    """A lake with the sales of some months, and the snapshots that were published from it."""

    def __init__(self, root: Path, **changes: object) -> None:
        self.lake = Lake.standalone(root / "lake")
        self.store = Snapshots(root / "online")
        self.view = view(**changes)
        self.sales: dict[str, list[tuple[datetime, Sale]]] = {}

    def build(self, month: str, *sales: Sale, months: PartitionScheme = MONTHS) -> None:
        """Write the sales of ``month``, build it and publish."""
        start = months.bounds(month)[0]
        dated = [(start + timedelta(minutes=sale[1]), sale) for sale in sales]
        rows = [(shop, at, price, clerk) for at, (shop, _, price, clerk) in dated]
        self.lake.write("datasets/sales", pl.DataFrame(rows, schema=SOLD, orient="row"), month)
        self.sales[month] = dated
        materialize(self.view, self.lake, self.store, [month], months)

    def expected(self) -> list[tuple[object, ...]]:
        """Return the last sale of each shop over all built months, by shop."""
        last: dict[str, tuple[datetime, Sale]] = {}
        for month in sorted(self.sales):
            for at, sale in self.sales[month]:
                if sale[0] not in last or at >= last[sale[0]][0]:
                    last[sale[0]] = at, sale
        return [(shop, at, price, clerk) for shop, (at, (_, _, price, clerk)) in sorted(last.items())]

    def lose_files_of(self, table: str, partition: str | None = None) -> None:
        """Delete the Parquet files of a partition of ``table``."""
        segments = self.lake.catalog.segments(table, partitions=None if partition is None else [partition])
        files = [file.path for each in segments for file in each.files]
        assert files  # otherwise nothing would be lost
        self.lake.files.delete(table, files)


def test_month_at_the_end_is_published_without_reading_earlier_months(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-01", ("A", 5, 1.0, "kim"), ("B", 6, 2.0, None))
    shop.build("2013-02", ("A", 7, 3.0, "lee"))
    shop.lose_files_of(shop.view.table, "2013-01")
    shop.lose_files_of(shop.view.table, "2013-02")
    shop.build("2013-03", ("C", 1, 4.0, "kim"), ("A", 2, 5.0, None))

    assert shop.store.last() == [
        ("A", datetime(2013, 3, 1, 0, 2, tzinfo=UTC), 5.0, None),
        ("B", datetime(2013, 1, 1, 0, 6, tzinfo=UTC), 2.0, None),
        ("C", datetime(2013, 3, 1, 0, 1, tzinfo=UTC), 4.0, "kim"),
    ]
    assert shop.store.published[-1].watermark == datetime(2013, 4, 1, tzinfo=UTC)


def test_second_publication_of_the_same_log_reads_none_of_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-01", ("A", 5, 1.0, "kim"))
    version = shop.lake.version(last_facts_table(shop.view))
    shop.lose_files_of(shop.view.table, "2013-01")
    publish(shop.view, shop.lake, shop.store, MONTHS)

    assert shop.store.last() == shop.expected()
    assert shop.lake.version(last_facts_table(shop.view)) == version


def test_older_month_that_was_built_again_takes_back_its_facts(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-01", ("A", 5, 1.0, "kim"), ("B", 6, 2.0, None))
    shop.build("2013-02", ("A", 7, 3.0, "lee"))
    shop.build("2013-01", ("C", 5, 9.0, "kim"))

    assert shop.store.last() == [
        ("A", datetime(2013, 2, 1, 0, 7, tzinfo=UTC), 3.0, "lee"),
        ("C", datetime(2013, 1, 1, 0, 5, tzinfo=UTC), 9.0, "kim"),
    ]


def test_month_before_the_others_does_not_replace_their_facts(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-03", ("A", 5, 1.0, "kim"))
    shop.build("2013-02", ("A", 7, 3.0, "lee"), ("B", 8, 4.0, None))

    assert shop.store.last() == [
        ("A", datetime(2013, 3, 1, 0, 5, tzinfo=UTC), 1.0, "kim"),
        ("B", datetime(2013, 2, 1, 0, 8, tzinfo=UTC), 4.0, None),
    ]


def test_lost_last_facts_are_computed_again_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-01", ("A", 5, 1.0, "kim"))
    shop.lose_files_of(last_facts_table(shop.view))
    shop.build("2013-02", ("B", 6, 2.0, None))
    assert shop.store.last() == shop.expected()
    assert "whole change log is read again" in caplog.text

    shop.lose_files_of(shop.view.table, "2013-01")
    shop.build("2013-03", ("C", 6, 2.0, None))
    assert [row[0] for row in shop.store.last()] == ["A", "B", "C"]


def test_lost_log_is_an_error_when_the_whole_of_it_is_needed(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-01", ("A", 5, 1.0, "kim"))
    shop.build("2013-02", ("B", 6, 2.0, None))
    shop.lose_files_of(shop.view.table, "2013-02")

    with pytest.raises(LakeError, match="partition 2013-02"):
        shop.build("2013-01", ("A", 5, 7.0, "kim"))


def test_cursor_names_the_partitions_with_their_digests(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-01", ("A", 5, 1.0, "kim"))
    shop.build("2013-02")
    cursor = read_cursor(shop.lake.state, "online/prices/1")

    assert cursor["digests"] == shop.lake.digests(shop.view.table)
    assert (sorted(cursor["digests"]), cursor["watermark"]) == (["2013-01", "2013-02"], "2013-03-01T00:00:00+00:00")


def test_view_without_entity_keeps_its_latest_fact(tmp_path: Path) -> None:
    shop = Shop(tmp_path, entity=[], function=f"{__name__}:prices_of_all")
    shop.build("2013-01", ("A", 9, 1.0, "kim"), ("B", 6, 2.0, None))
    shop.build("2013-02")
    assert shop.store.last() == [(datetime(2013, 1, 1, 0, 9, tzinfo=UTC), 1.0, "kim")]
    shop.build("2013-03", ("A", 1, 3.0, None))
    assert shop.store.last() == [(datetime(2013, 3, 1, 0, 1, tzinfo=UTC), 3.0, None)]


def test_view_with_a_tolerance_keeps_no_last_facts(tmp_path: Path) -> None:
    shop = Shop(tmp_path, tolerance_minutes=60 * 24 * 28)
    shop.build("2013-01", ("A", 0, 1.0, "kim"), ("B", 60 * 24 * 30, 2.0, None))
    shop.build("2013-02")

    assert shop.store.last() == []
    assert not shop.lake.exists(last_facts_table(shop.view))


def test_other_time_zone_of_the_months_gives_the_facts_of_the_whole_log(tmp_path: Path) -> None:
    """A month in New York ends five hours after it ends in UTC."""
    shop, new_york = Shop(tmp_path), PartitionScheme(start="2013-01", end="2013-06", time_zone="America/New_York")
    shop.build("2013-01", ("A", 0, 1.0, "kim"), ("A", 31 * 24 * 60 - 60, 2.0, "lee"), months=new_york)
    publish(shop.view, shop.lake, shop.store, MONTHS)
    assert shop.store.last() == [("A", datetime(2013, 1, 1, 5, tzinfo=UTC), 1.0, "kim")]

    shop.build("2013-02")
    assert shop.store.last() == [("A", datetime(2013, 2, 1, 4, tzinfo=UTC), 2.0, "lee")]


def test_code_versions_have_their_own_last_facts(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.build("2013-01", ("A", 5, 1.0, "kim"))
    changed = view(code_version="2")
    materialize(changed, shop.lake, shop.store, ["2013-01"], MONTHS)

    assert [last_facts_table(each) for each in (shop.view, changed)] == ["online/prices/1", "online/prices/2"]
    assert shop.lake.scan("online/prices/2").collect().rows() == shop.expected()


def sales_of_a_month() -> st.SearchStrategy[list[Sale]]:
    sale = st.tuples(
        st.sampled_from("ABCD"),
        st.integers(0, 28 * 24 * 60 - 1),
        st.none() | st.floats(-9, 9, width=32),
        st.sampled_from([None, "kim", "lee"]),
    )
    return st.lists(sale, max_size=5, unique_by=lambda each: each[:2])


@given(
    builds=st.lists(
        st.tuples(st.sampled_from(["2013-01", "2013-02", "2013-03", "2013-04"]), sales_of_a_month()),
        min_size=1,
        max_size=7,
    )
)
@settings(max_examples=30, deadline=None)
def test_every_sequence_of_builds_publishes_the_last_facts_of_the_whole_log(
    builds: list[tuple[str, list[Sale]]],
) -> None:
    with TemporaryDirectory() as folder:
        shop = Shop(Path(folder))
        for month, sales in builds:
            shop.build(month, *sales)
            assert shop.store.last() == shop.expected()
            assert shop.store.published[-1].watermark == MONTHS.bounds(max(shop.sales))[1]
            log = change_log.read(shop.view, shop.lake).collect()
            assert log.height == sum(map(len, shop.sales.values()))
