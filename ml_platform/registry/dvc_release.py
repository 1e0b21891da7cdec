"""The release folder: what a champion was made of and is, under DVC, so that a commit and `dvc pull` bring both back.

Apart from the model registry because a release outlives the tracking store: it is a folder, a `.dvc` file and a remote.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_platform.data.atomic import publish_directory, write_json
from ml_platform.data.canonical import directory_digest, file_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.manifest import MANIFEST_FILE, Manifest
from ml_platform.registry.models import ModelVersion

MODEL_FOLDER = "model"
TRAINING_SET_FILE = "training_set.parquet"
RELEASE_FILE = "release.json"


class ReleaseError(PlatformError):
    """Raised when a release cannot be added, or is not what its own record says."""


@dataclass(frozen=True)
class DvcRelease:
    """A released version: its folder, and the `.dvc` file that is to be committed."""

    folder: Path
    dvc_file: Path
    pushed: bool


def add_release(
    repository: Path,
    version: ModelVersion,
    *,
    model_directory: Path,
    training_set: Path,
    manifest: Manifest,
    push: bool = False,
    folder: str = "releases",
) -> DvcRelease:
    """Replace ``releases/<model>`` by this version's model, training set and manifest, and track it with DVC.

    The caller commits ``dvc_file`` and the .gitignore beside it. With ``push`` the files go to the default remote too.
    Raises :class:`ReleaseError` when the model directory is not the version's, and with DVC's own words when DVC fails.
    """
    digest = directory_digest(model_directory)
    if digest != version.directory_digest:
        raise ReleaseError(
            f"Release of '{version.name}' version {version.version}",
            expected=f"a model directory with the digest {version.directory_digest[:12]}",
            found=digest[:12],
            fix="Download the version from the registry and release that.",
        )
    target = repository / folder / version.name
    dvc_file = target.with_name(f"{target.name}.dvc")
    with _open_dvc(repository) as repo:
        _write_release(target, version, model_directory, training_set, manifest)
        repo.add([str(target)])
    if push:
        push_release(repository, version.name, folder=folder)
    return DvcRelease(target, dvc_file, push)


def push_release(repository: Path, model: str, *, folder: str = "releases") -> None:
    """Bring the release of ``model`` to the default remote; what is there already is not sent again."""
    with _open_dvc(repository) as repo:
        repo.push(targets=[str(repository / folder / f"{model}.dvc")])


def is_released(repository: Path, version: ModelVersion, *, folder: str = "releases") -> bool:
    """Return whether this version lies in the release folder as it was put there, tracked by DVC."""
    target = repository / folder / version.name
    if not target.with_name(f"{target.name}.dvc").exists():
        return False
    try:
        record = verify_release(target)
    except ReleaseError:
        return False
    return (record["version"], record[MODEL_FOLDER]) == (version.version, version.directory_digest)


def has_remote(repository: Path) -> bool:
    """Return whether DVC has a default remote in ``repository``; raises :class:`ReleaseError` outside of DVC."""
    with _open_dvc(repository) as repo:
        return bool(repo.config["core"].get("remote"))


def verify_release(folder: Path) -> dict[str, Any]:
    """Return the record of a release whose files are what it says, for example after `dvc pull` in another clone.

    Raises :class:`ReleaseError` naming the first part that is absent or differs.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RELEASE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"Release '{folder}'",
            expected=f"a readable {RELEASE_FILE}",
            found=type(error).__name__,
            fix="Bring it with: dvc pull.",
        ) from error
    for name, actual in _digests(folder).items():
        if actual != record.get(name):
            raise ReleaseError(
                f"Release '{folder}', {name}",
                expected=f"the digest {record.get(name, 'none')[:12]}",
                found=actual[:12],
                fix="Bring the released files again with: dvc pull --force.",
            )
    return record


def _write_release(target: Path, version: ModelVersion, model: Path, training_set: Path, manifest: Manifest) -> None:
    staging = target.with_name(f".{target.name}.staged")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(model, staging / MODEL_FOLDER)
    shutil.copy2(training_set, staging / TRAINING_SET_FILE)
    write_json(staging / MANIFEST_FILE, manifest.model_dump())
    record: Mapping[str, object] = {"name": version.name, "version": version.version, **_digests(staging)}
    write_json(staging / RELEASE_FILE, record)
    publish_directory(staging, target)


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in (folder / TRAINING_SET_FILE, folder / MANIFEST_FILE) if path.exists()]
    return {
        MODEL_FOLDER: directory_digest(folder / MODEL_FOLDER),
        **dict.fromkeys((TRAINING_SET_FILE, MANIFEST_FILE), "absent"),
        **{path.name: file_digest(path) for path in files},
    }


@contextmanager
def _open_dvc(repository: Path) -> Iterator[Any]:
    """Open the repository of DVC at ``repository``; whatever DVC refuses is a :class:`ReleaseError`.

    In this process: starting DVC's command line costs seconds, each time.
    """
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(repository)) as repo:
            yield repo
    except (DvcException, OSError, ImportError) as error:
        # Not of DVC's own kind: a full disk, a remote whose driver is not installed.
        raise ReleaseError(
            f"DVC in '{repository}'",
            expected="a repository that it can add to and push from",
            found=str(error).strip() or type(error).__name__,
            fix="Try by hand what it says, then materialize the champion again: .venv/bin/dvc push.",
        ) from error
