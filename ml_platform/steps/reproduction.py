"""A version made again from what its manifest pins, and compared with what it was: where lake, training, registry meet.

Apart from the registry's comparison because only here is it known how a training set is assembled and a model fitted.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake
from ml_platform.features.feature_set import FeatureSet
from ml_platform.registry.manifest import (
    MANIFEST_FILE,
    Manifest,
    collect_code,
    collect_hardware,
    collect_libraries,
    collect_lock,
)
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.reproduction import RebuildResult, Reproduction, reproduce
from ml_platform.steps.candidates import assemble_partition, candidate_results, read_prices, read_training_set, split_of
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import champion_of, features_of, model_directory
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.threshold import ThresholdSettings
from ml_platform.training.trainer import TrainerSettings
from resources.home import Home


def reproduce_version(
    model: BoundModel, version: int, *, lake: Lake, registry: ModelRegistry, folders: Home, repository: Path
) -> Reproduction:
    """Rebuild ``version`` of ``model`` and return what is equal to its manifest, and what differs in the surroundings.

    The training set is assembled again from the pinned versions of datasets and change logs, with the features as the
    version has them; the model is fitted on that with the pinned settings and seeds. The code is that of now. Raises
    what the registry raises for an unknown version, and :class:`~ml_platform.data.lake.LakeError` where a pinned
    version of a table is gone.
    """
    return _reproduced(model, registry.version(model.name, version), lake, registry, folders, repository)


def reproduce_champion(
    model: BoundModel, *, lake: Lake, registry: ModelRegistry, folders: Home, repository: Path
) -> tuple[ModelVersion, Reproduction]:
    """Rebuild the champion; raises :class:`~ml_platform.registry.verdict_record.PromotionError` where none is."""
    champion = champion_of(model.name, registry)
    return champion, _reproduced(model, champion, lake, registry, folders, repository)


def _reproduced(
    model: BoundModel, version: ModelVersion, lake: Lake, registry: ModelRegistry, folders: Home, repository: Path
) -> Reproduction:
    directory = model_directory(registry, version, folders.models)
    pinned = Manifest.read(directory / MANIFEST_FILE)
    return reproduce(
        pinned,
        lambda manifest: rebuild(model, manifest, features_of(directory), lake, repository),
        code=collect_code(repository),
        lock=collect_lock(repository),
        hardware=collect_hardware(),
        libraries=collect_libraries(pinned.libraries),
    )


def rebuild(model: BoundModel, manifest: Manifest, features: FeatureSet, lake: Lake, repository: Path) -> RebuildResult:
    """Return what the tables, settings and seeds that ``manifest`` pins give, with the code of now."""
    month = manifest.partition
    with tempfile.TemporaryDirectory(prefix=f"{model.name}-") as scratch:
        again = Lake(scratch)
        # Through a lake, so that what is compared was stored and read back as the original was.
        _rebuild_training_set(model, manifest, features, lake, again)
        frame = read_training_set(model, month, again)
    split = split_of(model, month, frame)
    candidate = fit_candidate(
        split,
        features.feature_names,
        TrainerSettings.model_validate(manifest.fitted or manifest.parameters),
        task=model.declared.task,
        prices=read_prices(repository),
    )
    results = candidate_results(candidate, split, ThresholdSettings.model_validate(manifest.threshold_rule or 0.5))
    return RebuildResult(
        training_set=content_hash(frame),
        stored_training_set=_stored_digest(model, manifest, lake),
        metrics=results["metrics"],
        threshold=None if results["threshold"] is None else results["threshold"]["value"],
        predictions=candidate.predict(split.test),
        device=candidate.resource_usage.device,
    )


def _rebuild_training_set(model: BoundModel, manifest: Manifest, features: FeatureSet, lake: Lake, again: Lake) -> None:
    logs = _logs(manifest.tables, features, lake)
    for month in lake.partitions(*model.pinned_training_set(manifest.tables)):
        if month <= manifest.partition:
            frame = assemble_partition(model, month, lake, logs, features=features, versions=manifest.tables)
            again.write(model.table, frame, month)


def _logs(tables: Mapping[str, int], features: FeatureSet, lake: Lake) -> dict[str, pl.LazyFrame]:
    return features.logs(lake, {view.name: tables[view.table] for view in features.stored})


def _stored_digest(model: BoundModel, manifest: Manifest, lake: Lake) -> str:
    return content_hash(read_training_set(model, manifest.partition, lake, model.pinned_training_set(manifest.tables)))
