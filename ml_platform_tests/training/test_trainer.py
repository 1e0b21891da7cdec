"""Trainers by name and by dotted path, validation of declared settings, availability, and explanations."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import ValidationError

from ml_platform.tasks.task import Task
from ml_platform.training.explain import permutation_importance, reasons
from ml_platform.training.trainer import (
    Matrix,
    TrainerSettings,
    TrainingError,
    availability,
    make_trainer,
    scorer_of,
    trainer_class,
    uses_gpu,
)


class MeanModel:
    """Predicts a constant."""

    rounds = 1

    def __init__(self, mean: float) -> None:
        self.mean, self.history = mean, [(1, 0.5)]

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.full(len(features), self.mean)


class MeanTrainer:
    """A minimal custom trainer."""

    from ml_platform.training.torch_settings import TorchSettings as Settings

    scorer = "own_scorers:load"
    rounds_follow_rows = False

    def __init__(self, settings: object, *, task: Task, seed: int) -> None:
        self.settings = settings

    def fit(self, train: Matrix, validation: Matrix | None = None, **options: object) -> MeanModel:
        return MeanModel(float(train.label.mean()))

    @classmethod
    def load(cls, directory: Path) -> MeanModel:
        return MeanModel(0.5)


class NoTrainer:
    """A class without the members of a trainer."""

    Settings = None


@pytest.fixture
def custom_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this module's trainers importable as `own_trainers`."""
    import importlib.machinery
    import sys
    import types

    module = types.ModuleType("own_trainers")
    vars(module).update(MeanTrainer=MeanTrainer, NoTrainer=NoTrainer)
    module.__spec__ = importlib.machinery.ModuleSpec("own_trainers", loader=None)
    monkeypatch.setitem(sys.modules, "own_trainers", module)


@pytest.mark.usefixtures("custom_module")
def test_custom_trainer_is_loaded_by_dotted_path(matrix: Matrix):
    declared = TrainerSettings(trainer="own_trainers:MeanTrainer")

    fitted = make_trainer(declared, "binary").fit(matrix)

    assert fitted.predict(matrix.features)[0] == matrix.label.mean()


@pytest.mark.usefixtures("custom_module")
def test_class_without_the_members_of_a_trainer_is_rejected():
    with pytest.raises(TrainingError, match="found no 'rounds_follow_rows', 'fit', 'load', 'scorer'"):
        trainer_class("own_trainers:NoTrainer")


@pytest.mark.usefixtures("custom_module")
def test_custom_trainer_names_its_scorer_and_built_in_trainers_do_not():
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
        ({"trainer": "own_trainers:MeanTrainer"}, True),  # it has the settings of torch
    ],
)
@pytest.mark.usefixtures("custom_module")
def test_trainer_with_a_device_other_than_cpu_uses_a_gpu(declared: dict[str, Any], uses: bool):
    assert uses_gpu(TrainerSettings.model_validate(declared)) is uses


def test_misspelt_trainer_is_rejected_with_the_nearest_name():
    with pytest.raises(TrainingError, match=r"Did you mean 'lightgbm'\?"):
        trainer_class("lightgmb")


def test_misspelt_setting_is_rejected_with_its_path():
    with pytest.raises(ValidationError, match=r"settings\.num_leafs\n.*Did you mean 'num_leaves'\?"):
        TrainerSettings.model_validate({"trainer": "lightgbm", "settings": {"num_leafs": 3}})


def test_trainer_that_requires_a_gpu_is_unavailable_with_a_reason_on_a_machine_without():
    found = availability(TrainerSettings(requires="gpu"), gpus=0)

    assert not found.available
    assert found.reason == "It requires a GPU (requires: gpu in defs.yaml), and this machine has none."


@pytest.mark.parametrize(("requires", "gpus"), [("gpu", 1), ("any", 0)])
def test_trainer_is_available_if_the_machine_meets_its_requirement(requires: Literal["any", "gpu"], gpus: int):
    assert availability(TrainerSettings(requires=requires), gpus=gpus).available


def test_reasons_are_the_contributions_with_the_largest_absolute_values():
    found = reasons(["a", "b", "c"], np.array([[0.1, -0.5, 0.2], [0.0, 0.0, 0.3]]), most=2)

    assert [[(each.feature, each.contribution) for each in row] for row in found] == [
        [("b", -0.5), ("c", 0.2)],
        [("c", 0.3)],
    ]


def test_permutation_importance_is_zero_for_features_that_the_model_ignores(matrix: Matrix):
    importance = permutation_importance(
        lambda features: np.nan_to_num(features[:, 0]).astype(np.float64),
        matrix.features,
        np.nan_to_num(matrix.features[:, 0]).astype(np.float64),
        lambda label, scores: float(np.square(label - scores).mean()),
    )

    assert importance[0] == pytest.approx(2 * np.nan_to_num(matrix.features[:, 0]).var(), rel=0.15)
    assert importance[1:].tolist() == [0, 0, 0]
