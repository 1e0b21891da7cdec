"""Boosted trees: resumption, early stopping, explanations, and the effect of each setting."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_platform.tasks.task import Task
from ml_platform.training.lightgbm_boosting import seeds_of_segment
from ml_platform.training.lightgbm_trainer import (
    LightGBMModel,
    LightGBMSettings,
    LightGBMTrainer,
)
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError

SMALL = {"max_rounds": 60, "patience": 60, "num_leaves": 15, "min_data_in_leaf": 10, "num_threads": 1}


class KilledError(Exception):
    """Raised by a report to interrupt a fit."""


def fit(
    matrix: Matrix,
    task: Task | str = "binary",
    seed: int = 3,
    rounds: int | None = None,
    checkpoint: Path | None = None,
    report: ReportProgress | None = None,
    **changes: Any,
) -> LightGBMModel:
    """Return the model of the first 900 rows, validated on the others unless ``rounds`` are given."""
    trainer = LightGBMTrainer(LightGBMSettings.model_validate(SMALL | changes), task=task, seed=seed)
    validation = None if rounds else matrix.part(900, 1200)
    model = trainer.fit(matrix.part(0, 900), validation, rounds=rounds, checkpoint=checkpoint, report=report)
    assert isinstance(model, LightGBMModel)
    return model


@pytest.mark.parametrize(
    "drawn",
    [
        {"bagging_freq": 0, "feature_fraction": 1.0},
        {"bagging_fraction": 0.7, "feature_fraction": 1.0},
        {"bagging_fraction": 0.3},
        {"bagging_freq": 0, "feature_fraction": 0.5},
        {"extra_trees": True, "bagging_fraction": 1.0},
        {"bagging_fraction": 0.6, "feature_fraction": 0.5, "extra_trees": True, "histogram": "row"},
    ],
)
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_resumed_fit_equals_an_uninterrupted_fit(matrix: Matrix, tmp_path: Path, drawn: dict[str, Any], task: Task):
    def stop(round_: int, loss: float) -> None:
        if round_ == 47:
            raise KilledError

    settings = {"segment_rounds": 12, **drawn}
    whole = fit(matrix, task, **settings)
    with pytest.raises(KilledError):
        fit(matrix, task, checkpoint=tmp_path, report=stop, **settings)

    resumed = fit(matrix, task, checkpoint=tmp_path, **settings)

    assert resumed.notes == ["Resumed from the checkpoint after round 36."]
    assert resumed.history == whole.history
    assert np.array_equal(resumed.predict(matrix.features), whole.predict(matrix.features))


def test_finished_fit_is_not_repeated(matrix: Matrix, tmp_path: Path):
    first = fit(matrix, checkpoint=tmp_path, patience=5)
    rounds: list[int] = []

    again = fit(matrix, checkpoint=tmp_path, patience=5, report=lambda round_, loss: rounds.append(round_))

    assert rounds == []
    assert again.rounds == first.rounds
    assert np.array_equal(again.predict(matrix.features), first.predict(matrix.features))


def test_fit_stops_after_patience_and_ends_at_its_best_round(matrix: Matrix):
    fitted = fit(matrix, max_rounds=500, patience=7, learning_rate=0.3)

    losses = [loss for _, loss in fitted.history]
    assert fitted.rounds == int(np.argmin(losses)) + 1 == len(losses) - 7


def test_each_segment_has_its_own_seeds():
    drawn = [seed for segment in range(5) for seed in seeds_of_segment(7, segment).values()]

    assert len(set(drawn)) == len(drawn) == 20
    assert all(0 <= seed < 2**31 for seed in drawn)


def test_saved_booster_ends_at_its_best_round(matrix: Matrix, tmp_path: Path):
    fitted = fit(matrix, max_rounds=300, patience=5, learning_rate=0.3)

    fitted.save(tmp_path)
    read = LightGBMTrainer.load(tmp_path)

    assert read.rounds == fitted.rounds
    assert np.array_equal(read.predict(matrix.features), fitted.predict(matrix.features))


def test_contributions_and_a_constant_sum_to_the_log_odds(matrix: Matrix):
    fitted = fit(matrix)
    raw = fitted.booster.predict(matrix.features, num_iteration=fitted.rounds, raw_score=True)

    rest = raw - fitted.explain(matrix.features).sum(axis=1)

    assert np.ptp(rest) < 1e-9


def test_importance_is_largest_for_the_decisive_feature_and_zero_for_an_empty_one(matrix: Matrix):
    importance = fit(matrix).importance()

    assert next(iter(importance)) == "strong"
    assert importance["empty"] == 0
    assert sum(importance.values()) == pytest.approx(1)


def test_fit_without_validation_and_rounds_is_rejected(matrix: Matrix):
    with pytest.raises(TrainingError, match="expected validation rows or a number of rounds, found neither"):
        LightGBMTrainer(LightGBMSettings(), task="binary", seed=0).fit(matrix)


def test_constant_label_is_rejected(matrix: Matrix):
    with pytest.raises(TrainingError, match="found 900 times 0"):
        fit(Matrix(matrix.features, np.zeros(1200), matrix.names, matrix.categories))


def test_rounds_without_a_possible_split_add_no_tree_and_do_not_shift_the_seeds(matrix: Matrix, tmp_path: Path):
    def stop(round_: int, loss: float) -> None:
        if round_ == 47:
            raise KilledError

    # Each tree uses one of four features, and one feature is empty.
    settings: dict[str, Any] = {"segment_rounds": 12, "feature_fraction": 0.25, "min_data_in_leaf": 400}
    whole = fit(matrix, **settings)
    with pytest.raises(KilledError):
        fit(matrix, checkpoint=tmp_path, report=stop, **settings)
    resumed = fit(matrix, checkpoint=tmp_path, **settings)

    assert whole.booster.current_iteration() < len(whole.history) == 60
    assert resumed.history == whole.history
    assert np.array_equal(resumed.predict(matrix.features), whole.predict(matrix.features))


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.1},
        {"num_leaves": 4},
        {"max_depth": 2},
        {"min_data_in_leaf": 100},
        {"feature_fraction": 0.8},
        {"bagging_fraction": 0.5},
        {"bagging_freq": 0},
        {"extra_trees": True},
        {"lambda_l1": 5.0},
        {"lambda_l2": 50.0},
        {"path_smooth": 20.0},
        {"max_bin": 8},
        {"cat_smooth": 1.0, "min_data_per_group": 20},
        {"cat_l2": 1.0, "min_data_per_group": 20},
        {"max_rounds": 5},
        {"segment_rounds": 10},
    ],
    ids=lambda change: next(iter(change)),
)
def test_setting_changes_the_model(matrix: Matrix, change: dict[str, Any]):
    assert not np.array_equal(fit(matrix, **change).predict(matrix.features), fit(matrix).predict(matrix.features))
