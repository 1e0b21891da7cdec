"""Gradient boosted trees by CatBoost, an optional library, saved in its own format."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bento.catboost_scorer import (
    DESCRIPTION_FILE,
    MODEL_FILE,
    CatboostScorer,
    column_order,
    feature_table,
    load,
)
from ml_platform.data.atomic import write_json
from ml_platform.data.settings import Settings
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.explain import shares
from ml_platform.training.trainer import Matrix, ReportProgress, require_labels

OBJECTIVES = {"log_loss": "Logloss", "multinomial": "MultiClass", "squared_error": "RMSE"}
"""CatBoost's loss for each loss of a task."""


class CatboostSettings(Settings):
    """Parameters of CatBoost, under CatBoost's names."""

    learning_rate: float = Field(default=0.05, gt=0, le=1, description="Shrinkage of each tree.")
    depth: int = Field(default=6, ge=1, le=16, description="Depth of the symmetric trees.")
    l2_leaf_reg: float = Field(default=5.0, ge=0, description="L2 penalty of leaf values.")
    rsm: float = Field(default=1.0, gt=0, le=1, description="Share of features that a split may use.")
    subsample: float = Field(default=0.8, gt=0, le=1, description="Share of rows that a tree sees.")
    border_count: int = Field(default=128, ge=1, description="Highest number of bins of a numerical feature.")
    one_hot_max_size: int = Field(default=8, ge=2, description="Most categories of a feature with a column for each.")
    max_rounds: int = Field(default=1500, ge=1, description="Highest number of rounds.")
    patience: int = Field(default=60, ge=1, description="Rounds without improvement after which fitting stops.")
    num_threads: int = Field(default=-1, ge=-1, description="Number of threads; -1: one per core.")


class CatboostModel(CatboostScorer):
    """A fitted model, cut at its best round, that scores as in serving."""

    def __init__(
        self,
        model: Any,
        categories: list[int],
        probabilities: bool,
        names: list[str],
        history: list[tuple[int, float]],
    ) -> None:
        super().__init__(model, categories, probabilities)
        self.names, self.history = names, history
        self.rounds = int(model.tree_count_)
        self.notes: list[str] = []

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return :meth:`CatboostScorer.contributions`."""
        return self.contributions(features)

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the changes of the prediction, largest first (PredictionValuesChange)."""
        weights = np.empty(len(self.names))
        weights[column_order(len(self.names), self.categories)] = self.model.get_feature_importance()
        return shares(self.names, weights)

    def save(self, directory: Path) -> None:
        self.model.save_model(str(directory / MODEL_FILE), format="cbm")
        description = {"categories": self.categories, "probabilities": self.probabilities, "names": self.names}
        write_json(directory / DESCRIPTION_FILE, description)


class CatboostTrainer:
    """Fit symmetric trees with early stopping on the loss of the task. A fit has no checkpoints: it starts again."""

    Settings = CatboostSettings
    rounds_follow_rows = True
    losses = frozenset(OBJECTIVES)
    libraries = ("catboost",)
    unlocked_packages = ("catboost",)

    def __init__(self, settings: CatboostSettings, *, task: Task | str, seed: int) -> None:
        self.settings, self.task, self.seed = settings, as_task(task), seed

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: ReportProgress | None = None,
    ) -> CatboostModel:
        """Return the model; see :class:`ml_platform.training.trainer.Trainer`. Raises :class:`TrainingError`."""
        import catboost

        require_labels(train, self.task)
        categories = list(train.categories)
        model = catboost.CatBoost(self._parameters(rounds))
        progress = _Progress(OBJECTIVES[self.task.loss], report)
        watched: dict[str, Any] = {}
        if validation is not None:
            watched = {
                "eval_set": _pool(validation, categories),
                "early_stopping_rounds": self.settings.patience,
                "use_best_model": True,
                "callbacks": [progress],
            }
        model.fit(_pool(train, categories), **watched)
        if progress.stopped is not None:
            raise progress.stopped
        return CatboostModel(model, categories, self.task.has_probabilities, list(train.names), progress.history)

    @classmethod
    def load(cls, directory: Path) -> CatboostModel:
        """Return the model in ``directory``, which ends at its best round."""
        import json

        scorer = load(directory)
        names = json.loads((directory / DESCRIPTION_FILE).read_text())["names"]
        return CatboostModel(scorer.model, scorer.categories, scorer.probabilities, names, [])

    def _parameters(self, rounds: int | None) -> dict[str, Any]:
        own = self.settings.model_dump(exclude={"max_rounds", "patience", "num_threads"})
        return {
            **own,
            "bootstrap_type": "Bernoulli",
            "iterations": rounds or self.settings.max_rounds,
            "loss_function": OBJECTIVES[self.task.loss],
            "random_seed": self.seed,
            "thread_count": self.settings.num_threads,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }


class _Progress:
    """Callback that records and reports each validation loss. CatBoost ignores its errors, so it keeps them."""

    def __init__(self, metric: str, report: ReportProgress | None) -> None:
        self.metric, self.report = metric, report
        self.history: list[tuple[int, float]] = []
        self.stopped: BaseException | None = None

    def after_iteration(self, info: Any) -> bool:
        self.history.append((info.iteration, float(info.metrics["validation"][self.metric][-1])))
        if self.report is not None:
            try:
                self.report(*self.history[-1])
            except BaseException as error:
                self.stopped = error
        return self.stopped is None


def _pool(rows: Matrix, categories: list[int]) -> Any:
    import catboost

    return catboost.Pool(feature_table(rows.features, categories), label=rows.label)
