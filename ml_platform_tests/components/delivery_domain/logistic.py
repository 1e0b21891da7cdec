"""A custom trainer: logistic regression by Newton's method, on numpy only."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from assets.logistic_scorer import FILE, Logistic, load
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.tasks.task import Task
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError, require_labels


class LogisticSettings(Settings):
    """Settings that defs.yaml may declare and tuning may search."""

    penalty: float = Field(default=1.0, ge=0, description="L2 penalty of the weights.")
    max_steps: int = Field(default=8, ge=1, description="Highest number of Newton steps.")


class FittedLogistic(Logistic):
    """A model that scores as in serving, with the history of its fit."""

    names: list[str]
    rounds: int
    history: list[tuple[int, float]]
    notes: list[str]

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return self.contributions(features)

    def importance(self) -> dict[str, float]:
        share = np.abs(self.weight[:-1]) / max(np.abs(self.weight[:-1]).sum(), 1e-12)
        return dict(sorted(zip(self.names, share.tolist(), strict=True), key=lambda each: -each[1]))

    def save(self, directory: Path) -> None:
        stored = {name: getattr(self, name).tolist() for name in ("mean", "spread", "weight")}
        (directory / FILE).write_text(json.dumps({**stored, "names": self.names, "rounds": self.rounds}))


class LogisticTrainer:
    """Trainer for the binary task only. It treats category codes as numbers."""

    Settings = LogisticSettings
    scorer = "assets.logistic_scorer:load"
    rounds_follow_rows = False

    def __init__(self, settings: LogisticSettings, *, task: Task, seed: int) -> None:
        self.settings, self.task = settings, task

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,  # unused: the fit takes a second
        report: ReportProgress | None = None,
    ) -> FittedLogistic:
        if self.task.name != "binary":
            raise TrainingError(
                "LogisticTrainer", expected="task: binary", found=self.task.name, fix="Choose another trainer."
            )
        require_labels(train, self.task)
        mean = np.nan_to_num(np.nanmean(train.features, axis=0, dtype=np.float64))
        spread = np.nan_to_num(np.nanstd(train.features, axis=0, dtype=np.float64))
        fitted = FittedLogistic(mean, np.where(spread > 0, spread, 1.0), np.zeros(len(mean) + 1))
        fitted.names, fitted.history, fitted.notes = list(train.names), [], []
        scaled = np.nan_to_num((train.features - fitted.mean) / fitted.spread)
        rows = np.column_stack([scaled, np.ones(train.rows)])
        weights = [fitted.weight]
        for step in range(1, (rounds or self.settings.max_steps) + 1):
            probability = fitted.predict(train.features)
            gradient = rows.T @ (train.label - probability) - self.settings.penalty * fitted.weight
            variance = probability * (1 - probability)
            hessian = (rows.T * variance) @ rows + self.settings.penalty * np.eye(rows.shape[1])
            fitted.weight = fitted.weight + np.linalg.solve(hessian, gradient)
            weights.append(fitted.weight)
            if validation is not None:
                fitted.history.append((step, _loss(validation.label, fitted.predict(validation.features))))
                if report is not None:
                    report(*fitted.history[-1])
        best = min(fitted.history, key=lambda each: each[1])[0] if fitted.history else len(weights) - 1
        fitted.rounds, fitted.weight = best, weights[best]
        return fitted

    @classmethod
    def load(cls, directory: Path) -> FittedLogistic:
        scorer, stored = load(directory), json.loads((directory / FILE).read_text())
        fitted = FittedLogistic(scorer.mean, scorer.spread, scorer.weight)
        fitted.names, fitted.rounds, fitted.history, fitted.notes = stored["names"], stored["rounds"], [], []
        return fitted


def _loss(label: npt.NDArray[np.float64], probability: npt.NDArray[np.float64]) -> float:
    clipped = np.clip(probability, 1e-12, 1 - 1e-12)
    return float(-np.mean(label * np.log(clipped) + (1 - label) * np.log(1 - clipped)))
