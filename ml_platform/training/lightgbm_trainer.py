"""Gradient boosted trees by LightGBM, with checkpoints from which a resumed fit gives the same bits.

The random state of a booster cannot be saved. The trainer therefore splits the rounds into segments with their own
seeds and writes checkpoints between segments. A fit resumed from a checkpoint then draws the same rows and features as
an uninterrupted fit, and both predict the same bits.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.atomic import write_text
from ml_platform.data.settings import Settings
from ml_platform.errors import listed
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.checkpoint import Checkpoint, Checkpoints, fingerprint
from ml_platform.training.trainer import Matrix, ReportProgress, TrainingError, require_labels

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset

MODEL_FILE = "model.txt"
SEEDS = ("bagging_seed", "feature_fraction_seed", "extra_seed", "objective_seed")
CHANGED_SHARE_FACTOR = 0.99


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

    def parameters(self, task: Task | str) -> dict[str, Any]:
        """Return the parameters for LightGBM, without the seeds, which change with the segment."""
        own = self.model_dump(exclude={"max_rounds", "patience", "segment_rounds", "histogram"})
        by_column = self.histogram == "column"
        fixed = {"deterministic": True, "force_col_wise": by_column, "force_row_wise": not by_column, "verbose": -1}
        return {**own, **_objective(as_task(task)), **fixed}


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

    def save(self, directory: Path) -> None:
        write_text(directory / MODEL_FILE, self.booster.model_to_string(num_iteration=self.rounds))

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return TreeSHAP contributions without the constant, shape (rows, features), in units of the raw score.

        With several classes they explain the most probable one.
        Source: Lundberg et al. (2018), Consistent individualized feature attribution for tree ensembles.
        """
        found = self.booster.predict(features, num_iteration=self.rounds, pred_contrib=True)
        contributions = np.asarray(found, dtype=np.float64).reshape(len(features), -1, features.shape[1] + 1)
        if contributions.shape[1] == 1:
            return contributions[:, 0, :-1]
        explained = self.predict(features).argmax(axis=1)
        return contributions[np.arange(len(features)), explained, :-1]

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the gain of all splits, largest first."""
        gain = self.booster.feature_importance("gain", iteration=self.rounds)
        shares = gain / max(float(gain.sum()), 1e-12)
        names = self.booster.feature_name()
        return {names[index]: float(shares[index]) for index in np.argsort(-shares, kind="stable")}


class LightGBMTrainer:
    """Fit boosted trees with early stopping on the loss of the task."""

    Settings = LightGBMSettings
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
    ) -> LightGBMModel:
        """Return the booster; see :class:`ml_platform.training.trainer.Trainer`. Raises :class:`TrainingError`."""
        import lightgbm as lgb

        if validation is None and rounds is None:
            raise TrainingError(
                "LightGBM",
                expected="validation rows or a number of rounds",
                found="neither",
                fix="Pass validation rows or rounds.",
            )
        require_labels(train, self.task)
        max_rounds = rounds or self.settings.max_rounds
        # LightGBM samples the rows for the bins once, before the first segment.
        parameters = self.settings.parameters(self.task) | {"data_random_seed": self.seed}
        checkpoints, resumed_from = None, None
        if checkpoint is not None:
            identity = {
                **self.settings.model_dump(),
                "task": self.task.model_dump(),
                "seed": self.seed,
                "most": max_rounds,
            }
            checkpoints = Checkpoints(checkpoint, fingerprint(identity, train, validation))
            resumed_from = checkpoints.latest()
        progress = _BoostingProgress(self.settings, max_rounds, resumed_from, checkpoints, report)
        if resumed_from is not None and progress.is_finished():
            booster = lgb.Booster(model_file=resumed_from.folder / MODEL_FILE)
        else:
            data = _dataset(train, parameters)
            booster = lgb.train(
                parameters | seeds_of_segment(self.seed, progress.round // self.settings.segment_rounds),
                data,
                num_boost_round=max_rounds - progress.round,
                valid_sets=[] if validation is None else [_dataset(validation, parameters, data)],
                init_model=None if resumed_from is None else resumed_from.folder / MODEL_FILE,
                callbacks=[_SegmentSeeds(self.settings.segment_rounds, self.seed, progress.round), progress],
            )
            progress.write_checkpoint(booster)
        return LightGBMModel(booster, progress.best_trees, progress.history, progress.notes)

    @classmethod
    def load(cls, directory: Path) -> LightGBMModel:
        """Return the booster in ``directory``, which ends at its best round."""
        import lightgbm as lgb

        booster = lgb.Booster(model_file=directory / MODEL_FILE)
        return LightGBMModel(booster, booster.current_iteration(), [], [])


def _objective(task: Task) -> dict[str, Any]:
    """Return LightGBM's parameters for the loss of ``task``. Raises :class:`TrainingError` for another loss."""
    objectives: dict[str, dict[str, Any]] = {
        "log_loss": {"objective": "binary", "metric": "binary_logloss"},
        "multinomial": {"objective": "multiclass", "metric": "multi_logloss", "num_class": task.outputs},
        "squared_error": {"objective": "regression", "metric": "l2"},
    }
    if task.loss not in objectives:
        raise TrainingError(
            "LightGBM",
            expected=f"a task with the loss {listed(objectives)}",
            found=f"'{task.name}' with {task.loss}",
            fix="Choose another trainer.",
        )
    return objectives[task.loss]


