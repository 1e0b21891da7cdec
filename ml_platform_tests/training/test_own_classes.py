"""Calibrators, samplers and baselines of a team's own are called with checked values and refused for wrong ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.data.extensions import ExtensionError
from ml_platform.tasks.catalog import as_task
from ml_platform.training.calibration import Calibration, fit_task_calibration
from ml_platform.training.own_baseline import Baseline, baseline_prediction
from ml_platform.training.own_calibrator import Calibrator, Knots
from ml_platform.training.own_sampler import Sampler
from ml_platform.training.splits import Split
from ml_platform.training.trainer import Matrix, TrainerSettings

SCORE = np.linspace(0.05, 0.95, 10)
LABEL = np.array([0, 0, 1, 0, 0, 1, 1, 0, 1, 1.0])


class Line(Calibrator):
    """The straight line between two points."""

    x: tuple[float, ...] = (0.0, 1.0)
    y: tuple[float, ...] = (0.2, 0.8)

    def fit(self, score: Any, label: Any) -> Knots:
        return np.array(self.x), np.array(self.y)


class Rows(Sampler):
    """The declared rows."""

    numbers: tuple[float, ...] = (2, 0, 2)

    def rows(self, features: Any, label: Any, names: Sequence[str], random: np.random.Generator) -> Any:
        return np.array(self.numbers) if any(each % 1 for each in self.numbers) else np.array(self.numbers, dtype=int)


class Half(Baseline):
    """One half for each row."""

    value: float = 0.5
    more: int = 0

    def predict(self, known: pl.DataFrame, test: pl.DataFrame, task: Any) -> Any:
        assert test.columns == ["x"]
        return np.full(test.height + self.more, self.value)


def test_own_calibrator_is_stored_as_knots() -> None:
    fitted = fit_task_calibration(as_task("binary"), Line(), 0.9, SCORE, LABEL)
    assert fitted == Calibration(method="isotonic", x=[0.0, 1.0], y=[0.2, 0.8])
    assert fitted.apply(np.array([0.0, 0.5, 1.0])) == pytest.approx([0.2, 0.5, 0.8])
    # A probability of 0 would give one wrong answer an infinite loss.
    assert fit_task_calibration(as_task("binary"), Line(y=(0.0, 1.0)), 0.9, SCORE, LABEL).y == [1e-6, 1 - 1e-6]


def test_each_class_has_its_own_map_and_they_add_up_to_one() -> None:
    task = as_task({"type": "multiclass", "classes": ["a", "b", "c"]})
    outputs = np.tile([0.2, 0.3, 0.5], (6, 1))
    fitted = fit_task_calibration(task, Line(), 0.9, outputs, np.array([0, 1, 2, 0, 1, 2.0]))
    assert len(fitted.classes) == 3
    assert Calibration.model_validate(fitted.model_dump()).apply(outputs).sum(axis=1) == pytest.approx(np.ones(6))


@pytest.mark.parametrize(
    ("calibrator", "message"),
    [
        (Line(x=(1.0, 0.0)), "scores at the knots that ascend"),
        (Line(y=(0.8, 0.2)), "that do not fall"),
        (Line(y=(0.2, 1.2)), "probabilities from 0 to 1"),
        (Line(y=(0.2,)), r"shape \(knots,\), found \(2,\) and \(1,\)"),
    ],
)
def test_wrong_knots_are_refused(calibrator: Line, message: str) -> None:
    with pytest.raises(ExtensionError, match=message):
        fit_task_calibration(as_task("binary"), calibrator, 0.9, SCORE, LABEL)


def test_sampler_chooses_rows_in_its_order() -> None:
    matrix = Matrix(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0.0, 1.0, 2.0]), ["a", "b"])
    matrix = replace(matrix, context={"group": np.array([7.0, 8.0, 9.0])})
    sampled = matrix.sampled(Rows(), seed=1)
    assert sampled.label.tolist() == [2, 0, 2]
    assert sampled.context["group"].tolist() == [9, 7, 9]
    assert sampled.features.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert matrix.sampled(None, seed=1) is matrix


@pytest.mark.parametrize(
    ("numbers", "message"), [((3,), "0 to 2, at least one, found 3 to 3"), ((), "shape"), ((0.5,), "found float64")]
)
def test_wrong_rows_are_refused(numbers: tuple[float, ...], message: str) -> None:
    matrix = Matrix(np.zeros((3, 2), dtype=np.float32), np.zeros(3), ["a", "b"])
    with pytest.raises(ExtensionError, match=message):
        matrix.sampled(Rows(numbers=numbers), seed=1)


@pytest.fixture
def split() -> Split:
    rows = pl.DataFrame({"x": [1.0, 2.0], "label": [0, 1], "label_known_at": [None, None]})
    return Split(rows, rows, rows, rows.clear(), 0, {})


def test_baseline_sees_no_label_of_the_test_rows(split: Split) -> None:
    assert baseline_prediction(Half(), split, as_task("binary")).tolist() == [0.5, 0.5]
    with pytest.raises(ExtensionError, match=r"predictions of shape \(2,\), found shape \(3,\)"):
        baseline_prediction(Half(more=1), split, as_task("binary"))
    with pytest.raises(ExtensionError, match="2 of 2 that are not"):
        baseline_prediction(Half(value=float("nan")), split, as_task("binary"))


def test_undeclared_sampler_leaves_the_recorded_settings_as_they_were() -> None:
    assert "sampler" not in TrainerSettings().declared_inputs()
    own = TrainerSettings.model_validate({"calibration": f"{__name__}:Line", "sampler": {"type": f"{__name__}:Rows"}})
    recorded = own.declared_inputs()
    assert (recorded["calibration"]["y"], recorded["sampler"]["numbers"]) == ([0.2, 0.8], [2.0, 0.0, 2.0])
    assert TrainerSettings.model_validate(recorded) == own
    assert [each.reference for each in own.own_classes] == [f"{__name__}:Line", f"{__name__}:Rows"]
