"""What a trainer is: something that fits a matrix and gives back a model that can be saved, read and explained.

Trainers are plain Python on arrays, so that they run in a test, in a worker or on a bare GPU machine. One of a team's
own is named by `package.module:Class` and needs no change of the engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationInfo, field_validator

from ml_platform.data.references import load_function
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.training.compute import Compute
from ml_platform.training.resource_usage import gpu_count
from ml_platform.training.search_space import TuningSettings

Array = npt.NDArray[np.floating[Any]]
Task = Literal["classification", "regression"]
ReportProgress = Callable[[int, float], None]
"""``report(round, validation_loss)`` is called as fitting goes on; it may raise to stop it (pruning)."""

BUILT_IN = {
    "lightgbm": "ml_platform.training.lightgbm_trainer:LightGBMTrainer",
    "torch": "ml_platform.training.torch_trainer:TorchTrainer",
}


class TrainingError(PlatformError):
    """Raised when data or settings make a fit impossible."""


@dataclass(frozen=True)
class Matrix:
    """Rows to learn from: ``features`` of shape (rows, features) float32 with NaN for missing, ``label`` of (rows,).

    ``names`` are the features' names; ``categories`` says at which places there are category codes, and of how many
    categories each.
    """

    features: npt.NDArray[np.float32]
    label: npt.NDArray[np.float64]
    names: Sequence[str]
    categories: Mapping[int, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.label)

    def part(self, start: int, end: int) -> "Matrix":
        """Return rows ``start`` to ``end`` (not included) as a view."""
        return replace(self, features=self.features[start:end], label=self.label[start:end])


class FittedModel(Protocol):
    """A fitted model."""

    rounds: int
    """Boosting rounds or epochs that it was found best to run."""

    history: list[tuple[int, float]]
    """(round, validation loss) as fitting went on; empty without validation rows."""

    notes: list[str]
    """What happened on the way that its owner should know, for example a batch that was halved."""

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return probabilities (classification) or values (regression), shape (rows,)."""
        ...

    def save(self, directory: Path) -> None:
        """Write native files, no pickles, into ``directory``."""
        ...

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return what each feature adds to each row's prediction, shape (rows, features)."""
        ...

    def importance(self) -> dict[str, float]:
        """Return each feature's share of what was learned, most first, summing to 1."""
        ...


class Trainer(Protocol):
    """Fits models of one kind."""

    Settings: type[BaseModel]
    """The pydantic model of its parameters. One called ``device`` says by any value but ``cpu`` that a fit uses a GPU
    where the machine has one.
    """

    scorer: str
    """``package.module:load`` of what scores in serving (:class:`bento.scorer.Scorer`): a bento carries that module and
    what it imports, none of which may import training code. Those of the house stand in :data:`bento.scorer.SCORERS`.
    """

    rounds_follow_rows: bool
    """Whether a refit on more rows takes more rounds by their share: boosting does, epochs already grow with rows."""

    def __init__(self, settings: Any, *, task: Task, seed: int) -> None: ...

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: ReportProgress | None = None,
    ) -> FittedModel:
        """Return the model fitted to ``train``.

        With ``validation`` the number of rounds is found by early stopping on it; without, exactly ``rounds`` are run.
        A ``checkpoint`` folder is where a killed fit left its state: the same call again goes on from there and ends
        with a model that predicts as if it had never been killed. The state of other rows or settings is not used.
        """
        ...

    @classmethod
    def load(cls, directory: Path) -> FittedModel:
        """Return the model that ``save`` wrote."""
        ...


