"""A dataset with a source: read, landed and published in one step, requested by its sensor, retried when away."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from ml_platform.components.dataset import source_sensor, table
from ml_platform.components.dataset.component import Dataset
from ml_platform.components.declaration import DeclarationError
from ml_platform.data import read_attempts
from ml_platform.data.partitions import PartitionScheme
from resources.home import Home
from resources.lake import LakeResource

KEY = dg.AssetKey(["datasets", "orders"])
QUERY = "SELECT * FROM orders WHERE made >= :start AND made < :end"


def declared(**changed: Any) -> Dataset:
    columns = [("id", "integer"), ("price", "float"), ("made", "timestamp")]
    return Dataset.model_validate(
        {
            "name": "orders",
            "description": "One row per order",
            "source": {"type": "sql", "address_variable": "SHOP_DATABASE", "query": QUERY},
            "keys": ["id"],
            "partitions": {"start": "2013-01", "end": "2013-03"},
            "event_time": "made",
            "owners": ["team:shop"],
            "contract": {"columns": [{"name": n, "type": t, "description": n, "minimum": None} for n, t in columns]},
            **changed,
        }
    )


class Shop:
    """A database, a home and a Dagster instance."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, dataset: Dataset) -> None:
        self.path, self.instance, self.lake = root / "shop.duckdb", instance, LakeResource.for_home(Home(root / "home"))
        self.definitions = dg.Definitions.merge(
            dataset.build_defs(None),  # type: ignore[arg-type]
            dg.Definitions(resources={"lake": self.lake}),
        )

    def execute(self, statement: str) -> None:
        with duckdb.connect(self.path) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(statement)

    def requested(self) -> list[tuple[str | None, str | None]]:
        (sensor,) = self.definitions.sensors  # type: ignore[misc]
        with dg.build_sensor_context(
            instance=self.instance, resources={"lake": self.lake}, definitions=self.definitions
        ) as context:
            found: Any = sensor(context)
        span = "dagster/asset_partition_range_"
        return [(each.tags[f"{span}start"], each.tags[f"{span}end"]) for each in found.run_requests or []]

    def materialize(self, partition: str) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [*self.definitions.assets],  # type: ignore[misc]
            instance=self.instance,
            resources={"lake": self.lake},
            partition_key=partition,
            raise_on_error=False,
        )

    def rows(self) -> list[tuple[Any, ...]]:
        return sorted(self.lake.lake().scan("datasets/orders").select("id", "price", "partition").collect().rows())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SHOP_DATABASE", f"duckdb:{tmp_path / 'shop.duckdb'}")
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        opened = Shop(tmp_path, instance, declared())
        opened.execute("CREATE TABLE orders (id bigint, price double, made timestamptz)")
        opened.execute("INSERT INTO orders VALUES (1, 2.5, '2013-01-05 10:00:00+00'), (2, 3, '2013-02-06 10:00:00+00')")
        yield opened


def test_rows_of_a_query_are_landed_published_and_requested_again_only_when_they_change(shop: Shop) -> None:
    assert shop.requested() == [("2013-01", "2013-02")]
    assert shop.materialize("2013-01").success
    assert shop.materialize("2013-02").success
    assert shop.rows() == [(1, 2.5, "2013-01"), (2, 3.0, "2013-02")]
    assert shop.lake.landing().partitions("orders") == ["2013-01", "2013-02"]
    assert shop.requested() == []

    shop.execute("UPDATE orders SET price = 4 WHERE id = 2")
    assert shop.requested() == [("2013-02", "2013-02")]
    assert shop.materialize("2013-02").success
    assert shop.rows() == [(1, 2.5, "2013-01"), (2, 4.0, "2013-02")]
    assert shop.requested() == []


def test_rows_that_break_the_contract_are_not_published_nor_requested_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.materialize("2013-01")
    shop.execute("UPDATE orders SET price = NULL WHERE id = 1")
    assert shop.requested() == [("2013-01", "2013-02")]
    failed = shop.materialize("2013-01")

    assert not failed.success
    assert [each.passed for each in failed.get_asset_check_evaluations()] == [True, True, False]
    assert shop.rows() == [(1, 2.5, "2013-01")]
    monkeypatch.setattr(read_attempts, "FIRST_WAIT_SECONDS", 0)
    assert shop.requested() == [("2013-02", "2013-02")]


def test_database_that_is_away_is_tried_again_and_nothing_is_half_written(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.materialize("2013-01")
    requested = shop.requested()
    monkeypatch.setattr(table, "SOURCE_RETRY_SECONDS", 0.01)
    assert shop.requested() == []  # its run may still come
    monkeypatch.setattr(read_attempts, "FIRST_WAIT_SECONDS", 0)
    shop.path.rename(shop.path.with_suffix(".away"))
    failed = shop.materialize("2013-02")

    steps = [event for event in failed.all_events if event.event_type == dg.DagsterEventType.STEP_RESTARTED]
    (failure,) = [event for event in failed.all_events if event.is_step_failure]
    assert len(steps) == 3
    assert "Database of $SHOP_DATABASE: expected an answer" in str(failure.step_failure_data.user_failure_data)
    assert shop.lake.landing().partitions("orders") == ["2013-01"]
    shop.path.with_suffix(".away").rename(shop.path)
    assert shop.rows() == [(1, 2.5, "2013-01")]
    assert shop.requested() == requested == [("2013-02", "2013-02")]


def test_each_tick_compares_the_latest_months_and_some_earlier_ones_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_sensor, "EARLIER_PARTITIONS", 2)
    months, now = PartitionScheme(start="2013-01"), datetime(2013, 6, 5, tzinfo=UTC)

    assert source_sensor._compared(months, 0, now) == (["2013-01", "2013-02", "2013-04", "2013-05", "2013-06"], 2)
    assert source_sensor._compared(months, 2, now) == (["2013-03", "2013-04", "2013-05", "2013-06"], 0)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"source": None}, r"expected a loader, or a source.*found neither"),
        ({"lookups": ["prices"]}, r"expected a loader that receives them"),
        ({"source": {"type": "function", "function": "no.such:rows"}}, r"attribute 'source.function'.*no module 'no'"),
    ],
)
def test_declaration_without_what_it_needs_is_refused(changed: dict[str, Any], found: str) -> None:
    with pytest.raises(DeclarationError, match=found):
        declared(**changed).build_defs(None)  # type: ignore[arg-type]
