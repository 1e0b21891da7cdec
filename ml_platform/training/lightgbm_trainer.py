"""Gradient boosted trees by LightGBM, in segments that can be killed and gone on with.

A fit always runs in segments of `segment_rounds`, each with seeds of its own and starting from the text of the model so
far. So a fit that was killed between two segments and one that was not run through exactly the same steps.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.atomic import write_text
from ml_platform.data.canonical import value_digest
from ml_platform.data.settings import Settings
from ml_platform.training.trainer import Matrix, Report, Task, TrainingError

if TYPE_CHECKING:
    from lightgbm import Booster, Dataset

MODEL_FILE = "model.txt"
STATE_FILE = "lightgbm_state.json"


class LightGBMSettings(Settings):
    """Parameters of LightGBM that are worth declaring, by its own names."""

    learning_rate: float = Field(default=0.04, gt=0, le=1, description="Shrinkage of each tree.")
    num_leaves: int = Field(default=63, ge=2, description="Leaves of a tree.")
    min_data_in_leaf: int = Field(default=200, ge=1, description="Rows that a leaf must have.")
    feature_fraction: float = Field(default=0.35, gt=0, le=1, description="Share of features that a tree may use.")
    bagging_fraction: float = Field(default=0.8, gt=0, le=1, description="Share of rows that a tree sees.")
    bagging_freq: int = Field(default=1, ge=0, description="Trees after which rows are drawn anew; 0: never.")
    lambda_l2: float = Field(default=10.0, ge=0, description="L2 penalty of leaf values.")
    max_bin: int = Field(default=127, ge=2, description="Bins of a numerical feature.")
    cat_smooth: float = Field(default=30.0, ge=0, description="Smoothing of rare categories.")
    cat_l2: float = Field(default=20.0, ge=0, description="L2 penalty of splits by category.")
    min_data_per_group: int = Field(default=200, ge=1, description="Rows that a group of categories must have.")
    max_rounds: int = Field(default=1500, ge=1, description="Rounds after which fitting ends at the latest.")
    patience: int = Field(default=60, ge=1, description="Rounds without improvement after which fitting stops.")
    segment_rounds: int = Field(default=500, ge=1, description="Rounds between checkpoints.")
    num_threads: int = Field(default=0, ge=0, description="Threads; 0: one for each core.")

    def parameters(self, task: Task, seed: int) -> dict[str, Any]:
        """Return them as LightGBM takes them."""
        own = self.model_dump(exclude={"max_rounds", "patience", "segment_rounds"})
        objective = {"objective": "binary", "metric": "binary_logloss"}
        if task == "regression":
            objective = {"objective": "regression", "metric": "l2"}
        return {**own, **objective, "seed": seed, "deterministic": True, "force_col_wise": True, "verbose": -1}


class LightGBMModel:
    """A fitted booster."""

    def __init__(self, booster: "Booster", rounds: int, history: list[tuple[int, float]]) -> None:
        self.booster = booster
        self.rounds = rounds
        self.history = history
        self.notes: list[str] = []

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.asarray(self.booster.predict(features, num_iteration=self.rounds), dtype=np.float64)

    def save(self, directory: Path) -> None:
        write_text(directory / MODEL_FILE, self.booster.model_to_string(num_iteration=self.rounds))

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return TreeSHAP contributions in log-odds (Lundberg et al., 2018), the constant left out."""
        found = self.booster.predict(features, num_iteration=self.rounds, pred_contrib=True)
        return np.asarray(found, dtype=np.float64)[:, :-1]

    def importance(self) -> dict[str, float]:
        gain = self.booster.feature_importance("gain", iteration=self.rounds)
        shares = gain / max(float(gain.sum()), 1e-12)
        ordered = np.argsort(-shares, kind="stable")
        names = self.booster.feature_name()
        return {names[place]: float(shares[place]) for place in ordered}


