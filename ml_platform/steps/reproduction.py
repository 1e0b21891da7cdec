"""The reproduction of a version: rebuild it from the inputs that its manifest pins, and compare the results."""

import time
from collections.abc import Mapping

import polars as pl

from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake
from ml_platform.data.scratch import scratch_folder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.registry.manifest import (
    MANIFEST_FILE,
    Manifest,
    collect_code,
    collect_hardware,
    collect_libraries,
    collect_lock,
)
from ml_platform.registry.models import ModelVersion
from ml_platform.registry.reproduction import RebuildResult, Reproduction, reproduce
from ml_platform.steps.candidate_inputs import code_of_candidate
from ml_platform.steps.candidates import (
    assemble_partition,
    candidate_results,
    read_recorded_training_set,
    split_of,
)
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import champion_of, features_of, model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.prices import read_prices
from ml_platform.training.candidate import fit_candidate, most_rounds
from ml_platform.training.fit_progress import FitProgress, Tell, duration
from ml_platform.training.threshold import ThresholdSettings
from ml_platform.training.trainer import TrainerSettings


def reproduce_version(
    model: BoundModel, version: int, stores: PlatformStores, tell: Tell = lambda _: None
) -> Reproduction:
    """Rebuild ``version`` of ``model`` and compare it with its manifest; the result also lists environment differences.

    The training set is assembled from the pinned versions of datasets and change logs, with the features of the
    version. The model is fitted with the pinned settings and seeds, by the code of now. ``tell`` gets lines of
    progress. Raises
    :class:`~ml_platform.registry.models.ModelError` for an unknown version, and
    :class:`~ml_platform.data.lake.LakeError` when a pinned table version no longer exists.
    """
    return _reproduce(model, stores.registry.version(model.name, version), stores, tell)


def reproduce_champion(
    model: BoundModel, stores: PlatformStores, tell: Tell = lambda _: None
) -> tuple[ModelVersion, Reproduction]:
    """Rebuild the champion and return it with the comparison; ``tell`` gets lines of progress.

    Raises :class:`~ml_platform.registry.verdict_record.PromotionError` when the model has no champion.
    """
    champion = champion_of(model.name, stores)
    return champion, _reproduce(model, champion, stores, tell)


def rebuild(
    model: BoundModel,
    manifest: Manifest,
    features: FeatureSet,
    stores: PlatformStores,
    tell: Tell = lambda _: None,
) -> RebuildResult:
    """Return the results of the tables, settings and seeds that ``manifest`` pins, with the code of now."""
    window = manifest.partition
    with scratch_folder(model.name) as scratch:
        rebuilt_lake = Lake.standalone(str(scratch))
        # The original rows were stored in a lake and read back, so the rebuilt rows are too.
        _rebuild_training_set(model, manifest, features, stores.lake, rebuilt_lake, tell)
        frame = read_recorded_training_set(model, manifest, rebuilt_lake, rebuilt=True)
    split = split_of(model, window, frame)
    settings = _settings_of(manifest)
    progress = FitProgress(tell, most=most_rounds(settings))
    candidate = fit_candidate(
        split,
        features.feature_names,
        settings,
        task=model.declared.task,
        prices=read_prices(stores.repository),
        report=progress,
        on_phase=progress.phase,
        feature_set=features,
    )
    threshold = ThresholdSettings.model_validate(manifest.threshold_rule or 0.5)
    results = candidate_results(candidate, split, threshold, model.own_primary_metric)
    return RebuildResult(
        training_set=content_hash(frame),
        stored_training_set=_stored_digest(model, manifest, stores.lake),
        metrics=results["metrics"],
        threshold=None if results["threshold"] is None else results["threshold"]["value"],
        predictions=candidate.predict(split.test),
        device=candidate.resource_usage.device,
    )


def _reproduce(
    model: BoundModel, version: ModelVersion, stores: PlatformStores, tell: Tell = lambda _: None
) -> Reproduction:
    directory = model_directory(version, stores)
    pinned = Manifest.read(directory / MANIFEST_FILE)
    return reproduce(
        pinned,
        lambda manifest: rebuild(model, manifest, features_of(directory), stores, tell),
        code=collect_code(stores.repository, code_of_candidate(model, _settings_of(pinned))),
        lock=collect_lock(stores.repository),
        hardware=collect_hardware(),
        libraries=collect_libraries(pinned.libraries),
    )


def _settings_of(manifest: Manifest) -> TrainerSettings:
    return TrainerSettings.model_validate(manifest.fitted or manifest.parameters)


def _rebuild_training_set(
    model: BoundModel, manifest: Manifest, features: FeatureSet, lake: Lake, rebuilt_lake: Lake, tell: Tell
) -> None:
    logs = _logs(manifest.tables, features, lake)
    if not model.has_time:
        frame = assemble_partition(model, manifest.partition, lake, logs, features=features, versions=manifest.tables)
        rebuilt_lake.write(model.table, frame, None)
        return
    stored = model.partitions.until(lake.partitions(*model.pinned_training_set(manifest.tables)), manifest.partition)
    first, began = manifest.first_month, time.monotonic()
    partitions = [window for window in stored if first is None or not model.partitions.precedes(window, first)]
    tell(f"Assembles the training sets of {len(partitions)} partitions again.")
    for done, window in enumerate(partitions, start=1):
        frame = assemble_partition(model, window, lake, logs, features=features, versions=manifest.tables)
        rebuilt_lake.write(model.table, frame, window)
        left = (time.monotonic() - began) / done * (len(partitions) - done)
        tell(f"Training set of {window}: {frame.height:,} rows, {done} of {len(partitions)}; {duration(left)} left.")


def _logs(tables: Mapping[str, int], features: FeatureSet, lake: Lake) -> dict[str, pl.LazyFrame]:
    return features.logs(lake, {view.name: tables[view.table] for view in features.stored})


def _stored_digest(model: BoundModel, manifest: Manifest, lake: Lake) -> str:
    return content_hash(read_recorded_training_set(model, manifest, lake, rebuilt=False))