class TrainerSettings(Settings):
    """One candidate: which trainer, with which settings, and what is done around it."""

    trainer: str = Field(default="lightgbm", description="lightgbm, torch, or package.module:Class of your own.")
    requires: Literal["any", "gpu"] = Field(
        default="any", description="gpu: skipped, with the reason shown, on a machine without one."
    )
    compute: Compute | None = Field(
        default=None, description="What a cluster sets aside for the step; it changes no model. None: its default."
    )
    seed: int = Field(default=7, description="Seed of everything random in it.")
    refit: bool = Field(
        default=True, description="Fit again on train and validation together, with the rounds found best."
    )
    calibration: Literal["none", "isotonic", "platt"] = Field(
        default="none", description="How scores become probabilities, fitted on the validation month."
    )
    interval: float = Field(
        default=0.9, gt=0, lt=1, description="Regression: share of outcomes that a predicted interval is to hold."
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the trainer itself.")
    tuning: TuningSettings | None = Field(default=None, description="Search of settings on validation; none: as given.")

    @field_validator("settings")
    @classmethod
    def _valid_for_trainer(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        # Checked when declared, not hours later when the step runs.
        if info.data.get("trainer") in BUILT_IN:
            trainer_class(info.data["trainer"]).Settings.model_validate(given)
        return given


@dataclass(frozen=True)
class Availability:
    """Whether a trainer can run on this machine, and if not, why."""

    available: bool
    reason: str = ""


def trainer_class(name: str) -> type[Trainer]:
    """Return the trainer called ``name``, or named by dotted path. Raises :class:`TrainingError` for neither."""
    if ":" not in name and name not in BUILT_IN:
        raise TrainingError(
            f"Trainer '{name}'",
            expected=f"one of {listed(BUILT_IN)}, or package.module:Class",
            found=f"'{name}'",
            fix=f"Mend the name in the model's defs.yaml.{did_you_mean(name, BUILT_IN)}",
        )
    found: Any = load_function(BUILT_IN.get(name, name))
    required = ["Settings", "rounds_follow_rows", "fit", "load", *([] if name in BUILT_IN else ["scorer"])]
    missing = [member for member in required if not hasattr(found, member)]
    if missing:
        raise TrainingError(
            f"Trainer '{name}'",
            expected=listed(required),
            found=f"no {listed(missing)}",
            fix="Add them; ml_platform.training.trainer.Trainer says what each one does.",
        )
    return found


def scorer_of(name: str) -> str | None:
    """Return the ``package.module:load`` that a trainer of a team's own names for serving; None for one of the house.

    Raises :class:`TrainingError` as :func:`trainer_class` does.
    """
    return None if name in BUILT_IN else str(trainer_class(name).scorer)


def uses_gpu(declared: TrainerSettings) -> bool:
    """Return whether a fit of ``declared`` uses an accelerator on a machine that has one (:attr:`Trainer.Settings`)."""
    settings = trainer_class(declared.trainer).Settings.model_validate(declared.settings)
    return getattr(settings, "device", "cpu") != "cpu"


def make_trainer(declared: TrainerSettings, task: Task) -> Trainer:
    """Return the declared trainer with its validated settings."""
    trainer = trainer_class(declared.trainer)
    return trainer(trainer.Settings.model_validate(declared.settings), task=task, seed=declared.seed)


def availability(declared: TrainerSettings, gpus: int | None = None) -> Availability:
    """Return whether a machine with ``gpus`` accelerators (None: this machine) can run ``declared``.

    Only a trainer that requires a GPU can be unavailable.
    """
    if declared.requires == "any" or (gpu_count() if gpus is None else gpus):
        return Availability(True)
    return Availability(False, "It requires a GPU (requires: gpu in defs.yaml), and this machine has none.")


def require_labels(rows: Matrix, task: Task) -> None:
    """Raise :class:`TrainingError` when there is nothing to learn: no rows, or a label constant or not a number."""
    invalid = int((~np.isfinite(rows.label)).sum())
    if rows.rows == 0 or invalid:
        raise TrainingError(
            "Training rows",
            expected="rows whose labels are numbers",
            found=f"{invalid} of {rows.rows} labels that are none" if invalid else "no rows",
            fix="Leave rows without a label out before fitting.",
        )
    if rows.label.min() == rows.label.max():
        raise TrainingError(
            "Training rows",
            expected=f"labels of more than one kind ({task})",
            found=f"{rows.rows} times {rows.label[0]:g}",
            fix="Mend the label rule: nothing can be learned from a constant.",
        )
