"""Scorers: a built-in trainer has one, a model can bring its own, and both score as training does."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from bento.lightgbm_scorer import load
from bento.scorer import ModelUnreadableError, load_scorer, scorer_reference
from ml_platform.tasks.task import Task
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.torch_trainer import TorchTrainer
from ml_platform.training.trainer import Matrix


def test_built_in_trainer_has_a_scorer() -> None:
    assert scorer_reference({"trainer": "lightgbm"}) == "bento.lightgbm_scorer:load"


def test_model_can_bring_its_own_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brought_scorer.py").write_text("def load(model_dir):\n    return str(model_dir)\n")
    monkeypatch.syspath_prepend(tmp_path)
    described = {"trainer": "assets.mine:Trainer", "scorer": "brought_scorer:load"}
    assert load_scorer(described, tmp_path / "model") == str(tmp_path / "model")  # type: ignore[comparison-overlap]
    del sys.modules["brought_scorer"]


def test_trainer_without_a_scorer_is_rejected_with_the_fix() -> None:
    with pytest.raises(ModelUnreadableError, match=r"trainer 'mine'.*a 'scorer' in model.json, found neither"):
        scorer_reference({"trainer": "mine"})


def test_lightgbm_scorer_equals_the_booster(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 4)).astype(np.float32)
    label = (features[:, 0] > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": 4, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(features, label), 5)
    booster.save_model(tmp_path / "model.txt")
    scorer = load(tmp_path)
    assert np.array_equal(scorer.predict(features)[:, 0], np.asarray(booster.predict(features)))
    contributions = np.asarray(booster.predict(features, pred_contrib=True))
    assert np.allclose(scorer.contributions(features), contributions[:, :-1], rtol=0, atol=1e-12)
    score = scorer.predict(features)[:, 0]
    odds = np.log(score / (1 - score))
    assert np.allclose(scorer.contributions(features).sum(axis=1) + contributions[:, -1], odds)


@pytest.mark.parametrize("settings", [{"objective": "multiclass", "num_class": 3}, {"objective": "lambdarank"}])
def test_one_row_and_many_score_like_the_python_package(tmp_path: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 5)).astype(np.float32)
    features[rng.random(features.shape) < 0.2] = np.nan
    label = rng.integers(0, 3, 300)
    group = [10] * 30 if settings["objective"] == "lambdarank" else None
    data = lightgbm.Dataset(features, label, group=group, categorical_feature=[4])
    booster = lightgbm.train({**settings, "verbose": -1, "num_leaves": 5}, data, 6)
    booster.save_model(tmp_path / "model.txt")
    expected = np.asarray(booster.predict(features)).reshape(300, -1)
    scorer = load(tmp_path)
    assert np.array_equal(scorer.predict(features), expected)
    assert np.array_equal(np.vstack([scorer.predict(features[[row]]) for row in range(300)]), expected)
    assert scorer.predict(features[:0]).shape == (0, expected.shape[1])
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: scorer.predict(features[[row]]), range(300)))
    assert np.array_equal(np.vstack(found), expected)


def test_file_without_a_booster_and_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("no booster")
    with pytest.raises(ModelUnreadableError, match=r"model.txt: expected a booster"):
        load(tmp_path)
    features = np.zeros((50, 3), dtype=np.float32)
    lightgbm.train({"verbose": -1}, lightgbm.Dataset(features, np.zeros(50)), 1).save_model(tmp_path / "model.txt")
    with pytest.raises(ModelUnreadableError, match=r"rows of 3 features, found an array of shape \(1, 2\)"):
        load(tmp_path).predict(features[:1, :2])


@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_network_without_torch_scores_and_explains_as_torch_does(tmp_path: Path, task: Task, blocks: int) -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(400, 6)).astype(np.float32)
    features[:, 2] = rng.integers(0, 5, 400)
    features[:, 3] = rng.random(400) < 0.01  # a feature with two values gets a single bin
    label = (features[:, 0] + (features[:, 2] % 2) > 0.5).astype(np.float64)
    features[rng.random((400, 6)) < 0.1] = np.nan
    features[:, 4] = np.nan
    features[5, 1], features[320, 0] = 1e9, -1e9  # row 5 is a training row, row 320 a validation row
    rows = Matrix(features, label, [f"f{at}" for at in range(6)], {2: 5})
    settings = TorchSettings(blocks=blocks, width=16, members=3, max_epochs=2, batch_rows=32, bins=5, threads=1)
    trained = TorchTrainer(settings, task=task, seed=1).fit(rows.part(0, 300), rows.part(300, 400))
    trained.save(tmp_path)

    served = load_scorer({"trainer": "torch"}, tmp_path)

    assert np.unique(served.predict(features)).size > 100
    assert np.allclose(served.predict(features), trained.predict(features), rtol=0, atol=1e-13)
    assert np.allclose(served.predict(features[7:8]), trained.predict(features)[7:8], rtol=0, atol=1e-13)
    contributions = served.contributions(features[:5])
    assert np.allclose(contributions, trained.explain(features[:5]), rtol=0, atol=1e-9)
    assert not contributions[:, 4].any()
    assert contributions[:, 0].any()
