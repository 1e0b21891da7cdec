"""A blend: several models that are fitted on the same split and whose predictions are averaged.

Members differ in trainer, settings or seed. The mean varies less between fits than one member does (Breiman 1996,
Bagging predictors; Lakshminarayanan, Pritzel and Blundell 2017, Simple and scalable predictive uncertainty estimation).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator, model_validator

from ml_platform.data.atomic import write_json
from ml_platform.data.averaging import mean_prediction
from ml_platform.data.settings import Settings
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.trainer import (
    FittedModel,
    Matrix,
    ReportProgress,
    Trainer,
    TrainerSettings,
    TrainingError,
    libraries_of,
    make_trainer,
    refit,
    require_task,
    scorer_of,
    trainer_class,
    uses_gpu,
)

BLEND_FILE = "blend.json"


class BlendMember(Settings):
    """One kind of member."""

    trainer: str = Field(default="lightgbm", description="lightgbm, torch, or package.module:Class; not blend.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the member's trainer.")
    seeds: int = Field(default=1, ge=1, le=100, description="Number of fits with different seeds.")

    @field_validator("trainer")
    @classmethod
    def _reject_a_blend(cls, given: str) -> str:
        if given == "blend":
            raise ValueError("a blend has no blends as members; list their members instead")
        return given

    @field_validator("settings")
    @classmethod
    def _valid_for_trainer(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        TrainerSettings.model_validate({"trainer": info.data.get("trainer", "lightgbm"), "settings": given})
        return given


class BlendSettings(Settings):
    """The members of a blend."""

    members: list[BlendMember] = Field(min_length=1, description="Models whose predictions are averaged.")

    @model_validator(mode="after")
    def _require_two_fits(self) -> "BlendSettings":
        if sum(member.seeds for member in self.members) < 2:
            raise ValueError("a blend averages at least two fits; add a member, or raise its 'seeds'")
        return self

    @property
    def trainers(self) -> list[str]:
        """Names of the trainers of the members."""
        return list(dict.fromkeys(member.trainer for member in self.members))

    @property
    def libraries(self) -> list[str]:
        """Packages that the members' trainers import besides those of the platform."""
        declared = [TrainerSettings(trainer=each.trainer, settings=each.settings) for each in self.members]
        return sorted({name for each in declared for name in libraries_of(each)})

    @property
    def device(self) -> str:
        """``auto`` when a member uses a GPU if there is one, else ``cpu``."""
        declared = [TrainerSettings(trainer=each.trainer, settings=each.settings) for each in self.members]
        return "auto" if any(uses_gpu(each) for each in declared) else "cpu"


class BlendModel:
    """Fitted members, whose mean is the prediction. ``trainers`` names the trainer of each one."""

    notes: list[str]

    def __init__(
        self,
        trainers: Sequence[str],
        members: Sequence[FittedModel],
        task: Task,
        history: list[tuple[int, float]],
    ) -> None:
        self.trainers, self.members, self.task, self.history = list(trainers), list(members), task, history
        self.rounds = sum(member.rounds for member in self.members)
        self.notes = [
            f"Member {at + 1} ({trainer}): {note}"
            for at, (trainer, member) in enumerate(zip(self.trainers, self.members, strict=True))
            for note in member.notes
        ]

    @property
    def libraries(self) -> list[str]:
        """Packages that the files of the members need besides those that their scorers import."""
        return sorted({name for member in self.members for name in getattr(member, "libraries", [])})

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the mean outputs of the members, shape (rows, outputs)."""
        return _mean([member.predict(features) for member in self.members], self.task)

    def save(self, directory: Path) -> None:
        """Write each member into a folder of its own, and then the list of members."""
        members = []
        for at, (trainer, member) in enumerate(zip(self.trainers, self.members, strict=True)):
            folder = f"member_{at}"
            (directory / folder).mkdir(parents=True, exist_ok=True)
            member.save(directory / folder)
            members.append({"trainer": trainer, "folder": folder, "scorer": scorer_of(trainer)})
        write_json(directory / BLEND_FILE, {"task": self.task.model_dump(), "members": members})

    def explain(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the mean contribution of each feature in log-odds or label units, shape (rows, features).

        It is exact for the mean of the members, because contributions and log-odds are averaged alike.
        """
        return np.asarray(np.mean([member.explain(features) for member in self.members], axis=0))

    def importance(self) -> dict[str, float]:
        """Return each feature's mean share of the importance, largest first."""
        shares: dict[str, float] = {}
        for member in self.members:
            for name, share in member.importance().items():
                shares[name] = shares.get(name, 0.0) + share / len(self.members)
        return dict(sorted(shares.items(), key=lambda each: -each[1]))