def seeds_of_segment(seed: int, segment: int) -> dict[str, int]:
    """Return LightGBM's seeds for the rounds of ``segment``; they differ from each other and between segments."""
    digest = hashlib.sha256(f"{seed}/{segment}".encode()).digest()
    return {name: int.from_bytes(digest[4 * at : 4 * at + 4]) >> 1 for at, name in enumerate(SEEDS)}


class _SegmentSeeds:
    """Callback that sets the segment's seeds before the first round of each segment after the first."""

    before_iteration = True

    def __init__(self, segment_rounds: int, seed: int, first_round: int) -> None:
        self.segment_rounds = segment_rounds
        self.seed = seed
        self.first_round = first_round

    def __call__(self, env: Any) -> None:
        segment, index = divmod(self.first_round + env.iteration - env.begin_iteration, self.segment_rounds)
        if index == 0 and env.iteration > env.begin_iteration:
            seeds, share = seeds_of_segment(self.seed, segment), env.params["bagging_fraction"]
            if share < 1:
                # LightGBM uses a new bagging seed only when the share changes too, and ignores it for a share of 1.
                env.model.reset_parameter({"bagging_fraction": share * CHANGED_SHARE_FACTOR})
            env.model.reset_parameter({"bagging_fraction": share, **seeds})


class _BoostingProgress:
    """Callback that records and reports each loss, writes checkpoints between segments, and stops early."""

    def __init__(
        self,
        settings: LightGBMSettings,
        max_rounds: int,
        resumed_from: Checkpoint | None,
        checkpoints: Checkpoints | None,
        report: ReportProgress | None,
    ) -> None:
        self.settings = settings
        self.max_rounds = max_rounds
        self.checkpoints = checkpoints
        self.report = report
        self.first_round = self.round = resumed_from.step if resumed_from else 0
        # A round without a possible split adds no tree, so the numbers of rounds and trees can differ.
        self.trees: list[int] = list(resumed_from.state["trees"]) if resumed_from else []
        self.history: list[tuple[int, float]] = (
            [(at, loss) for at, loss in resumed_from.state["history"]] if resumed_from else []
        )
        self.notes = [f"Resumed from the checkpoint after round {self.round}."] if resumed_from else []

    @property
    def best_round(self) -> int:
        """The first round with the lowest validation loss, or without validation the last round."""
        return min(self.history, key=lambda each: (each[1], each[0]))[0] if self.history else self.round

    @property
    def best_trees(self) -> int:
        """Number of trees after the best round."""
        return self.trees[self.best_round - 1]

    def is_finished(self) -> bool:
        """Return whether fitting has reached its rounds or run out of patience."""
        return self.round >= self.max_rounds or (
            bool(self.history) and self.round - self.best_round >= self.settings.patience
        )

    def write_checkpoint(self, booster: "Booster") -> None:
        """Write a checkpoint if the fit has a checkpoint folder."""
        if self.checkpoints is not None:
            # Write all rounds, not only those up to the best: a later segment may have a better one.
            text = booster.model_to_string(num_iteration=-1)
            state = {"history": self.history, "trees": self.trees}
            self.checkpoints.write(self.round, state, lambda folder: write_text(folder / MODEL_FILE, text))

    def __call__(self, env: Any) -> None:
        from lightgbm.callback import EarlyStopException

        self.round = self.first_round + env.iteration - env.begin_iteration + 1
        self.trees.append(env.model.current_iteration())
        found = env.evaluation_result_list or []
        if found:
            loss = float(found[0][2])
            if not np.isfinite(loss):
                raise TrainingError(
                    f"LightGBM, round {self.round}",
                    expected="a validation loss that is a number",
                    found=str(loss),
                    fix="Lower the learning rate, or remove infinite labels.",
                )
            self.history.append((self.round, loss))
            if self.report is not None:
                self.report(self.round, loss)
        if self.round % self.settings.segment_rounds == 0 and self.round < self.max_rounds:
            self.write_checkpoint(env.model)
        if self.is_finished() and self.round < self.max_rounds:
            raise EarlyStopException(env.iteration, found)


def _dataset(rows: Matrix, parameters: dict[str, Any], reference: "Dataset | None" = None) -> "Dataset":
    import lightgbm as lgb

    return lgb.Dataset(
        rows.features,
        rows.label,
        feature_name=[_feature_name(name) for name in rows.names],
        categorical_feature=list(rows.categories),
        params=parameters,
        reference=reference,
    )


def _feature_name(name: str) -> str:
    # LightGBM rejects names with special characters of JSON.
    return "".join("_" if character in '[]{}":,' else character for character in name)
