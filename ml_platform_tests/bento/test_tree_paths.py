"""Contributions along decision paths: equal to a walk down each tree, and equal in sum to TreeSHAP."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from bento.lightgbm_scorer import load
from bento.scorer import Features, PathScorer, Scores

OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "binary"},
    {"objective": "regression"},
    {"objective": "multiclass", "num_class": 3},
]


def fitted(path: Path, settings: dict[str, Any]) -> tuple[lightgbm.Booster, Features]:
    """Return a booster that is stored in ``path``, and rows with nulls and a category."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(400, 5)).astype(np.float32)
    features[:, 4] = rng.integers(0, 6, 400)
    features[rng.random(features.shape) < 0.1] = np.nan
    label = rng.integers(0, settings.get("num_class", 2), 400) + (features[:, 0] > 0)
    data = lightgbm.Dataset(features, np.minimum(label, settings.get("num_class", 2) - 1), categorical_feature=[4])
    booster = lightgbm.train({"verbose": -1, "num_leaves": 9, "min_data_in_leaf": 5, **settings}, data, 12)
    booster.save_model(path / "model.txt")
    return booster, features


def walked(booster: lightgbm.Booster, row: Features, tree_numbers: list[int]) -> Scores:
    """Return the path contributions (features,) of ``row`` by a walk down each tree."""
    leaves = np.asarray(booster.predict(row, pred_leaf=True))[0]
    found = np.zeros(row.shape[1])
    for number in tree_numbers:
        steps = path_to(booster.dump_model()["tree_info"][number]["tree_structure"], int(leaves[number])) or []
        for feature, step in steps:
            found[feature] += step
    return found


def expected_value(node: dict[str, Any]) -> tuple[float, int]:
    if "leaf_value" in node:
        return node["leaf_value"], node.get("leaf_count", 1)
    (left, left_rows), (right, right_rows) = map(expected_value, (node["left_child"], node["right_child"]))
    rows = left_rows + right_rows
    return (left * left_rows + right * right_rows) / rows, rows


def path_to(node: dict[str, Any], leaf: int) -> list[tuple[int, float]] | None:
    """Return the feature and the change of the expected value at each split on the path to ``leaf``, if it is there."""
    if "leaf_value" in node:
        return [] if node.get("leaf_index", 0) == leaf else None
    for side in ("left_child", "right_child"):
        further = path_to(node[side], leaf)
        if further is not None:
            return [(node["split_feature"], expected_value(node[side])[0] - expected_value(node)[0]), *further]
    return None


@pytest.mark.parametrize("settings", OBJECTIVES, ids=lambda settings: settings["objective"])
def test_contributions_equal_a_walk_down_each_tree(tmp_path: Path, settings: dict[str, Any]) -> None:
    booster, features = fitted(tmp_path, settings)
    scorer = load(tmp_path)
    assert isinstance(scorer, PathScorer)
    outputs = settings.get("num_class", 1)
    explained = scorer.predict(features).argmax(axis=1)
    found = scorer.path_contributions(features)
    for row in (0, 7, 200):
        trees = list(range(int(explained[row]), booster.num_trees(), outputs))
        assert np.allclose(found[row], walked(booster, features[[row]], trees), rtol=0, atol=1e-12)
        assert np.array_equal(scorer.path_contributions(features[[row]])[0], found[row])
    assert np.allclose(found.sum(axis=1), scorer.contributions(features).sum(axis=1), rtol=0, atol=1e-9)
    assert np.abs(found).sum() > 0


def test_trees_without_a_split_contribute_nothing(tmp_path: Path) -> None:
    features = np.zeros((50, 3), dtype=np.float32)
    label = np.arange(50) % 2
    lightgbm.train({"verbose": -1}, lightgbm.Dataset(features, label), 2).save_model(tmp_path / "model.txt")
    scorer = load(tmp_path)
    assert scorer.path_contributions(features[:2]).tolist() == [[0.0] * 3] * 2
    assert scorer.contribution_milliseconds == 0


def test_expected_time_of_the_full_method_grows_with_leaves_and_depth(tmp_path: Path) -> None:
    times = []
    for leaves in (2, 4, 16):
        fitted(tmp_path, {"objective": "binary", "num_leaves": leaves})
        times.append(load(tmp_path).contribution_milliseconds)
    # 12 trees of 2 leaves at depth 1: 24 units of 3 nanoseconds.
    assert times[0] == pytest.approx(24 * 3e-6)
    assert times[1] > 4 * times[0]
    assert times[2] > 4 * times[1]
