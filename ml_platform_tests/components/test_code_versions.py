"""An edit makes exactly the assets outdated that rest on it: in Dagster, in the plan, and for the automation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleCauseCategory
from dagster._core.loader import LoadingContextForTest

from ml_platform.components.declaration import OnCodeChange, on_new_inputs
from ml_platform.console.materialize import bring_up_to_date, plan, show_plan
from ml_platform_tests.components.project_loading import load, make_project
from ml_platform_tests.conftest import Importable
from resources.home import Home
from resources.home_lake import open_lake
from resources.profiles import resources_of_profile

VIEWS = [f"view_{number}" for number in range(10)]
MONTHS = ("2013-01", "2013-02")
FIRST = dg.AssetKey(["features", "view_0"])

FUNCTIONS = """\
import polars as pl

FACTOR = 2


def scaled(column):
    return pl.col(column) * FACTOR


""" + "\n\n".join(
    f"""\
def {view}(sources):
    return sources["visits"].select("shop", known_at="at", value={"scaled('amount')" if place > 7 else "'amount'"})
"""
    for place, view in enumerate(VIEWS)
)
"""Ten views of one module; the last two use a helper, and through it a constant."""


def declarations(**of_dataset: Any) -> list[dict[str, Any]]:
    columns = [("shop", "string"), ("at", "timestamp"), ("amount", "float")]
    partitions = {"start": "2013-01", "end": "2013-12", "time_zone": "UTC"}
    dataset = {
        "name": "visits",
        "description": "One row per visit",
        "loader": "shop.loaders:visits",
        "keys": ["shop", "at"],
        "partitions": partitions,
        "owners": ["team:shops"],
        "contract": {"columns": [{"name": name, "type": kind, "description": name} for name, kind in columns]},
        **of_dataset,
    }
    views = [
        {
            "name": view,
            "owner": "team:shops",
            "entity": ["shop"],
            "function": f"shop.views:{view}",
            "sources": [{"dataset": "visits", "available_from": {"at": ["at", "shop", "amount"]}}],
            "features": [{"name": "value", "description": "Last amount"}],
            **({"on_code_change": "manual"} if view == "view_1" else {}),
        }
        for view in VIEWS
    ]
    return [
        {"type": "ml_platform.Dataset", "attributes": dataset},
        *({"type": "ml_platform.FeatureView", "attributes": view} for view in views),
    ]


class Shop:
    """A project with ten views of one module, over a dataset with two months, and its home."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance, self.home = root, instance, Home(root / "home")
        (root / "shop").mkdir()
        (root / "shop" / "__init__.py").touch()
        (root / "shop" / "loaders.py").write_text("def visits(path):\n    return 1\n")
        self.edit(FUNCTIONS)
        self.declare(declarations())
        for month in MONTHS:
            at = pl.lit(f"{month}-03").str.to_datetime(time_zone="UTC")
            rows = pl.DataFrame({"shop": ["a"], "amount": [3.0]}).with_columns(at=at)
            open_lake(self.home).write("datasets/visits", rows, month)
            key = dg.AssetKey(["datasets", "visits"])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month))
            for check in ("landed", "schema", "expectations"):
                passed = dg.AssetCheckEvaluation(asset_key=key, check_name=check, passed=True, metadata={})
                instance.report_runless_asset_event(passed)

    def edit(self, functions: str) -> None:
        (self.root / "shop" / "views.py").write_text(functions)

    def declare(self, documents: list[dict[str, Any]]) -> None:
        (self.root / "shop" / "defs.yaml").write_text("---\n".join(map(yaml.safe_dump, documents)))

    def load(self) -> dg.Definitions:
        return dg.Definitions.merge(load(self.root), dg.Definitions(resources=resources_of_profile(self.home)))

    def versions(self) -> dict[str, str | None]:
        graph = self.load().resolve_asset_graph()
        return {key.path[-1]: graph.get(key).code_version for key in graph.get_all_asset_keys()}

    def materialize(self, *keys: dg.AssetKey) -> None:
        done = bring_up_to_date(self.load(), self.instance, self.home, keys, f"{MONTHS[0]}...{MONTHS[-1]}")
        assert [run.steps for run in done]

    def reasons(self, *keys: dg.AssetKey) -> set[str]:
        found = plan(self.load(), self.instance, self.home, keys, f"{MONTHS[0]}...{MONTHS[-1]}")
        return {each.reason.partition(" (")[0] for each in found.stale}


@pytest.fixture
def shop(tmp_path: Path, importable: Importable) -> Iterator[Shop]:
    make_project(tmp_path, importable)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Shop(tmp_path, instance)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        pytest.param("value='amount'", "value=pl.col('amount') + 1", {"view_0"}, id="one line of one function"),
        pytest.param("FACTOR = 2", "FACTOR = 3", {"view_8", "view_9"}, id="constant of a helper"),
        pytest.param("column) * F", "column) / F", {"view_8", "view_9"}, id="helper"),
        pytest.param("import polars as pl\n", "import polars as pl  # tables\n\n\n", set(), id="comment and layout"),
        pytest.param("def scaled(column):\n", 'def scaled(column):\n    """Scale."""\n', set(), id="docstring"),
    ],
)
def test_edit_changes_the_versions_of_the_views_that_use_it_and_of_no_other(
    shop: Shop, old: str, new: str, changed: set[str]
) -> None:
    before = shop.versions()
    assert old in FUNCTIONS
    shop.edit(FUNCTIONS.replace(old, new, 1))
    after = shop.versions()

    assert set(before) == {*VIEWS, "visits"}
    assert {name for name in before if before[name] != after[name]} == changed


