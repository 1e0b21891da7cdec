"""Blends: the mean of their members, their refit with own rounds, files, contributions, and what they reject."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bento.scorer import load_scorer, scorer_references
from ml_platform.data.averaging import mean_prediction
from ml_platform.tasks.task import Task
from ml_platform.training.blend_trainer import BlendModel, BlendTrainer
from ml_platform.training.trainer import (
    Matrix,
    TrainerSettings,
    TrainingError,
    make_trainer,
    refit,
    trainers_of,
    unlocked_packages,
    uses_gpu,
)

FAST = {"max_rounds": 30, "patience": 5, "num_threads": 1, "min_data_in_leaf": 20}
TREES: dict[str, Any] = {"trainer": "lightgbm", "settings": FAST}
NETWORK: dict[str, Any] = {
    "trainer": "torch",
    "settings": {"max_epochs": 2, "members": 2, "width": 8, "blocks": 1, "threads": 1, "device": "cpu"},
}


def blend(*members: dict[str, Any], seed: int = 7) -> TrainerSettings:
    return TrainerSettings.model_validate({"trainer": "blend", "seed": seed, "settings": {"members": list(members)}})


def fit(declared: TrainerSettings, matrix: Matrix, task: Task | str = "binary", **options: Any) -> BlendModel:
    fitted = make_trainer(declared, task).fit(matrix.part(0, 800), matrix.part(800, 1200), **options)
    assert isinstance(fitted, BlendModel)
    return fitted


def test_prediction_is_the_mean_of_the_log_odds_of_single_fits_with_own_seeds(matrix: Matrix) -> None:
    fitted = fit(blend(TREES | {"seeds": 2}, NETWORK), matrix)
    single = [
        make_trainer(TrainerSettings.model_validate(each | {"seed": seed}), "binary")
        .fit(matrix.part(0, 800), matrix.part(800, 1200))
        .predict(matrix.features)
        for each, seed in ((TREES, 7), (TREES, 8), (NETWORK, 9))
    ]
    assert np.abs(single[0] - single[1]).max() > 0.01
    odds = np.mean([np.log(each / (1 - each)) for each in single], axis=0)
    assert np.allclose(fitted.predict(matrix.features), 1 / (1 + np.exp(-odds)), rtol=0, atol=1e-12)
    assert [count for count, _ in fitted.history] == [1, 2, 3]


def test_values_are_averaged_as_they_are(matrix: Matrix) -> None:
    fitted = fit(blend(TREES | {"seeds": 3}), matrix, "regression")
    mean = np.mean([member.predict(matrix.features) for member in fitted.members], axis=0)
    assert np.array_equal(fitted.predict(matrix.features), mean)


def test_refit_takes_the_rounds_of_each_member(matrix: Matrix) -> None:
    declared = blend(TREES | {"settings": FAST | {"max_rounds": 8}}, TREES)
    tuned = fit(declared, matrix)
    again = refit(make_trainer(declared, "binary"), tuned, matrix, 1.5)
    assert isinstance(again, BlendModel)
    assert len({member.rounds for member in tuned.members}) == 2
    assert [member.rounds for member in again.members] == [round(1.5 * member.rounds) for member in tuned.members]


def test_stored_blend_and_its_scorer_predict_and_explain_the_same(matrix: Matrix, tmp_path: Path) -> None:
    fitted = fit(blend(TREES, NETWORK), matrix)
    fitted.save(tmp_path)
    loaded, scorer = BlendTrainer.load(tmp_path), load_scorer({"trainer": "blend"}, tmp_path)
    expected = fitted.predict(matrix.features)
    assert np.array_equal(loaded.predict(matrix.features), expected)
    assert np.allclose(scorer.predict(matrix.features), expected, rtol=0, atol=1e-12)
    rows = matrix.features[:5]
    assert np.allclose(scorer.contributions(rows), fitted.explain(rows), rtol=0, atol=1e-9)
    assert np.allclose(fitted.explain(rows), np.mean([each.explain(rows) for each in fitted.members], axis=0))
    assert sum(fitted.importance().values()) == pytest.approx(1)
    assert scorer_references({"trainer": "blend"}, tmp_path) == [
        "bento.blend_scorer:load",
        "bento.lightgbm_scorer:load",
        "bento.network_scorer:load",
    ]


def test_killed_blend_resumes_from_the_checkpoints_of_its_members(matrix: Matrix, tmp_path: Path) -> None:
    declared = blend(TREES | {"seeds": 2})

    def stop(members: int, _: float) -> None:
        if members == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(declared, matrix, checkpoint=tmp_path, report=stop)
    resumed = fit(declared, matrix, checkpoint=tmp_path)
    assert np.array_equal(resumed.predict(matrix.features), fit(declared, matrix).predict(matrix.features))
    assert [note.split(":")[0] for note in resumed.notes] == ["Member 1 (lightgbm)"]


def test_blend_names_the_trainers_and_needs_of_its_members() -> None:
    both = blend(TREES, NETWORK | {"settings": {"device": "auto"}})
    assert trainers_of(both) == ["blend", "lightgbm", "torch"]
    assert unlocked_packages(both) == ["torch"]
    assert uses_gpu(both)
    assert not uses_gpu(blend(TREES | {"seeds": 2}))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([TREES], "averages at least two fits"),
        ([{"trainer": "blend", "settings": {"members": [TREES]}, "seeds": 2}], "has no blends as members"),
        ([TREES, TREES | {"settings": {"leaves": 3}}], "no attribute 'leaves'.*Did you mean 'num_leaves'"),
    ],
)
def test_declarations_that_cannot_be_fitted_are_rejected(members: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        blend(*members)


def test_fit_without_validation_rows_is_rejected(matrix: Matrix) -> None:
    with pytest.raises(TrainingError, match="Blend: expected validation rows"):
        make_trainer(blend(TREES | {"seeds": 2}), "binary").fit(matrix, rounds=5)


def test_mean_of_sure_probabilities_is_finite() -> None:
    sure = mean_prediction([np.array([0.0, 1.0, 0.3]), np.array([0.0, 1.0, 0.3])], probabilities=True)
    assert np.allclose(sure, [0, 1, 0.3], atol=1e-12)
