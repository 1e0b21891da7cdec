"""Gradient boosted trees by LightGBM: one booster, or one for each level of a task of several quantiles."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.atomic import write_json, write_text
from ml_platform.data.contributions import explained_contributions
from ml_platform.data.settings import Settings
from ml_platform.errors import listed
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.lightgbm_boosting import MODEL_FILE, Rounds, boost
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError, require_labels

if TYPE_CHECKING:
    from lightgbm import Booster

LEVELS_FILE = "levels.json"
"""Lists the boosters of a model with one for each level, and the number of the one that explanations explain."""

OBJECTIVES = {
    "log_loss": {"objective": "binary", "metric": "binary_logloss"},
    "multinomial": {"objective": "multiclass", "metric": "multi_logloss"},
    "squared_error": {"objective": "regression", "metric": "l2"},
    "pinball": {"objective": "quantile", "metric": "quantile"},
    "lambdarank": {"objective": "lambdarank", "metric": "ndcg"},
}
"""LightGBM's objective and metric for each loss of a task."""


class LightGBMSettings(Settings):
    """Parameters of LightGBM, under LightGBM's names."""

    learning_rate: float = Field(default=0.04, gt=0, le=1, description="Shrinkage of each tree.")
    num_leaves: int = Field(default=63, ge=2, description="Highest number of leaves of a tree.")
    max_depth: int = Field(default=-1, description="Highest depth of a tree; -1: no limit.")
    min_data_in_leaf: int = Field(default=200, ge=1, description="Rows that a leaf must have.")
    feature_fraction: float = Field(default=0.35, gt=0, le=1, description="Share of features that a tree may use.")
    bagging_fraction: float = Field(default=0.8, gt=0, le=1, description="Share of rows that a tree sees.")
    bagging_freq: int = Field(default=1, ge=0, le=1, description="1: draw rows for each tree; 0: use all rows.")
    extra_trees: bool = Field(default=False, description="Try one random threshold per feature and node.")
    lambda_l1: float = Field(default=0.0, ge=0, description="L1 penalty of leaf values.")
    lambda_l2: float = Field(default=10.0, ge=0, description="L2 penalty of leaf values.")
    path_smooth: float = Field(default=0.0, ge=0, description="Pull of a leaf towards its parent, in rows.")
    max_bin: int = Field(default=127, ge=2, description="Highest number of bins of a numerical feature.")
    cat_smooth: float = Field(default=30.0, ge=0, description="Smoothing of rare categories.")
    cat_l2: float = Field(default=20.0, ge=0, description="L2 penalty of splits by category.")
    max_cat_threshold: int = Field(default=32, ge=1, description="Most categories on one side of a split.")
    min_data_per_group: int = Field(default=200, ge=1, description="Rows that a group of categories must have.")
    histogram: Literal["row", "column"] = Field(
        default="column", description="Order of building histograms: column for wide tables, row for long ones."
    )
    max_rounds: int = Field(default=1500, ge=1, description="Highest number of rounds.")
    patience: int = Field(default=60, ge=1, description="Rounds without improvement after which fitting stops.")
    segment_rounds: int = Field(
        default=100, ge=1, description="Rounds of a segment, which has its own seeds and ends with a checkpoint."
    )
    num_threads: int = Field(default=0, ge=0, description="Number of threads; 0: one per core.")

    def parameters(self, task: Task | str, level: float | None = None) -> dict[str, Any]:
        """Return the parameters for LightGBM, without the seeds, which change with the segment.

        ``level`` is that of the quantile, for a task of several quantiles.
        """
        own = self.model_dump(exclude={"max_rounds", "patience", "segment_rounds", "histogram"})
        by_column = self.histogram == "column"
        fixed = {"deterministic": True, "force_col_wise": by_column, "force_row_wise": not by_column, "verbose": -1}
        return {**own, **_objective(as_task(task), level), **fixed}