def test_changed_loader_and_contract_change_the_version_of_the_dataset(shop: Shop) -> None:
    first = shop.versions()["visits"]
    (shop.root / "shop" / "loaders.py").write_text("def visits(path):\n    return 2\n")
    second = shop.versions()["visits"]
    shop.declare(declarations(event_time="at"))
    assert len({first, second, shop.versions()["visits"]}) == 3


def test_plan_and_dagster_name_what_has_changed_in_each_partition(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    helped = dg.AssetKey(["features", "view_9"])
    assert shop.reasons(FIRST, helped) == {"never materialized"}
    shop.materialize(FIRST, helped)
    assert shop.reasons(FIRST, helped) == set()

    shop.edit(FUNCTIONS.replace("FACTOR = 2", "FACTOR = 3"))
    assert shop.reasons(FIRST, helped) == {"its code changed: shop.views:FACTOR"}
    loaded = shop.load()
    show_plan(plan(loaded, shop.instance, shop.home, [FIRST, helped], "2013-01...2013-02"), loaded, Console(width=200))
    (first, second, last) = capsys.readouterr().out.splitlines()
    assert first.startswith("features/view_9 2013-01...2013-02: its code changed: shop.views:FACTOR (")
    assert (second, last) == (
        "Run 1 2013-01...2013-02: features/view_9",
        "Assets to make: 1. Runs: 1. Nothing was executed.",
    )
    resolver = CachingStaleStatusResolver(
        shop.instance, loaded.resolve_asset_graph(), LoadingContextForTest(shop.instance)
    )
    assert [cause.category for cause in resolver.get_stale_causes(helped, "2013-01")] == [StaleCauseCategory.CODE]
    assert resolver.get_stale_causes(FIRST, "2013-01") == []

    shop.edit(FUNCTIONS)
    documents = declarations()
    documents[-1]["attributes"]["lookback_days"] = 3
    shop.declare(documents)
    assert shop.reasons(FIRST, helped) == {"its declaration changed: lookback_days"}


def test_automation_makes_the_months_of_a_changed_view_again_unless_it_is_declared_manual(shop: Shop) -> None:
    views = [dg.AssetKey(["features", view]) for view in VIEWS]
    for view in views:
        for month in MONTHS:
            shop.instance.report_runless_asset_event(dg.AssetMaterialization(view, partition=month))
    first = dg.evaluate_automation_conditions(shop.load(), shop.instance)
    assert first.total_requested == 0

    shop.edit(FUNCTIONS.replace("value='amount'", "value=pl.col('amount') + 1", 2))
    second = dg.evaluate_automation_conditions(shop.load(), shop.instance, cursor=first.cursor)
    assert {
        view.path[-1]: second.get_requested_partitions(view) for view in views if second.get_num_requested(view)
    } == {"view_0": set(MONTHS)}
    third = dg.evaluate_automation_conditions(shop.load(), shop.instance, cursor=second.cursor)
    assert third.total_requested == 0


@pytest.mark.parametrize(("declared", "requested"), [({}, set()), ({"on_code_change": "automatic"}, set(MONTHS))])
def test_changed_loader_is_acted_on_only_where_it_is_declared(
    shop: Shop, declared: dict[str, str], requested: set[str]
) -> None:
    shop.declare(declarations(**declared))
    first = dg.evaluate_automation_conditions(shop.load(), shop.instance)
    (shop.root / "shop" / "loaders.py").write_text("def visits(path):\n    return 2\n")
    second = dg.evaluate_automation_conditions(shop.load(), shop.instance, cursor=first.cursor)

    dataset = dg.AssetKey(["datasets", "visits"])
    if requested:
        assert second.get_requested_partitions(dataset) == requested
    else:
        assert second.get_num_requested(dataset) == 0


@pytest.mark.parametrize("on_code_change", ["automatic", "manual"])
def test_training_set_waits_for_the_change_log_of_the_changed_code(on_code_change: OnCodeChange) -> None:
    """The change log has a table for each code version, which is empty until the view was made again."""
    months = dg.MonthlyPartitionsDefinition(start_date="2013-01", end_date="2013-03", fmt="%Y-%m")
    view, training_set = dg.AssetKey("view"), dg.AssetKey("training_set")

    def loaded(version: str) -> dg.Definitions:
        at_change, at_update = on_new_inputs(on_code_change=on_code_change), on_new_inputs(code=[view])

        @dg.asset(key=view, code_version=version, partitions_def=months, automation_condition=at_change)
        def _view() -> None: ...

        @dg.asset(
            key=training_set, deps=[view], code_version=version, partitions_def=months, automation_condition=at_update
        )
        def _training_set() -> None: ...

        return dg.Definitions(assets=[_view, _training_set])

    with dg.DagsterInstance.ephemeral() as instance:

        def make(key: dg.AssetKey) -> None:
            for month in MONTHS:
                instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=month))

        def requested(version: str, cursor: Any = None) -> tuple[dict[dg.AssetKey, set[str | None]], Any]:
            found = dg.evaluate_automation_conditions(loaded(version), instance, cursor=cursor)
            due = {
                key: set(found.get_requested_partitions(key))
                for key in (view, training_set)
                if found.get_num_requested(key)
            }
            return due, found.cursor

        make(view)
        make(training_set)
        first, cursor = requested("1")
        edited, cursor = requested("2", cursor)
        waiting, cursor = requested("2", cursor)
        make(view)
        followed, cursor = requested("2", cursor)
        make(training_set)
        last, _ = requested("2", cursor)

    assert first == {}
    assert edited == ({view: set(MONTHS)} if on_code_change == "automatic" else {})
    assert waiting == {}
    assert followed == {training_set: set(MONTHS)}
    assert last == {}
