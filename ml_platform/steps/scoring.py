"""Scores candidate, champion and baselines on the same test rows.

It is separate from the evaluation, because a candidate that waits is scored on the rows of later windows too.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.evaluation.evidence import BASE_RATE, CANDIDATE, CHAMPION, UnscoredChampion
from ml_platform.registry.manifest import MANIFEST_FILE, Manifest
from ml_platform.registry.models import ModelVersion
from ml_platform.steps.candidates import fitted_examples
from ml_platform.steps.model import REQUEST_ONLY, BoundModel
from ml_platform.steps.own_features import GivenRows, OwnFeaturesError, VersionFiles, bento_finder, own_rows
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.prices import read_prices
from ml_platform.tasks.task import Context, Task
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.model_directory import StoredModel, read_model
from ml_platform.training.own_baseline import baseline_prediction
from ml_platform.training.splits import LABEL, Split
from ml_platform.training.trainer import TrainerSettings
from ml_platform.training.training_set import EXAMPLE_ID


@dataclass(frozen=True)
class ComparedVersions:
    """The candidate to evaluate, and the champion to compare it with; None where the model has no champion yet."""

    candidate: ModelVersion
    champion: ModelVersion | None


@dataclass(frozen=True)
class ModelScores:
    """Predictions for the test rows by name, in the outputs of ``task``, and the bounds of their intervals.

    ``task`` is that of the candidate. The names are candidate, champion, and the baselines; ``bounds`` contains only
    the models that give intervals. ``context`` has the numbers of each row that the metrics of the task need. For
    ``unscored_champion`` and ``feature_notes`` see :class:`~ml_platform.evaluation.evidence.Evidence`.
    ``candidate_reads_other_code`` is true for a candidate of other views than today's.
    """

    task: Task
    predictions: dict[str, npt.NDArray[np.float64]]
    bounds: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
    context: Context
    champion_fitted_on_rows: bool = False
    unscored_champion: UnscoredChampion | None = None
    feature_notes: tuple[str, ...] = ()
    candidate_reads_other_code: bool = False


def score_models(model: BoundModel, split: Split, compared: ComparedVersions, stores: PlatformStores) -> ModelScores:
    """Return the predictions of candidate, champion and baselines for the test rows of ``split``."""
    scores = score_versions(model, split.test, compared, stores)
    task, predictions = scores.task, dict(scores.predictions)
    known = task.encode(split.known[LABEL], "Training set")
    predictions[BASE_RATE] = task.baseline(known, split.test.height)
    predictions |= task.baselines(known, task.context(split.known), scores.context)
    if model.request_only:
        predictions[REQUEST_ONLY] = request_only(model, split, stores.repository)
    for name, baseline in model.declared.evaluation.baselines.items():
        predictions[name] = baseline_prediction(baseline, split, task)
    fitted_on = fitted_on_rows(model, split, compared, stores)
    return replace(scores, predictions=predictions, champion_fitted_on_rows=fitted_on)


def score_versions(
    model: BoundModel, test: pl.DataFrame, compared: ComparedVersions, stores: PlatformStores
) -> ModelScores:
    """Return the predictions of candidate and champion for the rows ``test``, without baselines.

    ``test`` has the features of today's views. Each version predicts from the values of its own views instead, where
    these are others. A champion whose values cannot be had has no predictions. Raises
    :class:`~.own_features.OwnFeaturesError` for such a candidate.
    """
    given = GivenRows(test, model.table, model.feature_set)
    versions = {CANDIDATE: compared.candidate}
    if compared.champion is not None:
        versions[CHAMPION] = compared.champion
    files = {name: version_files(version, stores) for name, version in versions.items()}
    rows: dict[str, pl.DataFrame] = {}
    notes: list[str] = []
    reads_other: dict[str, bool] = {}
    unscored = None
    for name, version in versions.items():
        try:
            own = own_rows(model, files[name], given, stores.lake)
        except OwnFeaturesError as error:
            if name == CANDIDATE:
                raise
            alone = model.declared.evaluation.unscored_champion == "judge_alone"
            unscored = UnscoredChampion(str(error), judged_alone=alone)
            continue
        rows[name], reads_other[name] = own.rows, bool(own.notes)
        notes += [f"The {name}, version {version.version}, reads {note}" for note in own.notes]
    task = files[CANDIDATE].stored.task
    stored = {name: files[name].stored for name in rows}
    predictions = {name: task.aligned(one.predict(rows[name]), one.task) for name, one in stored.items()}
    bounds = {name: one.calibration.bounds(predictions[name]) for name, one in stored.items()}
    return ModelScores(
        task,
        predictions,
        {name: ends for name, ends in bounds.items() if ends is not None},
        task.context(test),
        unscored_champion=unscored,
        feature_notes=tuple(notes),
        candidate_reads_other_code=reads_other[CANDIDATE],
    )


def version_files(version: ModelVersion, stores: PlatformStores) -> VersionFiles:
    """Return the manifest, model and verified files of ``version``."""
    directory = model_directory(version, stores)
    finder = bento_finder(version, stores.home, stores.state)
    return VersionFiles(Manifest.read(directory / MANIFEST_FILE), read_model(directory), directory, finder)


def stored_model(version: ModelVersion, stores: PlatformStores) -> StoredModel:
    """Return the model of ``version``, read from its verified files."""
    return read_model(model_directory(version, stores))


def request_only(model: BoundModel, split: Split, repository: Path) -> npt.NDArray[np.float64]:
    """Return the test predictions of the baseline that is fitted on request features alone, of shape (rows,).

    Fitted views among them are fitted for the baseline, on its train rows.
    """
    features = model.feature_set.only(model.request_only)
    settings = TrainerSettings(settings={"max_rounds": 200, "feature_fraction": 0.8})
    fitted = fit_candidate(
        split,
        features.feature_names,
        settings,
        task=model.declared.task,
        prices=read_prices(repository),
        feature_set=features,
    )
    return fitted.predict(split.test)


def has_newer_data(model: BoundModel, candidate: ModelVersion, champion: ModelVersion) -> bool:
    """Return whether ``candidate`` is of a later partition than ``champion``, or of other rows of a table."""
    if model.has_time:
        return model.partitions.precedes(champion.partition, candidate.partition)
    return candidate.partition != champion.partition


def fitted_on_rows(model: BoundModel, split: Split, compared: ComparedVersions, stores: PlatformStores) -> bool:
    """Return whether the champion was fitted on test rows of ``split``.

    With a split by time, a champion of a later partition was. With other splits, the examples are compared by their
    ids: rows may have changed their parts since the champion was fitted.
    """
    champion = compared.champion
    if champion is None:
        return False
    if model.declared.split.is_by_time:
        return model.partitions.precedes(compared.candidate.partition, champion.partition)
    seen = fitted_examples(model, stores.registry.manifest(champion), stores.lake)
    return bool(split.test[EXAMPLE_ID].is_in(seen.implode()).any())