class LightGBMModel:
    """A fitted booster, used up to its best round."""

    def __init__(self, booster: "Booster", rounds: int, history: list[tuple[int, float]], notes: list[str]) -> None:
        self.booster = booster
        self.rounds = rounds
        self.history = history
        self.notes = notes

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the outputs of the task, shape (rows, outputs)."""
        found = np.asarray(self.booster.predict(features, num_iteration=self.rounds), dtype=np.float64)
        return found.reshape(len(features), -1)

    def save(self, directory: Path, file: str = MODEL_FILE) -> None:
        write_text(directory / file, self.booster.model_to_string(num_iteration=self.rounds))

    @classmethod
    def load(cls, path: Path) -> "LightGBMModel":
        """Return the booster in the file ``path``, which ends at its best round."""
        import lightgbm as lgb

        booster = lgb.Booster(model_file=path)
        return cls(booster, booster.current_iteration(), [], [])

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return TreeSHAP contributions without the constant, shape (rows, features), in units of the raw score.

        With several classes they explain the most probable one.
        Source: Lundberg et al. (2018), Consistent individualized feature attribution for tree ensembles.
        """
        found = self.booster.predict(features, num_iteration=self.rounds, pred_contrib=True)
        return explained_contributions(found, features, self.predict)

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the gain of all splits, largest first."""
        gain = self.booster.feature_importance("gain", iteration=self.rounds)
        shares = gain / max(float(gain.sum()), 1e-12)
        names = self.booster.feature_name()
        return {names[index]: float(shares[index]) for index in np.argsort(-shares, kind="stable")}


class LightGBMLevels:
    """One booster for each level; the prediction has a column for each, in their order."""

    def __init__(self, members: Sequence[LightGBMModel], explained: int) -> None:
        self.members, self.explained = list(members), explained
        self.rounds = max(member.rounds for member in self.members)
        self.notes = [note for member in self.members for note in member.notes]
        self.history = _mean_history([member.history for member in self.members])

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the outputs of the task, shape (rows, levels)."""
        return np.column_stack([member.predict(features)[:, 0] for member in self.members])

    def save(self, directory: Path) -> None:
        """Write a file for each booster, and then their list."""
        files = [f"level_{at}.txt" for at in range(len(self.members))]
        for member, file in zip(self.members, files, strict=True):
            member.save(directory, file)
        write_json(directory / LEVELS_FILE, {"files": files, "explained": self.explained})

    @classmethod
    def load(cls, directory: Path) -> "LightGBMLevels":
        """Return the boosters that `levels.json` of ``directory`` lists."""
        stored = json.loads((directory / LEVELS_FILE).read_text())
        return cls([LightGBMModel.load(directory / file) for file in stored["files"]], stored["explained"])

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the contributions to the explained level, shape (rows, features), in label units."""
        return self.members[self.explained].explain(features)

    def importance(self) -> dict[str, float]:
        """Return each feature's mean share of the gain over the levels, largest first."""
        shares: dict[str, float] = {}
        for member in self.members:
            for name, share in member.importance().items():
                shares[name] = shares.get(name, 0.0) + share / len(self.members)
        return dict(sorted(shares.items(), key=lambda each: -each[1]))


