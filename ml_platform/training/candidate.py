"""Build a candidate from a split: encode, tune, fit, calibrate, refit, and measure the resource usage.

These steps are the same for all trainers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.errors import listed
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import fit_transformers
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task
from ml_platform.training.calibration import Calibration, fit_task_calibration
from ml_platform.training.explain import Reason, reasons
from ml_platform.training.fit_progress import Tell
from ml_platform.training.resource_usage import PriceList, ResourceUsage, measure_resources
from ml_platform.training.splits import LABEL, Split
from ml_platform.training.trainer import (
    FittedModel,
    Matrix,
    ReportProgress,
    TrainerSettings,
    TrainingError,
    make_trainer,
    refit,
)
from ml_platform.training.tuning import OnTrial, TuningResult, tune, with_settings


@dataclass(frozen=True)
class Candidate:
    """A fitted model with all parts that serving needs.

    ``declared`` has the settings of the fit, including those from tuning. ``history`` is (round, validation loss).
    ``task`` has what the training rows determine.
    ``features`` has the fitted transformers of fitted views, and None stands for a model without any.
    ``validation_predictions`` are uncalibrated predictions of the validation rows by the fit that had not seen them.
    """

    trainer: str
    task: Task
    fitted: FittedModel
    encoder: Encoder
    calibration: Calibration
    resource_usage: ResourceUsage
    history: list[tuple[int, float]]
    validation_predictions: npt.NDArray[np.float64]
    notes: list[str]
    declared: TrainerSettings
    tuning: TuningResult | None = None
    features: FeatureSet | None = None

    def explain(self, frame: pl.DataFrame, most: int = 3) -> list[list[Reason]]:
        """Return for each row of ``frame`` the ``most`` features with the largest effect on its score."""
        return reasons(self.encoder.feature_names, self.fitted.explain(self.matrix(frame)), most)

    def predict(self, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
        """Return the prediction of the rows of ``frame``, which has the features as columns; see :class:`Task`."""
        return self.calibration.apply(self.task.prediction(self.fitted.predict(self.matrix(frame))))

    def matrix(self, frame: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Return the matrix of the model for the rows of ``frame``, which has the columns of a training set."""
        return self.encoder.transform(frame if self.features is None else self.features.transformed(frame))


def fit_candidate(
    split: Split,
    features: list[str],
    declared: TrainerSettings,
    *,
    task: Task | str,
    prices: PriceList | None = None,
    checkpoint: Path | None = None,
    report: ReportProgress | None = None,
    on_phase: Tell | None = None,
    study_storage: str | None = None,
    on_trial: OnTrial | None = None,
    feature_set: FeatureSet | None = None,
) -> Candidate:
    """Return the candidate that ``declared`` fits on ``split``.

    ``features`` names columns of the split. The model also gets the fitted views of ``feature_set``: their transformers
    are fitted on the train part, and for a refit again on train and validation.

    The validation part determines rounds and calibration. With ``refit``, the final model is fitted on train and
    validation; its rounds grow by the share of added rows if the trainer declares it. From the test part, only the
    labels are read, to check that an evaluation is possible. Categories that the fitted rows do not have count as
    missing, and so do infinite values. ``notes`` lists features with infinite values and features without any value.
    A sampler of ``declared`` chooses among the rows of each fit, and never among validation rows.
    ``report`` gets the losses of the rounds, and ``on_phase`` a line when a part of the fit begins.
    With ``declared.tuning``, settings are first searched on the validation part, in a study in ``study_storage``.

    With a ``checkpoint`` folder, a killed call resumes. The caller removes the folder after storing the candidate.
    Until then, the same call returns the same candidate without fitting again. Raises :class:`TrainingError` before the
    fit when no feature has a value, and :class:`~ml_platform.tasks.task.LabelError` when a part has labels that do not
    suit ``task``.
    """
    task = _fitted_task(split, as_task(task))
    fitted_set = None if feature_set is None or not feature_set.fitted else feature_set
    with measure_resources(prices) as resource_usage:
        if fitted_set is not None:
            fitted_set = fit_transformers(fitted_set, split.train, declared.seed)
            features = fitted_set.feature_names
        rows = split.known if fitted_set is None else fitted_set.transformed(split.known)
        notes = _feature_notes(rows, features)
        encoder = Encoder.fit(rows if declared.refit else rows.head(split.train.height), features)
        known = _matrix(rows, encoder, task)
        train = known.part(0, split.train.height).sampled(declared.sampler, declared.seed)
        validation = known.part(known.rows - split.validation.height, known.rows)
        tuning = None
        if declared.tuning is not None:
            tuning = tune(train, validation, declared, task, storage=study_storage, on_trial=on_trial)
            declared = with_settings(declared, tuning.best)
        trainer = make_trainer(declared, task)
        if on_phase is not None:
            on_phase(f"Fits {declared.trainer} on {train.rows:,} rows, and validates it on {validation.rows:,}.")
        tuned = trainer.fit(train, validation, checkpoint=_subfolder(checkpoint, "tuned"), report=report)
        validation_predictions = task.prediction(tuned.predict(validation.features))
        calibration = fit_task_calibration(
            task, declared.calibration, declared.interval, validation_predictions, validation.label
        )
        fitted: FittedModel = tuned
        if declared.refit:
            if fitted_set is not None:
                fitted_set = fit_transformers(fitted_set, split.known, declared.seed)
                rows = fitted_set.transformed(split.known)
                encoder = Encoder.fit(rows, features)
                known = _matrix(rows, encoder, task)
            refitted = known.sampled(declared.sampler, declared.seed)
            growth = refitted.rows / train.rows
            if on_phase is not None:
                on_phase(f"The best round is {tuned.rounds}. Fits again on {refitted.rows:,} rows, with validation.")
            fitted = refit(trainer, tuned, refitted, growth, checkpoint=_subfolder(checkpoint, "refit"))
    return Candidate(
        trainer=declared.trainer,
        task=task,
        fitted=fitted,
        encoder=encoder,
        calibration=calibration,
        resource_usage=resource_usage.total(),
        history=tuned.history,
        validation_predictions=validation_predictions,
        declared=declared,
        tuning=tuning,
        features=fitted_set,
        notes=[*notes, *tuned.notes, *(fitted.notes if fitted is not tuned else [])],
    )


