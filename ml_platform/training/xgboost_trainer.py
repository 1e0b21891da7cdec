"""Gradient boosted trees by XGBoost, an optional library, saved as its own JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bento.xgboost_scorer import DESCRIPTION_FILE, MODEL_FILE, XgboostScorer, load
from ml_platform.data.atomic import write_json
from ml_platform.data.settings import Settings
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.explain import shares
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError, require_labels

if TYPE_CHECKING:
    from xgboost import DMatrix

OBJECTIVES: dict[str, tuple[str, str]] = {
    "log_loss": ("binary:logistic", "logloss"),
    "multinomial": ("multi:softprob", "mlogloss"),
    "squared_error": ("reg:squarederror", "rmse"),
}
"""XGBoost's objective and metric for each loss of a task."""


class XgboostSettings(Settings):
    """Parameters of XGBoost, under XGBoost's names."""

    learning_rate: float = Field(default=0.05, gt=0, le=1, description="Shrinkage of each tree.")
    max_depth: int = Field(default=6, ge=0, description="Highest depth of a tree; 0: no limit.")
    max_leaves: int = Field(default=0, ge=0, description="Highest number of leaves of a tree; 0: no limit.")
    min_child_weight: float = Field(default=10.0, ge=0, description="Sum of second derivatives that a leaf must have.")
    subsample: float = Field(default=0.8, gt=0, le=1, description="Share of rows that a tree sees.")
    colsample_bytree: float = Field(default=0.5, gt=0, le=1, description="Share of features that a tree may use.")
    reg_alpha: float = Field(default=0.0, ge=0, description="L1 penalty of leaf values.")
    reg_lambda: float = Field(default=5.0, ge=0, description="L2 penalty of leaf values.")
    gamma: float = Field(default=0.0, ge=0, description="Loss reduction that a split must bring.")
    max_bin: int = Field(default=256, ge=2, description="Highest number of bins of a numerical feature.")
    max_rounds: int = Field(default=1500, ge=1, description="Highest number of rounds.")
    patience: int = Field(default=60, ge=1, description="Rounds without improvement after which fitting stops.")
    num_threads: int = Field(default=0, ge=0, description="Number of threads; 0: one per core.")


class XgboostModel(XgboostScorer):
    """A fitted booster, cut at its best round, that scores as in serving."""

    def __init__(self, booster: Any, types: list[str], names: list[str], history: list[tuple[int, float]]) -> None:
        super().__init__(booster, types)
        self.names, self.history = names, history
        self.rounds = int(booster.num_boosted_rounds())
        self.notes: list[str] = []

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return :meth:`XgboostScorer.contributions`."""
        return self.contributions(features)

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the gain of all splits, largest first."""
        gain = self.booster.get_score(importance_type="total_gain")
        return shares(self.names, np.array([gain.get(f"f{at}", 0.0) for at in range(len(self.names))]))

    def save(self, directory: Path) -> None:
        self.booster.save_model(directory / MODEL_FILE)
        write_json(directory / DESCRIPTION_FILE, {"types": self.types, "names": self.names})


class XgboostTrainer:
    """Fit boosted trees with early stopping on the loss of the task. A fit has no checkpoints: it starts again."""

    Settings = XgboostSettings
    rounds_follow_rows = True
    losses = frozenset(OBJECTIVES)
    libraries = ("xgboost",)
    unlocked_packages = ("xgboost", "xgboost-cpu")

    def __init__(self, settings: XgboostSettings, *, task: Task | str, seed: int) -> None:
        self.settings, self.task, self.seed = settings, as_task(task), seed

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: ReportProgress | None = None,
    ) -> XgboostModel:
        """Return the booster; see :class:`ml_platform.training.trainer.Trainer`. Raises :class:`TrainingError`."""
        import xgboost

        require_labels(train, self.task)
        types = ["c" if column in train.categories else "q" for column in range(train.features.shape[1])]
        metric = OBJECTIVES[self.task.loss][1]
        losses: dict[str, dict[str, list[float]]] = {}
        stopping = xgboost.callback.EarlyStopping(
            rounds=self.settings.patience, metric_name=metric, data_name="validation"
        )
        booster = xgboost.train(
            self._parameters(),
            self._matrix(train, types),
            num_boost_round=rounds or self.settings.max_rounds,
            evals=[] if validation is None else [(self._matrix(validation, types), "validation")],
            evals_result=losses,
            callbacks=[] if validation is None else [stopping, _reporter(metric, report)],
            verbose_eval=False,
        )
        history = [(at + 1, loss) for at, loss in enumerate(losses.get("validation", {}).get(metric, []))]
        if history:
            booster = booster[: min(history, key=lambda each: (each[1], each[0]))[0]]
        return XgboostModel(booster, types, list(train.names), history)

    @classmethod
    def load(cls, directory: Path) -> XgboostModel:
        """Return the booster in ``directory``, which ends at its best round."""
        import json

        scorer = load(directory)
        names = json.loads((directory / DESCRIPTION_FILE).read_text())["names"]
        return XgboostModel(scorer.booster, scorer.types, names, [])

    def _parameters(self) -> dict[str, Any]:
        objective, metric = OBJECTIVES[self.task.loss]
        own = self.settings.model_dump(exclude={"max_rounds", "patience", "num_threads"})
        classes = {"num_class": self.task.outputs} if self.task.outputs > 1 else {}
        fixed = {"tree_method": "hist", "seed": self.seed, "nthread": self.settings.num_threads or -1}
        return {**own, **classes, **fixed, "objective": objective, "eval_metric": metric}

    def _matrix(self, rows: Matrix, types: list[str]) -> "DMatrix":
        import xgboost

        return xgboost.DMatrix(
            rows.features,
            rows.label,
            feature_types=types,
            enable_categorical=True,
            nthread=self.settings.num_threads or -1,
        )


def _reporter(metric: str, report: ReportProgress | None) -> Any:
    """Return the callback that passes each validation loss to ``report``."""
    import xgboost

    callback: Any = xgboost.callback.TrainingCallback

    class Reporter(callback):  # type: ignore[misc]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            loss = float(evals_log["validation"][metric][-1])
            if not np.isfinite(loss):
                raise TrainingError(
                    f"XGBoost, round {epoch + 1}",
                    expected="a validation loss that is a number",
                    found=str(loss),
                    fix="Lower the learning rate, or remove infinite labels.",
                )
            if report is not None:
                report(epoch + 1, loss)
            return False

    return Reporter()