class LightGBMTrainer:
    """Fit boosted trees with early stopping on the loss of the task."""

    Settings = LightGBMSettings
    losses = tuple(OBJECTIVES)
    rounds_follow_rows = True

    def __init__(self, settings: LightGBMSettings, *, task: Task | str, seed: int) -> None:
        self.settings = settings
        self.task = as_task(task)
        self.seed = seed

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: ReportProgress | None = None,
    ) -> "LightGBMModel | LightGBMLevels":
        """Return the booster; see :class:`ml_platform.training.trainer.Trainer`. Raises :class:`TrainingError`.

        A task of several quantiles gets one booster for each level, with its own number of rounds.
        """
        if validation is None and rounds is None:
            raise TrainingError(
                "LightGBM",
                expected="validation rows or a number of rounds",
                found="neither",
                fix="Pass validation rows or rounds.",
            )
        counts = [rounds] * max(1, len(self.task.quantile_levels))
        return self._fitted(train, validation, counts, checkpoint, report)

    def refit(
        self, tuned: "LightGBMModel | LightGBMLevels", rows: Matrix, growth: float, *, checkpoint: Path | None = None
    ) -> "LightGBMModel | LightGBMLevels":
        """Return the model fitted on ``rows``, each booster with its own rounds, which grow by ``growth``."""
        boosters = tuned.members if isinstance(tuned, LightGBMLevels) else [tuned]
        counts = [max(1, round(each.rounds * growth)) for each in boosters]
        return self._fitted(rows, None, counts, checkpoint, None)

    def _fitted(
        self,
        train: Matrix,
        validation: Matrix | None,
        rounds: Sequence[int | None],
        checkpoint: Path | None,
        report: ReportProgress | None,
    ) -> "LightGBMModel | LightGBMLevels":
        require_labels(train, self.task)
        levels = self.task.quantile_levels
        if not levels:
            return self._boosted(None, train, validation, rounds[0], checkpoint, report)
        members = [
            self._boosted(level, train, validation, count, checkpoint and checkpoint / f"level_{level:g}", None)
            for level, count in zip(levels, rounds, strict=True)
        ]
        model = LightGBMLevels(members, explained=int(self.task.explained_output(np.zeros((1, len(levels))))[0]))
        # The rounds of one level alone say nothing about the others, so the loss is reported when all are fitted.
        if report is not None:
            for at, loss in model.history:
                report(at, loss)
        return model

    def _boosted(
        self,
        level: float | None,
        train: Matrix,
        validation: Matrix | None,
        rounds: int | None,
        checkpoint: Path | None,
        report: ReportProgress | None,
    ) -> LightGBMModel:
        most = rounds or self.settings.max_rounds
        identity = {**self.settings.model_dump(), "task": self.task.model_dump(), "seed": self.seed, "most": most}
        fitted = boost(
            self.settings.parameters(self.task, level),
            Rounds(most, self.settings.patience, self.settings.segment_rounds),
            train,
            validation,
            seed=self.seed,
            checkpoint=checkpoint,
            identity=identity if level is None else {**identity, "level": level},
            report=report,
        )
        return LightGBMModel(fitted.booster, fitted.trees, fitted.history, fitted.notes)

    @classmethod
    def load(cls, directory: Path) -> LightGBMModel | LightGBMLevels:
        """Return the model in ``directory``."""
        if (directory / LEVELS_FILE).is_file():
            return LightGBMLevels.load(directory)
        return LightGBMModel.load(directory / MODEL_FILE)


def _objective(task: Task, level: float | None) -> dict[str, Any]:
    """Return LightGBM's parameters for the loss of ``task``. Raises :class:`TrainingError` for another loss."""
    if task.loss not in OBJECTIVES:
        raise TrainingError(
            "LightGBM",
            expected=f"a task with the loss {listed(OBJECTIVES)}",
            found=f"'{task.name}' with {task.loss}",
            fix="Choose another trainer.",
        )
    objective = dict(OBJECTIVES[task.loss])
    if level is not None:
        return {**objective, "alpha": level}
    if task.ranked_rows is not None:
        return {**objective, "eval_at": [task.ranked_rows]}
    return {**objective, "num_class": task.outputs} if task.outputs > 1 else objective


def _mean_history(histories: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Return the mean over the levels of the lowest loss so far, by round; a level that has stopped keeps its own."""
    if not all(histories):
        return []
    longest = max(len(history) for history in histories)
    lowest = [np.minimum.accumulate([loss for _, loss in history]) for history in histories]
    mean = np.mean([np.pad(losses, (0, longest - len(losses)), mode="edge") for losses in lowest], axis=0)
    return [(at + 1, float(loss)) for at, loss in enumerate(mean)]