class BlendTrainer:
    """Fit all members on the same rows, each with its own seed and checkpoint."""

    Settings = BlendSettings
    # Each member of a refit decides by its own trainer: see `refit`.
    rounds_follow_rows = True

    def __init__(self, settings: BlendSettings, *, task: Task | str, seed: int) -> None:
        self.settings = settings
        self.task = as_task(task)
        self.seed = seed

    @classmethod
    def require_task(cls, settings: BlendSettings, task: Task) -> None:
        """Raise :class:`TrainingError` when a member cannot fit ``task``."""
        for each in settings.members:
            require_task(TrainerSettings(trainer=each.trainer, settings=each.settings), task)

    def fit(
        self,
        train: Matrix,
        validation: Matrix | None = None,
        *,
        rounds: int | None = None,
        checkpoint: Path | None = None,
        report: ReportProgress | None = None,
    ) -> BlendModel:
        """Return the blend; see :class:`ml_platform.training.trainer.Trainer`. Raises :class:`TrainingError`.

        ``history`` has the validation loss of the mean of the first members, for each number of members.
        """
        if validation is None:
            raise TrainingError(
                "Blend",
                expected="validation rows",
                found=f"{rounds} rounds for members whose numbers of rounds differ",
                fix="Fit with validation rows first, then call `refit`.",
            )
        names, members = [], []
        history: list[tuple[int, float]] = []
        predictions: list[npt.NDArray[np.float64]] = []
        for name, trainer, folder in self._members(checkpoint):
            fitted = trainer.fit(train, validation, checkpoint=folder)
            names.append(name)
            members.append(fitted)
            predictions.append(fitted.predict(validation.features))
            history.append((len(members), self._loss(validation, _mean(predictions, self.task))))
            if report is not None:
                report(*history[-1])
        return BlendModel(names, members, self.task, history)

    def _loss(self, validation: Matrix, outputs: npt.NDArray[np.float64]) -> float:
        return float(self.task.losses(validation.label, outputs, validation.context).mean())

    def refit(self, tuned: BlendModel, rows: Matrix, growth: float, *, checkpoint: Path | None = None) -> BlendModel:
        """Return a blend of the members fitted on ``rows``, each with its own number of rounds."""
        members = [
            refit(trainer, member, rows, growth, checkpoint=folder)
            for (_, trainer, folder), member in zip(self._members(checkpoint), tuned.members, strict=True)
        ]
        return BlendModel(tuned.trainers, members, self.task, [])

    @classmethod
    def load(cls, directory: Path) -> BlendModel:
        """Return the blend in ``directory``."""
        stored = json.loads((directory / BLEND_FILE).read_text())
        names = [str(member["trainer"]) for member in stored["members"]]
        folders = [directory / member["folder"] for member in stored["members"]]
        members = [trainer_class(name).load(folder) for name, folder in zip(names, folders, strict=True)]
        return BlendModel(names, members, as_task(stored["task"]), [])

    def _members(self, checkpoint: Path | None) -> "list[tuple[str, Trainer, Path | None]]":
        """Return name, trainer and checkpoint folder of each fit; fit number n has the seed of the blend plus n."""
        declared = [member for member in self.settings.members for _ in range(member.seeds)]
        return [
            (
                member.trainer,
                make_trainer(
                    TrainerSettings(trainer=member.trainer, settings=member.settings, seed=self.seed + at), self.task
                ),
                None if checkpoint is None else checkpoint / f"member_{at}",
            )
            for at, member in enumerate(declared)
        ]


def _mean(predictions: Sequence[npt.NDArray[np.float64]], task: Task) -> npt.NDArray[np.float64]:
    return mean_prediction(predictions, probabilities=task.has_probabilities)
