"""A fit reports its rounds with an estimate, streams its losses, and gives the same model as without a report."""

from pathlib import Path

import numpy as np
import pytest

from ml_platform.training.fit_progress import FitProgress, duration
from ml_platform.training.lightgbm_trainer import LightGBMTrainer
from ml_platform.training.trainer import Matrix
from ml_platform.training.tuning import Trial


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_line_is_shown_every_ten_seconds_with_the_time_that_all_rounds_would_take() -> None:
    clock, lines, sent = Clock(), list[str](), list[tuple[str, list[float], int]]()
    progress = FitProgress(lines.append, lambda *each: sent.append(each), most=100, clock=clock)
    for at in range(1, 26):
        clock.seconds = float(at)
        progress(at, 1 / at if at < 20 else 1.0)

    assert lines == [
        "Round 10, validation loss 0.1, lowest in round 10; at most 100 rounds, which take 1 min 30 s more.",
        "Round 20, validation loss 1, lowest in round 19; at most 100 rounds, which take 1 min 20 s more.",
    ]
    assert [(name, len(losses), first) for name, losses, first in sent] == [
        ("validation_loss", 10, 0),
        ("validation_loss", 10, 10),
    ]


def test_resumed_fit_stores_each_loss_once_when_it_is_complete() -> None:
    clock, sent = Clock(), list[tuple[str, list[float], int]]()
    progress = FitProgress(lambda _: None, lambda *each: sent.append(each), clock=clock)
    clock.seconds = 60.0
    progress(4, 0.4)
    assert sent == []
    progress.complete([0.1, 0.2, 0.3, 0.4])
    progress.complete([0.1, 0.2, 0.3, 0.4])
    assert sent == [("validation_loss", [0.1, 0.2, 0.3, 0.4], 0)]


def test_trials_are_counted_down_with_the_time_that_the_others_need() -> None:
    clock, lines = Clock(), list[str]()
    progress = FitProgress(lines.append, trials=4, clock=clock)
    clock.seconds = 30.0
    progress.trial(Trial(0, "COMPLETE", {}, 0.25, 10, 30.0))
    assert lines == ["Trial 0: complete, loss 0.25; 3 trials left, about 1 min 30 s."]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min")])
def test_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def rows(seed: int) -> Matrix:
    random = np.random.default_rng(seed)
    features = random.normal(size=(4000, 3)).astype(np.float32)
    return Matrix(features, (features[:, 0] + random.normal(size=4000) > 0).astype(np.float64), ["a", "b", "c"])


@pytest.mark.parametrize("resampled", [{}, {"bagging_freq": 0}])
def test_measured_training_loss_falls_and_leaves_the_booster_as_it_is(
    tmp_path: Path, resampled: dict[str, int]
) -> None:
    sent: dict[str, list[float]] = {"training_loss": [], "validation_loss": []}
    settings = LightGBMTrainer.Settings.model_validate({"max_rounds": 20, "num_threads": 1, **resampled})
    trainer = LightGBMTrainer(settings, task="binary", seed=3)
    progress = FitProgress(lambda _: None, lambda name, losses, _: sent[name].extend(losses))
    for folder, report in (("with", progress), ("without", None)):
        (tmp_path / folder).mkdir()
        fitted = trainer.fit(rows(1), rows(2), report=report)
        fitted.save(tmp_path / folder)
        progress.complete([loss for _, loss in fitted.history])

    files = [sorted((tmp_path / folder).iterdir()) for folder in ("with", "without")]
    assert [each.read_bytes() for each in files[0]] == [each.read_bytes() for each in files[1]]
    assert len(sent["training_loss"]) == len(sent["validation_loss"]) == 20
    assert np.all(np.diff(sent["training_loss"]) < 0)
    assert sent["training_loss"][-1] < sent["validation_loss"][-1]
