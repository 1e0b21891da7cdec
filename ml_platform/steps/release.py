"""The champion's training set and model put under DVC, so that a commit and `dvc pull` bring both back elsewhere.

Apart from promotion, which is done by then: a release is a copy for other machines, and its failure undoes nothing.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data.lake import Lake
from ml_platform.registry.champion_history import ChampionRecord
from ml_platform.registry.dvc_release import (
    TRAINING_SET_FILE,
    ReleaseError,
    add_release,
    has_remote,
    is_released,
    push_release,
)
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.steps.candidates import read_training_set
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import model_directory
from resources.home import Home


@dataclass(frozen=True)
class ReleaseResult:
    """Whether the champion lies in the release folder; ``message`` says what to do next, or why it does not."""

    released: bool
    message: str


def release_champion(
    model: BoundModel, champion: ChampionRecord, *, lake: Lake, registry: ModelRegistry, folders: Home, repository: Path
) -> ReleaseResult:
    """Add ``champion`` to ``releases/<model>`` of ``repository`` by DVC, and push it where there is a default remote.

    Nothing is committed to Git: that is for people, and for whoever runs the pipeline. Only a home that lies in a
    repository of Git and DVC releases: any other is somebody's experiment. A version that lies there already, and what
    DVC refuses, is said.
    """
    reason = _reason_not_releasable(folders, repository)
    if reason:
        return ReleaseResult(False, f"Not released: {reason}.")
    version = registry.version(model.name, champion.version)
    commit = f"git add releases && git commit -m 'Release {model.name} {champion.version}'"
    try:
        pushed = has_remote(repository)
        if is_released(repository, version):
            if pushed:
                # A push that failed the last time is made up for.
                push_release(repository, version.name)
            return ReleaseResult(True, f"Version {champion.version} lies there already. To keep it: {commit}")
        _add_to_release(model, version, lake, registry, folders, repository, pushed)
    except ReleaseError as error:
        return ReleaseResult(False, f"Not released: {error}")
    return ReleaseResult(True, f"{'Added and pushed' if pushed else 'Added; no default remote'}. To keep it: {commit}")


def _add_to_release(
    model: BoundModel,
    version: ModelVersion,
    lake: Lake,
    registry: ModelRegistry,
    folders: Home,
    repository: Path,
    push: bool,
) -> None:
    manifest = registry.manifest(version)
    rows = read_training_set(model, manifest.partition, lake, model.pinned_training_set(manifest.tables))
    with tempfile.TemporaryDirectory(prefix=f"{model.name}-") as scratch:
        training_set = Path(scratch) / TRAINING_SET_FILE
        rows.write_parquet(training_set)
        add_release(
            repository,
            version,
            model_directory=model_directory(registry, version, folders.models),
            training_set=training_set,
            manifest=manifest,
            push=push,
        )


def _reason_not_releasable(folders: Home, repository: Path) -> str | None:
    if not folders.root.resolve().is_relative_to(repository.resolve()):
        return "the home lies outside the repository"
    absent = [name for name in (".git", ".dvc") if not (repository / name).exists()]
    return f"the repository has no {' and no '.join(absent)}" if absent else None
