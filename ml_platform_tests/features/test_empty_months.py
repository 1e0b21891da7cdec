"""A month without facts is a month like any other: it is listed, read and published, and nothing changed in it."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ml_platform.data.lake import Lake, LakeError
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features import change_log
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.materialize import materialize, publish
from ml_platform.features.online_store import latest_facts
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import INSTANT, FeatureView

MONTHS = PartitionScheme(start="2013-01", end="2013-06", time_zone="UTC")
SOLD = {"shop": pl.String(), "at": INSTANT, "price": pl.Float64()}
EMPTY = pl.DataFrame(schema=SOLD)


def prices(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per sale, known at the sale."""
    return sources["sales"].select("shop", known_at="at", price="price")


def view(**changes: object) -> FeatureView:
    return FeatureView.model_validate(
        {
            "name": "prices",
            "entity": ["shop"],
            "features": [{"name": "price", "description": "Price of the last sale", "type": "float64"}],
            "sources": [{"dataset": "sales"}],
            "function": f"{__name__}:prices",
            "code_version": "1",
            **changes,
        }
    )


def sales(month: int, price: float) -> pl.DataFrame:
    return pl.DataFrame({"shop": ["A"], "at": [datetime(2013, month, 5, tzinfo=UTC)], "price": [price]}, schema=SOLD)


class Shop:
    """A lake with the sales of some months, and an online store."""

    def __init__(self, root: Path, *months: pl.DataFrame) -> None:
        self.lake = Lake.standalone(root / "lake")
        self.store = SnapshotStore(root / "online", refresh_seconds=0)
        self.months = [f"2013-{month:02}" for month in range(1, len(months) + 1)]
        for name, frame in zip(self.months, months, strict=True):
            self.lake.write("datasets/sales", frame, name)

    def online(self, declared: FeatureView) -> list[float]:
        """Return the online prices of the shops A and B; NaN for an unknown one."""
        return self.store.lookup([declared], {"shop": ["A", "B"]}, 2).values[:, 0].tolist()


def test_empty_month_of_a_dataset_is_listed_and_read_as_zero_rows_with_its_columns(tmp_path: Path) -> None:
    lake = Shop(tmp_path, EMPTY, sales(2, 7.0)).lake
    empty = lake.scan("datasets/sales", partitions=["2013-01"]).collect()

    assert set(lake.digests("datasets/sales")) == {"2013-01", "2013-02"}
    assert lake.partitions("datasets/sales") == ["2013-01", "2013-02"]
    assert (empty.height, dict(empty.drop("partition").schema)) == (0, SOLD)
    assert lake.scan("datasets/sales", partitions=["2013-01", "2013-02"]).collect()["price"].to_list() == [7.0]
    with pytest.raises(LakeError, match="expected partitions '2013-03'"):
        lake.scan("datasets/sales", partitions=["2013-03"])


def test_table_with_empty_months_only_is_read_as_zero_rows(tmp_path: Path) -> None:
    lake = Shop(tmp_path, EMPTY).lake

    assert lake.scan("datasets/sales").drop("partition").collect().equals(EMPTY)


