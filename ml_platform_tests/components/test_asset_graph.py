"""The asset graph of the domains: exact keys, no external assets, and owner, group and description."""

from dataclasses import dataclass

import dagster as dg
import pytest

from ml_platform.definitions import defs

OF_EVERY_MODEL = {
    "training_set",
    "evaluation",
    "champion",
    "model_card",
    "bento",
    "rollout",
    "predictions",
    "outcomes",
    "performance",
    "drift",
}


@dataclass(frozen=True)
class Domain:
    """The datasets of a domain, its number of views, its model with trainers, and whether it scores a table."""

    datasets: set[str]
    views: int
    model: str
    trainers: set[str]
    scores: bool = False


DOMAINS = {
    "aviation": Domain({"airports", "flights", "planes", "weather"}, 23, "departure_risk", {"lightgbm", "torch"}),
    "bikes": Domain({"bike_hours"}, 3, "bike_demand", {"lightgbm"}, scores=True),
    "credit": Domain(
        {"credit_applications", "credit_outcomes", "credit_statements"}, 2, "credit_default", {"lightgbm"}
    ),
    "penguins": Domain({"penguins"}, 1, "penguin_species", {"lightgbm"}),
}


@pytest.fixture(scope="module")
def loaded() -> dg.Definitions:
    return defs()


def keys_of(loaded: dg.Definitions, model: str) -> set[tuple[str, ...]]:
    """Return the paths of the assets of ``model`` and of all assets that they are made of."""
    selection = dg.AssetSelection.groups(model).upstream()
    return {tuple(key.path) for key in selection.resolve(loaded.resolve_asset_graph())}


@pytest.mark.parametrize("name", DOMAINS)
def test_domain_has_exactly_the_expected_assets(loaded: dg.Definitions, name: str) -> None:
    domain = DOMAINS[name]
    found = keys_of(loaded, domain.model)

    assert {path[1] for path in found if path[0] == "datasets"} == domain.datasets
    assert len([path for path in found if path[0] == "features"]) == domain.views
    scored = {"scores"} if domain.scores else set()
    candidates = {f"candidate_{trainer}" for trainer in domain.trainers}
    assert {path[1] for path in found if path[0] == domain.model} == OF_EVERY_MODEL | candidates | scored


def test_graph_has_no_other_assets(loaded: dg.Definitions) -> None:
    every = {tuple(key.path) for key in loaded.resolve_asset_graph().get_all_asset_keys()}
    known = set[tuple[str, ...]]().union(*(keys_of(loaded, domain.model) for domain in DOMAINS.values()))
    assert every - known == {("platform", "housekeeping")}  # a typo in deps would add an external asset


def test_every_asset_has_owner_group_and_description(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    lacking = [
        node.key.to_user_string()
        for node in graph.asset_nodes
        if not (
            node.owners and node.description and node.group_name not in (None, "default") and node.is_materializable
        )
    ]

    assert graph.asset_nodes
    assert lacking == []


def test_every_declared_gate_is_a_check_that_stops_nothing(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    gates = {
        key.name: graph.get(key)
        for key in graph.asset_check_keys
        if key.asset_key.path == ["departure_risk", "evaluation"]
    }

    assert set(gates) == {
        "paired_test_log_loss",
        "baseline_log_loss",
        "metric_limit_auc",
        "calibration",
        "slices_log_loss",
        "plausibility",
        "leak",
        "contract",
        "latency",
        "size",
    }
    # A verdict is a result: promotion reads the recorded verdict and not the checks.
    assert not any(node.blocking for node in gates.values())
