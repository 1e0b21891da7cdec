"""After a change of its history, Dagster knows the rows of a dataset: it is up to date, and its consumers are not."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.components.declaration import partitions_definition
from ml_platform.components.materializations import latest_materializations
from ml_platform.console.dataset_history import evolution_steps, parsed_request
from ml_platform.console.materialization_plan import stale_assets
from ml_platform.data.evolution import EvolutionError
from ml_platform.steps.lifecycle import LifecycleDecision
from ml_platform_tests.components.dataset.test_dataset import KEY, MONTHS, Shop, declared

DECISION = LifecycleDecision("ada", "renamed", datetime(2024, 5, 1, tzinfo=UTC))
REPORT = dg.AssetKey("report")
COLUMNS = [
    {"name": "id", "type": "integer", "description": "Number"},
    {"name": "hour_of_day", "type": "float", "description": "Hour"},
]


@dg.asset(deps=[KEY], partitions_def=partitions_definition(MONTHS))
def report() -> None:
    """Something that is made of the orders."""


def stale(shop: Shop) -> list[tuple[str, str | None]]:
    definitions = dg.Definitions.merge(shop.definitions, dg.Definitions(assets=[report]))
    months = {key: ["2013-01", "2013-02"] for key in (KEY, REPORT)}
    return [
        (each.key.path[-1], each.partition) for each in stale_assets(definitions, shop.instance, [KEY, REPORT], months)
    ]


def test_changed_dataset_is_up_to_date_and_its_consumers_are_stale(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        before, after = (
            Shop(tmp_path / "home", instance, declared(**one)) for one in ({}, {"contract": {"columns": COLUMNS}})
        )
        for month in ("2013-01", "2013-02"):
            before.land(month, "id,hour\n1,5\n")
            before.materialize(month, None, report)
        assert stale(before) == []
        assert ("orders", "2013-01") in stale(after)

        request = parsed_request(["hour=hour_of_day"], [], [])
        changed = declared(contract={"columns": COLUMNS})
        for step in evolution_steps(changed, request, after.lake, instance, DECISION, check=False):
            step.run()

        assert stale(after) == [("report", "2013-01"), ("report", "2013-02")]
        reported = latest_materializations(instance, KEY)["2013-02"]
        assert reported.metadata("content_sha256") == after.lake.digests("datasets/orders")["2013-02"]
        # A landed file of the old columns is read again with the loader of the old names.
        assert after.materialize("2013-01").success
        assert after.lake.scan("datasets/orders", partitions=["2013-01"]).collect().rows() == [(1, 5.0, "2013-01")]


def test_option_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(EvolutionError, match="--rename hour: expected --rename old=new"):
        parsed_request(["hour"], [], [])
