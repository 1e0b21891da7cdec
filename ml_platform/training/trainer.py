"""Interface of trainers and fitted models, and the declaration of a trainer.

A trainer fits a matrix and returns a model that can be saved, loaded and explained. Trainers are plain Python on
arrays, so they run in tests, in workers and on GPU machines without Dagster. A custom trainer is named by
`package.module:Class`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Discriminator, Field, SerializeAsAny, Tag, ValidationInfo, field_validator

from ml_platform.data.extensions import Extension, is_reference
from ml_platform.data.references import load_function
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Context, Task, rows_of
from ml_platform.training.compute import Compute
from ml_platform.training.own_calibrator import Calibrator
from ml_platform.training.own_sampler import Sampler, sampled_rows
from ml_platform.training.resource_usage import gpu_count
from ml_platform.training.search_space import TuningSettings

Array = npt.NDArray[np.floating[Any]]
ReportProgress = Callable[[int, float], None]
"""``report(round, validation_loss)`` is called during the fit; it may raise to stop the fit (pruning)."""

BUILT_IN = {
    "lightgbm": "ml_platform.training.lightgbm_trainer:LightGBMTrainer",
    "torch": "ml_platform.training.torch_trainer:TorchTrainer",
    "blend": "ml_platform.training.blend_trainer:BlendTrainer",
    "sklearn": "ml_platform.training.sklearn_trainer:SklearnTrainer",
    "xgboost": "ml_platform.training.xgboost_trainer:XgboostTrainer",
    "catboost": "ml_platform.training.catboost_trainer:CatboostTrainer",
}


class TrainingError(PlatformError):
    """Raised when data or settings make a fit impossible."""


@dataclass(frozen=True)
class Matrix:
    """Rows of a fit: ``features`` of shape (rows, features), float32 with NaN for missing, and ``label`` of (rows,).

    ``names`` are the names of the features. ``categories`` maps the columns with category codes to their numbers of
    categories. ``context`` has the numbers of each row that the task needs besides, such as its group.
    """

    features: npt.NDArray[np.float32]
    label: npt.NDArray[np.float64]
    names: Sequence[str]
    categories: Mapping[int, int] = field(default_factory=dict)
    context: Context = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.label)

    def part(self, start: int, end: int) -> "Matrix":
        """Return rows ``start`` to ``end`` (not included) as a view."""
        rows = slice(start, end)
        context = rows_of(self.context, rows)
        return replace(self, features=self.features[rows], label=self.label[rows], context=context)

    def sampled(self, sampler: Sampler | None, seed: int) -> "Matrix":
        """Return the rows that ``sampler`` chooses; all of them without a sampler."""
        if sampler is None:
            return self
        chosen = sampled_rows(sampler, self.features, self.label, self.names, seed)
        context = rows_of(self.context, chosen)
        return replace(self, features=self.features[chosen], label=self.label[chosen], context=context)


class FittedModel(Protocol):
    """A fitted model."""

    rounds: int
    """Best number of boosting rounds or epochs."""

    history: list[tuple[int, float]]
    """(round, validation loss) during the fit; empty without validation rows."""

    notes: list[str]
    """Events of the fit that the owner should know, for example that batches were halved."""

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the outputs of the task, for example probabilities by class, shape (rows, outputs)."""
        ...

    def save(self, directory: Path) -> None:
        """Write the model into ``directory`` in native formats, without pickles."""
        ...

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the contribution of each feature to each row's prediction, shape (rows, features)."""
        ...

    def importance(self) -> dict[str, float]:
        """Return each feature's share of the importance, largest first, with sum 1."""
        ...


class Trainer(Protocol):
    """Fit models of one kind.

    A trainer may list the losses of tasks that it minimises as ``losses``. A declaration with another task is then
    refused when it is loaded.
    """

    Settings: type[BaseModel]
    """Pydantic model of the parameters. A ``device`` other than ``cpu`` means that a fit uses a GPU if there is one."""

    scorer: str
    """``package.module:load`` of the scorer for serving (:class:`bento.scorer.Scorer`).

    A bento carries that module and its imports, which must not import training code. :data:`bento.scorer.SCORERS` has
    the scorers of the built-in trainers.
    """

    rounds_follow_rows: bool
    """Whether a refit takes more rounds by its share of rows, as in boosting; epochs grow with the rows anyway."""

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

        With ``validation``, early stopping determines the number of rounds. Without it, the fit runs exactly
        ``rounds``. A ``checkpoint`` folder keeps the state of a killed fit. The same call resumes from there, and its
        model predicts the same as after an uninterrupted fit. A checkpoint of other rows or settings is not used.
        """
        ...

    @classmethod
    def load(cls, directory: Path) -> FittedModel:
        """Return the model that ``save`` wrote."""
        ...


DeclaredCalibration = Annotated[
    Annotated[Literal["none", "isotonic", "platt"], Tag("built_in")]
    | Annotated[SerializeAsAny[Calibrator], Tag("own")],
    Discriminator(lambda given: "own" if is_reference(given) else "built_in"),
]
"""A calibration in a declaration: a built-in one by its name, or a class of a team's own."""


