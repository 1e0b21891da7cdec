"""The cost of a step is recorded when it ends well, fails or is tried again, and shown on what it materializes."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform.components.metered import metered
from ml_platform.monitoring.cost_records import AssetDay, asset_days
from ml_platform.state.store import StateStore
from resources.home import Home
from resources.lake import LakeResource
from resources.state import open_state


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    StateStore.in_folder(tmp_path)
    return found


def steps_of(home: Home) -> list[AssetDay]:
    today = datetime.now(UTC).date()
    return asset_days(open_state(home), today - timedelta(days=1), today)  # midnight may pass


def run(home: Home, *assets: Any) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            assets, instance=instance, resources={"lake": LakeResource.for_home(home)}, raise_on_error=False
        )


def test_step_without_a_context_is_recorded_for_its_model_and_domain(home: Home) -> None:
    @dg.asset(key=["late", "champion"], tags={"domain": "shops"})
    @metered
    def champion(lake: LakeResource) -> dg.MaterializeResult[Any]:
        (Path(lake.home_root) / "written").write_bytes(b"1" * 2_000_000)
        sum(at * at for at in range(300_000))
        return dg.MaterializeResult(metadata={"version": 3, "device": "own"})

    result = run(home, champion)

    (found,) = steps_of(home)
    assert (found.asset, found.model, found.domain, found.steps, found.failures) == (
        *("late/champion", "late", "shops"),
        *(1, 0),
    )
    assert 0.005 < found.used.cpu_seconds < 10
    assert found.used.peak_memory_bytes > 10_000_000
    assert found.used.bytes_written >= 2_000_000
    assert found.used.money == pytest.approx(found.used.cpu_seconds * 0.048 / 3600)
    (event,) = result.get_asset_materialization_events()
    shown = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (shown["version"], shown["device"]) == (3, "own")  # the values of the body win
    assert 0 < float(str(shown["cpu_seconds"])) <= found.used.cpu_seconds


def test_failed_step_and_each_attempt_of_a_repeated_one_are_recorded(home: Home) -> None:
    @dg.asset(key=["datasets", "orders"], tags={"domain": "shops"}, retry_policy=dg.RetryPolicy(max_retries=2))
    @metered
    def orders(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[dg.MaterializeResult[Any]]:
        if context.retry_number < 1:
            raise ValueError("the source is away")
        yield dg.MaterializeResult()

    @dg.asset(key=["datasets", "broken"])
    @metered
    def broken(context: dg.AssetExecutionContext, lake: LakeResource) -> None:
        raise ValueError("broken")

    assert not run(home, orders, broken).success

    found = {each.asset: each for each in steps_of(home)}
    assert {name: (each.steps, each.failures) for name, each in found.items()} == {
        "datasets/orders": (2, 1),
        "datasets/broken": (1, 1),
    }
    assert (found["datasets/broken"].model, found["datasets/broken"].domain) == ("", "")


def test_step_ends_well_when_the_ledger_cannot_be_written(home: Home) -> None:
    @dg.asset(key=["datasets", "orders"])
    @metered
    def orders(lake: LakeResource) -> dg.MaterializeResult[Any]:
        home.state.unlink()
        return dg.MaterializeResult()

    assert run(home, orders).success


def test_every_asset_of_the_components_is_metered() -> None:
    from ml_platform.definitions import defs

    bodies = {
        key.to_user_string(): getattr(each.op.compute_fn, "decorated_fn", None)
        for each in defs().resolve_asset_graph().assets_defs
        if each.is_executable
        for key in each.keys
    }
    assert len(bodies) > 40
    assert [name for name, body in bodies.items() if not hasattr(body, "__wrapped__")] == []