def _matrix(rows: pl.DataFrame, encoder: Encoder, task: Task) -> Matrix:
    return Matrix(
        features=encoder.transform(rows),
        label=task.encode(rows[LABEL], "Training set"),
        names=encoder.feature_names,
        context=task.context(rows),
        categories={place: len(encoder.categories[encoder.feature_names[place]]) for place in encoder.category_indices},
    )


def _fitted_task(split: Split, task: Task) -> Task:
    """Return ``task`` with what the training rows determine. Raises :class:`LabelError` for labels that do not suit."""
    task = task.fitted_to(split.train[LABEL], "Training set, train part")
    for part, rows in (("train", split.train), ("late", split.late), ("validation", split.validation)):
        task.encode(rows[LABEL], f"Training set, {part} part")
    task.require_evaluable(task.encode(split.test[LABEL], "Training set, test part"), "Training set, test part")
    return task


def _feature_notes(known: pl.DataFrame, features: list[str]) -> list[str]:
    empty = [name for name in features if not _has_value(known[name])]
    if len(empty) == len(features):
        raise TrainingError(
            "Training set",
            expected="a feature with values",
            found=f"only nulls, NaN or infinite values in all {len(features)}",
            fix="Materialize the feature views for these partitions.",
        )
    infinite = [
        name
        for name in features
        if name not in empty and known.schema[name].is_float() and known[name].is_infinite().any()
    ]
    notes = [f"{len(empty)} features without any value: {listed(empty)}."] if empty else []
    return notes + ([f"Infinite values counted as missing in {listed(infinite)}."] if infinite else [])


def _has_value(column: pl.Series) -> bool:
    if column.dtype.is_float():
        return bool(column.is_finite().any())
    return column.null_count() < column.len()


def _subfolder(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def fitted_settings(declared: TrainerSettings, fitted: Any) -> dict[str, Any]:
    """Return all parameters of the fit, including defaults, for the manifest."""
    trainer = make_trainer(declared, "binary")
    return {
        "trainer": declared.trainer,
        "refit": declared.refit,
        "calibration": declared.calibration_name,
        "rounds": fitted.rounds,
        **getattr(trainer, "settings", declared).model_dump(),
    }


def declared_settings(declared: TrainerSettings) -> dict[str, Any]:
    """Return the parameters of the fit that are known before it: without rounds, and without those of a search."""
    searched = set() if declared.tuning is None else set(declared.tuning.space)
    settings = getattr(make_trainer(declared, "binary"), "settings", declared).model_dump()
    known = {"trainer": declared.trainer, "refit": declared.refit, "calibration": declared.calibration_name, **settings}
    return {name: value for name, value in known.items() if name not in searched}


def most_rounds(declared: TrainerSettings) -> int | None:
    """Return the highest number of rounds or epochs of a fit; None for a trainer that declares none."""
    settings = getattr(make_trainer(declared, "binary"), "settings", None)
    found = (getattr(settings, name, None) for name in ("max_rounds", "max_epochs"))
    return next((each for each in found if isinstance(each, int)), None)
