"""The search for settings: budget, pruning, resumption, and validation of the search space."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.training.trainer import Matrix, TrainerSettings, TrainingError
from ml_platform.training.tuning import Trial, TuningResult, tune, validate_search_space, with_settings

FAST = {"max_rounds": 30, "patience": 10, "num_leaves": 7, "min_data_in_leaf": 20, "num_threads": 1}
SPACE = {
    "learning_rate": {"kind": "float", "low": 0.001, "high": 0.3, "log": True},
    "num_leaves": {"kind": "int", "low": 2, "high": 15},
    "extra_trees": {"kind": "choice", "values": [True, False]},
}


def declared(space: dict[str, Any] | None = None, **tuning: Any) -> TrainerSettings:
    given = {"space": SPACE if space is None else space, "trials": 5, **tuning}
    return TrainerSettings.model_validate({"settings": FAST, "tuning": given})


def search(matrix: Matrix, settings: TrainerSettings, **options: Any) -> TuningResult:
    return tune(matrix.part(0, 900), matrix.part(900, 1200), settings, "binary", **options)


def test_best_trial_has_the_lowest_loss_and_declared_settings_are_tried_first(matrix: Matrix):
    result = search(matrix, declared(pruning=False))

    losses = [trial.loss for trial in result.trials if trial.loss is not None]
    assert len(result.trials) == len(losses) == 5
    assert result.trials[0].settings == {"learning_rate": 0.04, "num_leaves": 7, "extra_trees": False}
    assert result.best_loss == min(losses)
    assert result.best == next(trial.settings for trial in result.trials if trial.loss == result.best_loss)
    assert [loss for _, loss in result.history()] == sorted((loss for _, loss in result.history()), reverse=True)
    assert set(result.importance) == set(SPACE)


def test_trials_depend_on_the_seed_only(matrix: Matrix):
    first, again, other = (search(matrix, declared(seed=seed)) for seed in (0, 0, 1))

    assert [trial.settings for trial in first.trials] == [trial.settings for trial in again.trials]
    assert [trial.settings for trial in first.trials] != [trial.settings for trial in other.trials]


def test_study_is_resumed(matrix: Matrix, storage: str):
    search(matrix, declared(trials=2), storage=storage)
    seen: list[Trial] = []

    result = search(matrix, declared(trials=5), storage=storage, on_trial=seen.append)

    assert [trial.number for trial in result.trials] == [0, 1, 2, 3, 4]
    assert [trial.number for trial in seen] == [2, 3, 4]


def test_trial_that_a_kill_left_running_is_repeated(matrix: Matrix, storage: str):
    search(matrix, declared(trials=1), storage=storage)
    name = optuna.get_all_study_names(storage)[0]
    left = optuna.load_study(study_name=name, storage=storage).ask()
    left.suggest_float("learning_rate", 0.001, 0.3, log=True)

    result = search(matrix, declared(trials=2), storage=storage)

    assert [trial.state for trial in result.trials] == ["COMPLETE", "COMPLETE"]
    assert result.trials[1].settings["learning_rate"] == left.params["learning_rate"]


def test_trials_on_other_rows_do_not_count(matrix: Matrix, storage: str):
    search(matrix, declared(trials=2), storage=storage)
    seen: list[Trial] = []

    tune(
        matrix.part(0, 800),
        matrix.part(900, 1200),
        declared(trials=2),
        "binary",
        storage=storage,
        on_trial=seen.append,
    )

    assert len(seen) == 2


def test_trial_behind_the_median_is_stopped_if_pruning_is_declared(matrix: Matrix):
    space = {"learning_rate": {"kind": "choice", "values": [0.04, 1e-5]}}
    early: dict[str, Any] = {"pruning_warmup_steps": 0, "pruning_interval_steps": 1, "trials": 12, "space": space}

    cut = search(matrix, declared(**early))
    whole = search(matrix, declared(**early | {"pruning": False}))

    assert "PRUNED" in {trial.state for trial in cut.trials}
    assert {trial.state for trial in whole.trials} == {"COMPLETE"}


def test_no_trial_starts_after_the_time_budget(matrix: Matrix):
    result = search(matrix, declared(trials=500, minutes=0.01))

    assert 1 <= len(result.trials) < 500


def test_parallel_trials_respect_the_budget(matrix: Matrix):
    result = search(matrix, declared(trials=6, parallel=2))

    assert len(result.trials) == 6


def test_trial_that_the_trainer_rejects_does_not_end_the_search(matrix: Matrix, monkeypatch: pytest.MonkeyPatch):
    from ml_platform.training.lightgbm_trainer import LightGBMTrainer

    fit = LightGBMTrainer.fit

    def picky(self: LightGBMTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.settings.num_leaves > 7:
            raise TrainingError("toy", expected="few leaves", found="many", fix="Fewer.")
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(LightGBMTrainer, "fit", picky)
    result = search(matrix, declared(trials=8))

    assert {"COMPLETE", "FAIL"} <= {trial.state for trial in result.trials}
    assert math.isfinite(result.best_loss)


def test_space_with_an_unknown_setting_is_rejected(matrix: Matrix):
    space = {"num_leafs": {"kind": "int", "low": 2, "high": 8}}

    with pytest.raises(TrainingError, match=r"found 'num_leafs'. Correct 'tuning.space'. Did you mean 'num_leaves'\?"):
        search(matrix, declared(space))


def test_settings_from_a_trial_replace_the_declared_ones():
    changed = with_settings(declared(), {"num_leaves": 3})

    assert changed.settings == FAST | {"num_leaves": 3}


@pytest.mark.parametrize("kind", ["int", "float"])
def test_range_with_high_below_low_is_rejected(kind: str):
    with pytest.raises(ValueError, match=r"high 1.* is below low 5"):
        declared({"num_leaves": {"kind": kind, "low": 5, "high": 1}})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"learning_rate": {"kind": "float", "low": 0.01, "high": 3.0}},
            r"'learning_rate' that the trainer accepts, found 3.0: Input should be less than or equal to 1",
        ),
        ({"num_leaves": {"kind": "int", "low": 0, "high": 8}}, r"found 0: Input should be greater than or equal to 2"),
        ({"num_leaves": {"kind": "float", "low": 2, "high": 9}}, r"found 4.67.*: Input should be a valid integer"),
        ({"histogram": {"kind": "choice", "values": ["row", "heap"]}}, r"found 'heap': Input should be 'row'"),
        (
            {"lambda_l1": {"kind": "float", "low": 0.0, "high": 1.0, "log": True}},
            r"'lambda_l1' with a low above 0 for a search on a logarithmic scale, found low 0.0. Raise 'low'",
        ),
        ({"num_leafs": {"kind": "int", "low": 2, "high": 8}}, r"found 'num_leafs'. Correct 'tuning.space'."),
    ],
    ids=["above", "below", "fraction", "choice", "logarithm", "unknown"],
)
def test_space_with_invalid_values_is_rejected_when_declared(space: dict[str, Any], message: str):
    with pytest.raises(TrainingError, match=message):
        validate_search_space(declared(space))


def test_valid_space_and_no_space_are_accepted():
    validate_search_space(declared())
    validate_search_space(TrainerSettings())


class Pair(Settings):
    """Two settings with a constraint between them; one defaults to None."""

    low: int | None = Field(default=None, ge=0, description="Lower one.")
    high: int = Field(default=5, description="Higher one.")

    @model_validator(mode="after")
    def _rises(self) -> "Pair":
        if self.low is not None and self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class PairTrainer:
    """A trainer whose loss is its setting `low`."""

    Settings = Pair
    scorer = "bento.scorer:unused"
    rounds_follow_rows = False

    def __init__(self, settings: Pair, *, task: str, seed: int) -> None:
        self.settings = settings

    def fit(self, train: Matrix, validation: Matrix | None = None, **options: object) -> SimpleNamespace:
        assert self.settings.low is not None
        return SimpleNamespace(rounds=1, history=[(1, float(self.settings.low))])

    def load(self, directory: Path) -> None: ...


def test_invalid_combinations_and_a_default_of_none_do_not_end_the_search(matrix: Matrix, tmp_path: Path):
    settings = TrainerSettings.model_validate(
        {
            "trainer": f"{__name__}:PairTrainer",
            "tuning": {"space": {"low": {"kind": "int", "low": 0, "high": 9}}, "trials": 12},
        }
    )
    storage = f"sqlite:///{tmp_path}/study.db"

    result = search(matrix, settings, storage=storage)

    assert {trial.settings["low"] > 5 for trial in result.trials if trial.state == "FAIL"} == {True}
    assert {trial.settings["low"] <= 5 for trial in result.trials if trial.state == "COMPLETE"} == {True}
    assert len(result.trials) == 12
    study = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
    rejected = next(trial for trial in study.trials if trial.state.name == "FAIL")
    assert "is above high 5" in rejected.user_attrs["refused"]


def drawn(result: TuningResult) -> list[float]:
    return [trial.settings["learning_rate"] for trial in result.trials]


def test_resumed_search_does_not_repeat_settings(matrix: Matrix, tmp_path: Path):
    storage = f"sqlite:///{tmp_path}/study.db"

    for trials in (3, 6, 9):
        result = search(matrix, declared(trials=trials, pruning=False), storage=storage)

    assert len(set(drawn(result))) == 9
    undisturbed = [search(matrix, declared(trials=9, pruning=False)) for _ in range(2)]
    assert drawn(undisturbed[0]) == drawn(undisturbed[1])
    assert drawn(undisturbed[0])[:3] == drawn(result)[:3]


def test_torch_trial_behind_the_median_is_stopped_by_default(matrix: Matrix):
    declared_settings = {
        "trainer": "torch",
        "settings": {"batch_rows": 100, "max_epochs": 3, "width": 8, "members": 2, "threads": 1, "device": "cpu"},
        "tuning": {"trials": 8, "space": {"learning_rate": {"kind": "choice", "values": [1e-2, 1e-6]}}},
    }

    result = search(matrix, TrainerSettings.model_validate(declared_settings))

    assert {trial.settings["learning_rate"] for trial in result.trials if trial.state == "PRUNED"} == {1e-6}


def test_parallel_trials_of_equal_torch_settings_have_equal_losses(matrix: Matrix):
    declared_settings = {
        "trainer": "torch",
        "settings": {"batch_rows": 64, "max_epochs": 2, "width": 8, "members": 2, "threads": 1, "device": "cpu"},
        "tuning": {"trials": 5, "parallel": 3, "space": {"dropout": {"kind": "choice", "values": [0.3]}}},
    }

    result = search(matrix, TrainerSettings.model_validate(declared_settings))

    assert [trial.loss for trial in result.trials] == [result.best_loss] * 5

    assert not torch.are_deterministic_algorithms_enabled()