class TrainerSettings(Settings):
    """Declaration of one candidate: its trainer, settings, calibration, tuning and resources."""

    trainer: str = Field(
        default="lightgbm",
        description="lightgbm, torch, blend, sklearn, xgboost, catboost, or package.module:Class of a custom trainer.",
    )
    requires: Literal["any", "gpu"] = Field(
        default="any", description="gpu: a machine without one skips the trainer and shows the reason."
    )
    compute: Compute | None = Field(
        default=None, description="Resources that a cluster reserves for the step, without effect on the model."
    )
    seed: int = Field(default=7, description="Seed of all random numbers of the fit.")
    refit: bool = Field(
        default=True, description="Fit again on train and validation together, with the best number of rounds."
    )
    calibration: DeclaredCalibration = Field(
        default="none",
        description="Map from scores to probabilities, fitted on the validation rows: none, isotonic, platt, or "
        "package.module:Class of a calibrator of your own.",
    )
    sampler: SerializeAsAny[Sampler] | None = Field(
        default=None,
        description="Choice of the rows to fit on: package.module:Class of a sampler of your own; none: all rows.",
    )
    interval: float = Field(
        default=0.9, gt=0, lt=1, description="Regression: share of outcomes that a predicted interval should cover."
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the trainer itself.")
    tuning: TuningSettings | None = Field(
        default=None, description="Search for settings on validation; none: no search."
    )

    def declared_inputs(self) -> dict[str, Any]:
        """Return the settings that determine the model, without the machine of the fit and without an absent sampler.

        So a version that was registered before samplers existed keeps its digest.
        """
        absent = set() if self.sampler else {"sampler"}
        return self.model_dump(mode="json", exclude={"compute", "requires", *absent})

    @property
    def calibration_name(self) -> str:
        """The name of a built-in calibration, or the class of a calibrator of a team's own."""
        return self.calibration if isinstance(self.calibration, str) else self.calibration.reference

    @property
    def own_classes(self) -> list[Extension]:
        """The classes of a team's own that the fit uses, besides the trainer."""
        return [each for each in (self.calibration, self.sampler) if isinstance(each, Extension)]

    @field_validator("settings")
    @classmethod
    def _valid_for_trainer(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        # Check the settings when they are declared, not hours later in the step.
        if info.data.get("trainer") in BUILT_IN:
            trainer_class(info.data["trainer"]).Settings.model_validate(given)
        return given


@dataclass(frozen=True)
class Availability:
    """Whether a trainer can run on a machine, and the reason if it cannot."""

    available: bool
    reason: str = ""


def trainer_class(name: str) -> type[Trainer]:
    """Return the trainer class of ``name``, a built-in name or a dotted path.

    Raises :class:`TrainingError` for an unknown name and for a class without the members of :class:`Trainer`.
    """
    if ":" not in name and name not in BUILT_IN:
        raise TrainingError(
            f"Trainer '{name}'",
            expected=f"one of {listed(BUILT_IN)}, or package.module:Class",
            found=f"'{name}'",
            fix=f"Correct the name in the model's defs.yaml.{did_you_mean(name, BUILT_IN)}",
        )
    found: Any = load_function(BUILT_IN.get(name, name))
    required = ["Settings", "rounds_follow_rows", "fit", "load", *([] if name in BUILT_IN else ["scorer"])]
    missing = [member for member in required if not hasattr(found, member)]
    if missing:
        raise TrainingError(
            f"Trainer '{name}'",
            expected=listed(required),
            found=f"no {listed(missing)}",
            fix="Add these members; ml_platform.training.trainer.Trainer describes them.",
        )
    trainer: type[Trainer] = found
    return trainer


def scorer_of(name: str) -> str | None:
    """Return the ``package.module:load`` of a custom trainer's scorer, or None for a built-in trainer.

    Raises :class:`TrainingError` as :func:`trainer_class` does.
    """
    return None if name in BUILT_IN else str(trainer_class(name).scorer)


def uses_gpu(declared: TrainerSettings) -> bool:
    """Return whether a fit of ``declared`` uses an accelerator if there is one (see :attr:`Trainer.Settings`)."""
    settings = trainer_class(declared.trainer).Settings.model_validate(declared.settings)
    return getattr(settings, "device", "cpu") != "cpu"


def make_trainer(declared: TrainerSettings, task: Task | str) -> Trainer:
    """Return the declared trainer with its validated settings."""
    trainer = trainer_class(declared.trainer)
    return trainer(trainer.Settings.model_validate(declared.settings), task=as_task(task), seed=declared.seed)


def trainers_of(declared: TrainerSettings) -> list[str]:
    """Return the names of the trainers that a fit of ``declared`` uses: its own, and those of a blend's members."""
    kind = trainer_class(declared.trainer).Settings
    members = kind.model_validate(declared.settings).trainers if hasattr(kind, "trainers") else []
    return [declared.trainer, *members]


def libraries_of(declared: TrainerSettings) -> list[str]:
    """Return the packages that a fit of ``declared`` imports besides those of the platform, by their module names."""
    settings = trainer_class(declared.trainer).Settings.model_validate(declared.settings)
    kinds = [trainer_class(name) for name in trainers_of(declared)]
    own = [*getattr(settings, "libraries", ()), *(name for kind in kinds for name in getattr(kind, "libraries", ()))]
    return sorted(dict.fromkeys(own))


def require_task(declared: TrainerSettings, task: Task) -> None:
    """Raise :class:`TrainingError` when ``declared``, or a member of a blend, cannot fit ``task``.

    A trainer names the ``losses`` that it can minimise. One that can tell more has a class method
    ``require_task(settings, task)``.
    """
    for name in trainers_of(declared):
        losses = getattr(trainer_class(name), "losses", None)
        if losses is not None and task.loss not in losses:
            raise TrainingError(
                f"Trainer '{name}'",
                expected=f"a task with the loss {listed(sorted(losses))}",
                found=f"task '{task.name}' with {task.loss}",
                fix="Choose another trainer.",
            )
    kind = trainer_class(declared.trainer)
    check = getattr(kind, "require_task", None)
    if check is not None:
        check(kind.Settings.model_validate(declared.settings), task)


def unlocked_packages(declared: TrainerSettings) -> list[str]:
    """Return the libraries of a fit of ``declared`` whose build depends on the machine, so that no lock pins them."""
    kinds = [trainer_class(name) for name in trainers_of(declared)]
    return sorted({package for kind in kinds for package in getattr(kind, "unlocked_packages", ())})


def refit(
    trainer: Trainer, tuned: FittedModel, rows: Matrix, growth: float, *, checkpoint: Path | None = None
) -> FittedModel:
    """Return the model fitted on ``rows`` with the rounds of ``tuned``, which early stopping has chosen.

    ``growth`` is the number of ``rows`` by the number of rows that ``tuned`` was fitted on. The rounds grow with it if
    the trainer declares that. A trainer of several models has its own method ``refit``.
    """
    own = getattr(trainer, "refit", None)
    if own is not None:
        model: FittedModel = own(tuned, rows, growth, checkpoint=checkpoint)
        return model
    rounds = max(1, round(tuned.rounds * (growth if trainer.rounds_follow_rows else 1.0)))
    return trainer.fit(rows, rounds=rounds, checkpoint=checkpoint)


def availability(declared: TrainerSettings, gpus: int | None = None) -> Availability:
    """Return whether a machine with ``gpus`` accelerators (None: this machine) can run ``declared``.

    Only a trainer that requires a GPU can be unavailable.
    """
    if declared.requires == "any" or (gpu_count() if gpus is None else gpus):
        return Availability(True)
    return Availability(False, "It requires a GPU (requires: gpu in defs.yaml), and this machine has none.")


def require_labels(rows: Matrix, task: Task) -> None:
    """Raise :class:`TrainingError` for no rows, a constant label, or labels that are not finite."""
    invalid = int((~np.isfinite(rows.label)).sum())
    if rows.rows == 0 or invalid:
        raise TrainingError(
            "Training rows",
            expected="rows whose labels are numbers",
            found=f"{invalid} of {rows.rows} labels that are not" if invalid else "no rows",
            fix="Remove rows without a label before the fit.",
        )
    if rows.label.min() == rows.label.max():
        raise TrainingError(
            "Training rows",
            expected=f"labels of more than one value ({task.name})",
            found=f"{rows.rows} times {rows.label[0]:g}",
            fix="Correct the label rule: no model can learn from a constant.",
        )