@pytest.mark.parametrize("changes", [{}, {"tolerance_minutes": 60}, {"lookback_days": 40}], ids=str)
def test_first_month_without_facts_publishes_a_snapshot_without_entities(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    shop, declared = Shop(tmp_path, EMPTY), view(**changes)
    (build,), publication = materialize(declared, shop.lake, shop.store, ["2013-01"], MONTHS)

    assert (build.version.rows, build.report.rows) == (0, 0)
    assert (publication.published, publication.entities) == (True, 0)
    assert publication.watermark == datetime(2013, 2, 1, tzinfo=UTC)
    assert np.isnan(shop.online(declared)).all()


def test_months_after_an_empty_first_one_have_their_facts(tmp_path: Path) -> None:
    shop, declared = Shop(tmp_path, EMPTY, sales(2, 7.0)), view()
    materialize(declared, shop.lake, shop.store, ["2013-01"], MONTHS)
    materialize(declared, shop.lake, shop.store, ["2013-02"], MONTHS)

    assert shop.online(declared)[0] == 7.0
    assert change_log.read(declared, shop.lake, partitions=["2013-01", "2013-02"]).collect().height == 1


def test_empty_month_after_others_keeps_their_last_facts_and_moves_the_clock(tmp_path: Path) -> None:
    shop, declared = Shop(tmp_path, sales(1, 3.0), EMPTY), view()
    _, publication = materialize(declared, shop.lake, shop.store, shop.months, MONTHS)

    assert publication.watermark == datetime(2013, 3, 1, tzinfo=UTC)
    assert shop.online(declared)[0] == 3.0


def test_month_that_becomes_empty_loses_its_facts(tmp_path: Path) -> None:
    shop, declared = Shop(tmp_path, sales(1, 3.0)), view()
    materialize(declared, shop.lake, shop.store, ["2013-01"], MONTHS)
    shop.lake.write("datasets/sales", EMPTY, "2013-01")
    (build,), publication = materialize(declared, shop.lake, shop.store, ["2013-01"], MONTHS)

    assert (build.version.rows, build.report.late_facts, publication.entities) == (0, 0, 0)
    assert np.isnan(shop.online(declared)).all()


def test_facts_of_a_month_that_was_empty_are_not_late(tmp_path: Path) -> None:
    shop, declared = Shop(tmp_path, EMPTY), view()
    materialize(declared, shop.lake, shop.store, ["2013-01"], MONTHS)
    shop.lake.write("datasets/sales", sales(1, 3.0), "2013-01")
    (build,), _ = materialize(declared, shop.lake, shop.store, ["2013-01"], MONTHS)

    assert (build.version.rows, build.report.late_facts) == (1, 0)


@pytest.mark.parametrize("entity", [["shop"], []])
def test_latest_facts_of_an_empty_log_are_none(entity: list[str]) -> None:
    log = pl.LazyFrame(schema=dict.fromkeys(entity, pl.String()) | {"known_at": INSTANT, "price": pl.Float64()})
    snapshot = latest_facts(view(entity=entity), log, datetime(2013, 2, 1, tzinfo=UTC))

    assert snapshot.frame.columns == [*entity, "known_at", "price"]
    assert (snapshot.frame.height, snapshot.known_at().tolist(), snapshot.matrix()[0].shape) == (0, [], (0, 1))


def test_view_without_months_may_have_no_facts(tmp_path: Path) -> None:
    lake, store = Lake.standalone(tmp_path / "lake"), SnapshotStore(tmp_path / "online")
    lake.write("datasets/sales", EMPTY, None)
    (build,), publication = materialize(view(), lake, store, [None], None)

    assert (build.version.rows, publication.published, publication.entities) == (0, True, 0)


def test_training_rows_of_an_empty_log_have_no_values(tmp_path: Path) -> None:
    shop, declared = Shop(tmp_path, EMPTY), view()
    materialize(declared, shop.lake, shop.store, ["2013-01"], MONTHS)
    features = FeatureSet([declared])
    examples = pl.LazyFrame({"shop": ["A", "B"], "predict_at": [datetime(2013, 1, 9, tzinfo=UTC)] * 2})
    read = features.as_of(examples, features.logs(shop.lake)).collect()

    assert read["prices__price"].to_list() == [None, None]


def test_publishing_before_any_month_was_built_is_an_error_that_names_the_view(tmp_path: Path) -> None:
    shop = Shop(tmp_path, EMPTY)

    with pytest.raises(LakeError, match=r"Feature view 'prices'.*at least one partition.*Materialize features/prices"):
        publish(view(), shop.lake, shop.store, MONTHS)


def test_snapshot_without_entities_does_not_replace_a_later_one(tmp_path: Path) -> None:
    shop, declared = Shop(tmp_path, sales(1, 3.0), EMPTY), view()
    materialize(declared, shop.lake, shop.store, shop.months, MONTHS)
    earlier = latest_facts(declared, change_log.read(declared, shop.lake), datetime(2013, 1, 1, tzinfo=UTC))

    assert not shop.store.publish(earlier).published
    assert shop.online(declared)[0] == 3.0
