"""The search: budget, pruning, resuming, and a space that names what there is."""

import math

import optuna
import pytest

from ml_platform.training.trainer import Matrix, TrainerSettings, TrainingError
from ml_platform.training.tuning import Trial, Tuning, demand_searchable, tune, with_settings

FAST = {"max_rounds": 30, "patience": 10, "num_leaves": 7, "min_data_in_leaf": 20, "num_threads": 1}
SPACE = {
    "learning_rate": {"kind": "float", "low": 0.001, "high": 0.3, "log": True},
    "num_leaves": {"kind": "int", "low": 2, "high": 15},
    "extra_trees": {"kind": "choice", "values": [True, False]},
}


def declared(space=None, **tuning) -> TrainerSettings:
    given = {"space": SPACE if space is None else space, "trials": 5, **tuning}
    return TrainerSettings.model_validate({"settings": FAST, "tuning": given})


def search(matrix: Matrix, settings: TrainerSettings, **where) -> Tuning:
    return tune(matrix.part(0, 900), matrix.part(900, 1200), settings, "classification", **where)


def test_best_trial_has_the_lowest_loss_and_declared_settings_are_tried_first(matrix: Matrix):
    found = search(matrix, declared(pruning=False))

    assert len(found.trials) == 5
    assert found.trials[0].settings == {"learning_rate": 0.04, "num_leaves": 7, "extra_trees": False}
    assert found.best_loss == min(trial.loss for trial in found.trials)
    assert found.best == next(trial.settings for trial in found.trials if trial.loss == found.best_loss)
    assert [loss for _, loss in found.history()] == sorted((loss for _, loss in found.history()), reverse=True)
    assert set(found.importance) == set(SPACE)


def test_same_seed_gives_the_same_trials_and_another_seed_others(matrix: Matrix):
    first, again, other = (search(matrix, declared(seed=seed)) for seed in (0, 0, 1))

    assert [trial.settings for trial in first.trials] == [trial.settings for trial in again.trials]
    assert [trial.settings for trial in first.trials] != [trial.settings for trial in other.trials]


def test_study_goes_on_where_it_was_left(matrix: Matrix, storage: str):
    search(matrix, declared(trials=2), storage=storage)
    seen: list[Trial] = []

    found = search(matrix, declared(trials=5), storage=storage, on_trial=seen.append)

    assert [trial.number for trial in found.trials] == [0, 1, 2, 3, 4]
    assert [trial.number for trial in seen] == [2, 3, 4]


def test_trial_that_a_kill_left_running_is_tried_again(matrix: Matrix, storage: str):
    search(matrix, declared(trials=1), storage=storage)
    name = optuna.get_all_study_names(storage)[0]
    left = optuna.load_study(study_name=name, storage=storage).ask()
    left.suggest_float("learning_rate", 0.001, 0.3, log=True)

    found = search(matrix, declared(trials=2), storage=storage)

    assert [trial.state for trial in found.trials] == ["COMPLETE", "COMPLETE"]
    assert found.trials[1].settings["learning_rate"] == left.params["learning_rate"]


def test_trials_on_other_rows_do_not_count(matrix: Matrix, storage: str):
    search(matrix, declared(trials=2), storage=storage)
    seen: list[Trial] = []

    tune(
        matrix.part(0, 800),
        matrix.part(900, 1200),
        declared(trials=2),
        "classification",
        storage=storage,
        on_trial=seen.append,
    )

    assert len(seen) == 2


def test_hopeless_trial_is_cut_short_when_pruning_is_declared(matrix: Matrix):
    space = {"learning_rate": {"kind": "choice", "values": [0.04, 1e-5]}}
    early = {"pruning_warmup_steps": 0, "pruning_interval_steps": 1, "trials": 12, "space": space}

    cut = search(matrix, declared(**early))
    whole = search(matrix, declared(**early | {"pruning": False}))

    assert "PRUNED" in {trial.state for trial in cut.trials}
    assert {trial.state for trial in whole.trials} == {"COMPLETE"}


def test_no_trial_begins_after_the_time_is_over(matrix: Matrix):
    found = search(matrix, declared(trials=500, minutes=0.01))

    assert 1 <= len(found.trials) < 500


def test_parallel_trials_keep_the_budget(matrix: Matrix):
    found = search(matrix, declared(trials=6, parallel=2))

    assert len(found.trials) == 6


def test_trial_that_the_trainer_refuses_fails_alone(matrix: Matrix, monkeypatch):
    from ml_platform.training.lightgbm_trainer import LightGBMTrainer

    fit = LightGBMTrainer.fit

    def picky(self, *args, **kwargs):
        if self.settings.num_leaves > 7:
            raise TrainingError("toy", expected="few leaves", found="many", mend="Fewer.")
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(LightGBMTrainer, "fit", picky)
    found = search(matrix, declared(trials=8))

    assert {"COMPLETE", "FAIL"} <= {trial.state for trial in found.trials}
    assert math.isfinite(found.best_loss)


def test_space_that_names_no_setting_of_the_trainer_is_refused(matrix: Matrix):
    space = {"num_leafs": {"kind": "int", "low": 2, "high": 8}}

    with pytest.raises(TrainingError, match=r"found 'num_leafs'. Mend 'tuning.space'. Did you mean 'num_leaves'\?"):
        search(matrix, declared(space))


def test_settings_found_take_the_place_of_the_declared_ones():
    mended = with_settings(declared(), {"num_leaves": 3})

    assert mended.settings == FAST | {"num_leaves": 3}


@pytest.mark.parametrize("kind", ["int", "float"])
def test_range_that_falls_is_refused(kind: str):
    with pytest.raises(ValueError, match=r"high 1.* lies below low 5"):
        declared({"num_leaves": {"kind": kind, "low": 5, "high": 1}})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"learning_rate": {"kind": "float", "low": 0.01, "high": 3.0}},
            r"'learning_rate' that the trainer takes, found 3.0: Input should be less than or equal to 1",
        ),
        ({"num_leaves": {"kind": "int", "low": 0, "high": 8}}, r"found 0: Input should be greater than or equal to 2"),
        ({"num_leaves": {"kind": "float", "low": 2, "high": 9}}, r"found 4.67.*: Input should be a valid integer"),
        ({"histogram": {"kind": "choice", "values": ["row", "heap"]}}, r"found 'heap': Input should be 'row'"),
        (
            {"lambda_l1": {"kind": "float", "low": 0.0, "high": 1.0, "log": True}},
            r"'lambda_l1' with a low above 0, as it is searched by its logarithm, found low 0.0. Raise 'low'",
        ),
        ({"num_leafs": {"kind": "int", "low": 2, "high": 8}}, r"found 'num_leafs'. Mend 'tuning.space'."),
    ],
    ids=["above", "below", "fraction", "choice", "logarithm", "unknown"],
)
def test_space_that_leaves_what_the_trainer_takes_is_refused_when_declared(space: dict, message: str):
    with pytest.raises(TrainingError, match=message):
        demand_searchable(declared(space))


def test_space_within_what_the_trainer_takes_and_no_space_pass():
    demand_searchable(declared())
    demand_searchable(TrainerSettings())