class LightGBMTrainer:
    """Fits boosted trees with early stopping on log loss (classification) or squared error (regression)."""

    Settings = LightGBMSettings

    def __init__(self, settings: LightGBMSettings, *, task: Task, seed: int) -> None:
        self.settings = settings
        self.task = task
        self.seed = seed

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: Report | None = None,
    ) -> LightGBMModel:
        import lightgbm as lgb

        if validation is None and rounds is None:
            raise TrainingError(
                "LightGBM", expected="validation rows or a number of rounds", found="neither", mend="Pass one."
            )
        most = rounds or self.settings.max_rounds
        state = _State(checkpoint, self._fingerprint(train, validation, rounds))
        data = _dataset(train)
        valid = None if validation is None else _dataset(validation, data)
        booster = lgb.Booster(model_str=state.model) if state.model else None
        history = state.history
        while len(history) < most and not self._is_over(history, validation):
            segment = len(history) // self.settings.segment_rounds
            booster = lgb.train(
                # A segment's seed depends on its place alone: a resumed fit draws what an undisturbed one draws.
                self.settings.parameters(self.task, self.seed + 1000 * segment),
                data,
                num_boost_round=min(self.settings.segment_rounds, most - len(history)),
                init_model=booster,
                valid_sets=None if valid is None else [valid],
                callbacks=[self._watch(history, validation is not None, report)],
            )
            booster = lgb.Booster(model_str=booster.model_to_string(num_iteration=-1))
            state.keep(booster, history)
        assert booster is not None
        state.clear()
        best = most if validation is None else _best_round(history)
        return LightGBMModel(booster, best, [] if validation is None else history)

    @classmethod
    def load(cls, directory: Path) -> LightGBMModel:
        import lightgbm as lgb

        booster = lgb.Booster(model_file=str(directory / MODEL_FILE))
        return LightGBMModel(booster, booster.current_iteration(), [])

    def _watch(self, history: list[tuple[int, float]], tuned: bool, report: Report | None) -> Any:
        from lightgbm.callback import EarlyStopException

        def watch(env: Any) -> None:
            loss = float(env.evaluation_result_list[0][2]) if tuned else float("nan")
            history.append((len(history) + 1, loss))
            if tuned and report is not None:
                report(*history[-1])
            if tuned and len(history) - _best_round(history) >= self.settings.patience:
                raise EarlyStopException(env.iteration, env.evaluation_result_list)

        return watch

    def _is_over(self, history: list[tuple[int, float]], validation: Matrix | None) -> bool:
        return (
            validation is not None and bool(history) and (len(history) - _best_round(history) >= self.settings.patience)
        )

    def _fingerprint(self, train: Matrix, validation: Matrix | None, rounds: int | None) -> str:
        parts = [train, *([validation] if validation else [])]
        sums = [
            [part.rows, float(np.nansum(part.features, dtype=np.float64)), float(part.label.sum())] for part in parts
        ]
        return value_digest(
            {
                "settings": self.settings.model_dump(),
                "seed": self.seed,
                "rounds": rounds,
                "names": list(train.names),
                "data": sums,
            }
        )


class _State:
    """What a killed fit left behind, used only by a fit of the same data and settings."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.model: str | None = None
        self.history: list[tuple[int, float]] = []
        if folder is not None and (folder / STATE_FILE).exists():
            held = json.loads((folder / STATE_FILE).read_text())
            if held["fingerprint"] == fingerprint:
                self.model = held["model"]
                self.history = [(int(round_), float(loss)) for round_, loss in held["history"]]

    def keep(self, booster: "Booster", history: list[tuple[int, float]]) -> None:
        if self.folder is not None:
            held = {"fingerprint": self.fingerprint, "model": booster.model_to_string(), "history": history}
            write_text(self.folder / STATE_FILE, json.dumps(held))

    def clear(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _dataset(rows: Matrix, reference: "Dataset | None" = None) -> "Dataset":
    import lightgbm as lgb

    return lgb.Dataset(
        rows.features,
        rows.label,
        feature_name=list(rows.names),
        categorical_feature=list(rows.categories),
        reference=reference,
        # The next segment scores these rows with the model so far.
        free_raw_data=False,
    )


def _best_round(history: list[tuple[int, float]]) -> int:
    """Return the first round with the lowest validation loss."""
    return min(history, key=lambda each: (each[1], each[0]))[0]
