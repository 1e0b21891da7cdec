"""The champion's training set and model put under DVC, so that a commit and `dvc pull` bring both back elsewhere.

Apart from promotion, which is done by then: a release is a copy for other machines, and its failure undoes nothing.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data.lake import Lake
from ml_platform.registry.championship import Championship
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.release import (
    TRAINING_SET_FILE,
    ReleaseError,
    add_release,
    has_remote,
    is_released,
    push_release,
)
from ml_platform.steps.candidates import read_training_set
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import model_directory
from resources.home import Home


@dataclass(frozen=True)
class Released:
    """Whether the champion lies in the release folder; ``words`` say what to do next, or why it does not."""

    done: bool
    words: str


def release_champion(
    model: BoundModel, champion: Championship, *, lake: Lake, registry: ModelRegistry, folders: Home, repository: Path
) -> Released:
    """Add ``champion`` to ``releases/<model>`` of ``repository`` by DVC, and push it where there is a default remote.

    Nothing is committed to Git: that is for people, and for whoever runs the pipeline. Only a home that lies in a
    repository of Git and DVC releases: any other is somebody's experiment. A version that lies there already, and what
    DVC refuses, is said.
    """
    absent = _why_not(folders, repository)
    if absent:
        return Released(False, f"Not released: {absent}.")
    version = registry.version(model.name, champion.version)
    commit = f"git add releases && git commit -m 'Release {model.name} {champion.version}'"
    try:
        pushed = has_remote(repository)
        if is_released(repository, version):
            if pushed:
                # A push that failed the last time is made up for.
                push_release(repository, version.name)
            return Released(True, f"Version {champion.version} lies there already. To keep it: {commit}")
        _add(model, version, lake, registry, folders, repository, pushed)
    except ReleaseError as error:
        return Released(False, f"Not released: {error}")
    return Released(True, f"{'Added and pushed' if pushed else 'Added; no default remote'}. To keep it: {commit}")


def _add(
    model: BoundModel,
    version: ModelVersion,
    lake: Lake,
    registry: ModelRegistry,
    folders: Home,
    repository: Path,
    push: bool,
) -> None:
    manifest = registry.manifest(version)
    rows = read_training_set(model, manifest.partition, lake, model.table_among(manifest.tables))
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


def _why_not(folders: Home, repository: Path) -> str | None:
    if not folders.root.resolve().is_relative_to(repository.resolve()):
        return "the home lies outside the repository"
    absent = [name for name in (".git", ".dvc") if not (repository / name).exists()]
    return f"the repository has no {' and no '.join(absent)}" if absent else None
