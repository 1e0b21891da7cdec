"""Trainers by name and by dotted path, settings checked when declared, and machines without what is required."""

import numpy as np
import pytest
from pydantic import ValidationError

from ml_platform.training.explain import permutation_importance, reasons
from ml_platform.training.trainer import (
    TrainerSettings,
    TrainingError,
    availability,
    make_trainer,
    scorer_of,
    trainer_class,
    uses_gpu,
)


class MeanModel:
    rounds, notes = 1, []

    def __init__(self, mean: float) -> None:
        self.mean, self.history = mean, [(1, 0.5)]

    def predict(self, features):
        return np.full(len(features), self.mean)


class MeanTrainer:
    """A trainer of a team's own: the smallest there can be."""

    from ml_platform.training.torch_settings import TorchSettings as Settings

    scorer = "own_scorers:load"
    rounds_follow_rows = False

    def __init__(self, settings, *, task, seed) -> None:
        self.settings = settings

    def fit(self, train, validation=None, *, rounds=None, checkpoint=None, report=None):
        return MeanModel(float(train.label.mean()))

    @classmethod
    def load(cls, directory):
        return MeanModel(0.5)


class NoTrainer:
    Settings = None


@pytest.fixture
def own_module(monkeypatch):
    """This module under a name that a declaration can give."""
    import importlib.machinery
    import sys
    import types

    module = types.ModuleType("own_trainers")
    module.MeanTrainer, module.NoTrainer = MeanTrainer, NoTrainer
    module.__spec__ = importlib.machinery.ModuleSpec("own_trainers", loader=None)
    monkeypatch.setitem(sys.modules, "own_trainers", module)


def test_trainer_from_outside_is_found_by_dotted_path(matrix, own_module):
    declared = TrainerSettings(trainer="own_trainers:MeanTrainer")

    fitted = make_trainer(declared, "classification").fit(matrix)

    assert fitted.predict(matrix.features)[0] == matrix.label.mean()


def test_class_that_is_no_trainer_is_refused(own_module):
    with pytest.raises(TrainingError, match="found no 'rounds_follow_rows', 'fit', 'load', 'scorer'"):
        trainer_class("own_trainers:NoTrainer")


def test_own_trainer_names_its_scorer_and_those_of_the_house_need_not(own_module):
    assert [scorer_of(name) for name in ("own_trainers:MeanTrainer", "lightgbm", "torch")] == [
        "own_scorers:load",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("declared", "uses"),
    [
        ({"trainer": "torch"}, True),
        ({"trainer": "torch", "settings": {"device": "cpu"}}, False),
        ({"trainer": "torch", "settings": {"device": "cuda"}}, True),
        ({"trainer": "lightgbm"}, False),
        ({"trainer": "own_trainers:MeanTrainer"}, True),  # its settings are those of torch
    ],
)
def test_trainer_with_a_device_that_is_not_the_cpu_uses_a_gpu(own_module, declared, uses: bool):
    assert uses_gpu(TrainerSettings.model_validate(declared)) is uses


def test_misspelt_trainer_is_refused_with_the_nearest_name():
    with pytest.raises(TrainingError, match=r"Did you mean 'lightgbm'\?"):
        trainer_class("lightgmb")


def test_misspelt_setting_is_refused_where_it_stands():
    with pytest.raises(ValidationError, match=r"settings\.num_leafs\n.*Did you mean 'num_leaves'\?"):
        TrainerSettings.model_validate({"trainer": "lightgbm", "settings": {"num_leafs": 3}})


def test_trainer_that_requires_a_gpu_is_skipped_with_the_reason_on_a_machine_without():
    found = availability(TrainerSettings(requires="gpu"), gpus=0)

    assert not found.available
    assert found.reason == "It requires a GPU (requires: gpu in defs.yaml), and this machine has none."


@pytest.mark.parametrize(("requires", "gpus"), [("gpu", 1), ("any", 0)])
def test_trainer_is_available_where_there_is_what_it_requires(requires, gpus: int):
    assert availability(TrainerSettings(requires=requires), gpus=gpus).available


def test_reasons_are_the_largest_contributions_of_either_sign():
    found = reasons(["a", "b", "c"], np.array([[0.1, -0.5, 0.2], [0.0, 0.0, 0.3]]), most=2)

    assert [[(each.feature, each.contribution) for each in row] for row in found] == [
        [("b", -0.5), ("c", 0.2)],
        [("c", 0.3)],
    ]


def test_permutation_hurts_only_features_that_the_model_uses(matrix):
    importance = permutation_importance(
        lambda features: np.nan_to_num(features[:, 0]).astype(np.float64),
        matrix.features,
        np.nan_to_num(matrix.features[:, 0]).astype(np.float64),
        lambda label, scores: float(np.square(label - scores).mean()),
    )

    assert importance[0] == pytest.approx(2 * np.nan_to_num(matrix.features[:, 0]).var(), rel=0.15)
    assert importance[1:].tolist() == [0, 0, 0]
