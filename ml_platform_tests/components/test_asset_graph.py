"""The asset graph of the reference domain: exact keys, no external assets, and owner, group and description."""

import dagster as dg
import pytest

from ml_platform.definitions import defs

DATASETS = {"airports", "flights", "planes", "weather"}
MODEL = {
    "training_set",
    "candidate_lightgbm",
    "candidate_torch",
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


@pytest.fixture(scope="module")
def loaded() -> dg.Definitions:
    return defs()


def test_graph_has_exactly_the_expected_assets(loaded: dg.Definitions) -> None:
    keys = loaded.resolve_asset_graph().get_all_asset_keys()
    views = {key.path[1] for key in keys if key.path[0] == "features"}

    assert {key.path[1] for key in keys if key.path[0] == "datasets"} == DATASETS
    assert {key.path[1] for key in keys if key.path[0] == "departure_risk"} == MODEL
    assert len(views) == 23
    assert {key.path[1] for key in keys if key.path[0] == "platform"} == {"housekeeping"}
    assert len(keys) == len(DATASETS) + len(MODEL) + len(views) + 1  # a typo in deps would add an external asset


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


def test_every_declared_gate_is_a_blocking_check(loaded: dg.Definitions) -> None:
    graph = loaded.resolve_asset_graph()
    gates = {key.name: graph.get(key) for key in graph.asset_check_keys if key.asset_key.path[-1] == "evaluation"}

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
    assert all(node.blocking for node in gates.values())
