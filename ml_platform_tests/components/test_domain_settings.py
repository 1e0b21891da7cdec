"""The settings in the `domain.yaml` of a domain: owners of all its declarations, concurrent fits, and a budget."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.components.model.automation import spent_budget
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.project import load_definitions_of, read_project
from ml_platform.data.domains import DomainError, read_domain
from ml_platform.monitoring.cost_records import StepCost, Used, record_step
from ml_platform.state.store import StateStore
from ml_platform_tests.components.delivery_home import open_platform
from ml_platform_tests.components.project_loading import make_project
from ml_platform_tests.components.test_namespace import add_model, change
from ml_platform_tests.conftest import Importable
from resources import orchestration
from resources.orchestration import open_instance

SETTINGS = """\
namespace: true
owners: ["team:claims"]
concurrent_fits: 2
budget: {per_month: 1.5}
"""
OWNERS = '  owners: ["team:case"]\n'


@pytest.fixture
def root(tmp_path: Path, importable: Importable) -> Path:
    """A project with the domain `north`, whose dataset and model name no owner."""
    make_project(tmp_path, importable)
    add_model(tmp_path, "north", SETTINGS)
    change(tmp_path, "north", OWNERS, "")
    return tmp_path


def declared_model(root: Path) -> ModelAssets:
    project = read_project(root)
    assert not project.not_loaded
    (declared,) = project.components(Model)
    return ModelAssets(declared, declared.views(project.tree), schemes=declared.schemes(project.tree))


def test_owners_of_the_domain_own_what_names_no_owner(root: Path, tmp_path: Path) -> None:
    change(root, "north", "  owner: team:case\n  kind: request\n", "  kind: request\n")
    with open_platform(tmp_path / ".ml_platform") as made:
        _, loaded = load_definitions_of(root, dg.Definitions(resources=made.resources))
    graph = loaded.resolve_asset_graph()
    owners = {
        key: graph.get(dg.AssetKey.from_user_string(key)).owners
        for key in ("datasets/north.case_cases", "features/north.case_request", "features/north.case_desk")
    }
    assert list(owners.values()) == [["team:claims"], ["team:claims"], ["team:case"]]
    assert graph.get(dg.AssetKey(["north.case", "champion"])).owners == ["team:claims"]


def test_declaration_without_any_owner_is_refused(root: Path) -> None:
    (root / "shop/north/domain.yaml").write_text("namespace: true\n")

    text = read_project(root).not_loaded["north"]
    assert "shop/north/case/defs.yaml" in text
    assert "Declare owners, or 'owners' in north/domain.yaml." in text


def test_fits_of_a_domain_are_in_its_pool_with_its_slots(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "shop/broken").mkdir()
    (root / "shop/broken/domain.yaml").write_text("concurrent_fits: 0\n")
    (root / "shop").rename(root / "assets")
    monkeypatch.setattr(orchestration, "REPOSITORY", root)
    with open_platform(tmp_path / ".ml_platform") as made, open_instance(made.home) as instance:
        assert instance.event_log_storage.get_concurrency_info("north_fits").slot_count == 2
    (root / "assets").rename(root / "shop")

    with open_platform(tmp_path / ".ml_platform") as made:
        _, loaded = load_definitions_of(root, dg.Definitions(resources=made.resources))
    assets = loaded.get_repository_def().assets_defs_by_key
    assert assets[dg.AssetKey(["north.case", "candidate_lightgbm"])].node_def.pools == {"north_fits"}
    assert assets[dg.AssetKey(["north.case", "evaluation"])].node_def.pools == set()


def test_spent_budget_stops_sensors_until_the_next_month(root: Path, state_store: StateStore) -> None:
    model, now = declared_model(root), datetime(2026, 11, 28, 12, tzinfo=UTC)

    def spend(run: str, money: float, domain: str = "north", ended: datetime = now) -> None:
        record_step(
            state_store, StepCost(run, "datasets/cases", 0, domain, "", False, ended, Used(cpu_seconds=1, money=money))
        )

    spend("a", 1.0)
    spend("b", 9.0, "another_domain")
    spend("c", 9.0, ended=now - timedelta(days=30))
    assert spent_budget(model, state_store, now) == ""
    spend("d", 0.75)
    reason = spent_budget(model, state_store, now)
    assert "'north' has used 1.75 of 1.5 USD (117 %) of its budget since 2026-11-01 (UTC)" in reason
    assert "Raise it in north/domain.yaml" in reason
    assert spent_budget(model, state_store, now + timedelta(days=32)) == ""


def test_budget_of_hours_counts_processor_time(root: Path, state_store: StateStore) -> None:
    settings = SETTINGS.replace("{per_month: 1.5}", "{per_month: 100, cpu_hours_per_month: 2, warn_at: 0.5}")
    (root / "shop/north/domain.yaml").write_text(settings)
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    used = Used(cpu_seconds=7300, money=0.1)
    record_step(state_store, StepCost("a", "datasets/cases", 0, "north", "", False, now, used))
    assert "2.028 of 2 CPU-hours" in spent_budget(declared_model(root), state_store, now)


def test_budget_without_a_limit_is_refused(root: Path) -> None:
    (root / "shop/north/domain.yaml").write_text("budget: {warn_at: 0.5}\n")
    with pytest.raises(DomainError, match="a budget needs per_month, cpu_hours_per_month or both"):
        read_domain(root / "shop/north")
