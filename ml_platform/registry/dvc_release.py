"""The release folder: a champion's model, training set and manifest under DVC, restored by a commit and `dvc pull`.

A release does not need the tracking store: it is a folder, a `.dvc` file and a remote.
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
from ml_platform.registry.audit_anchor import ANCHOR_FILE
from ml_platform.registry.manifest import MANIFEST_FILE, Manifest
from ml_platform.registry.models import ModelVersion

MODEL_FOLDER = "model"
TRAINING_SET_FILE = "training_set.parquet"
RELEASE_FILE = "release.json"


class ReleaseError(PlatformError):
    """Raised when a release cannot be added or pushed, or differs from its record."""


@dataclass(frozen=True)
class DvcRelease:
    """A released version: its folder, the `.dvc` file to commit, and whether the files were pushed."""

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
    anchor: Mapping[str, Any] | None = None,
    push: bool = False,
    folder: str = "releases",
) -> DvcRelease:
    """Replace ``releases/<model>`` with this version's model, training set and manifest, and track it with DVC.

    ``anchor`` is the end of the audit log, which the release keeps (see :mod:`~.audit_anchor`). The caller commits
    ``dvc_file`` and the .gitignore beside it. With ``push``, the files are also pushed to the
    default remote. Raises :class:`ReleaseError` when the model directory belongs to another version, and with the
    message of DVC when DVC fails.
    """
    digest = directory_digest(model_directory)
    if digest != version.directory_digest:
        raise ReleaseError(
            f"Release of '{version.name}' version {version.version}",
            expected=f"a model directory with the digest {version.directory_digest[:12]}",
            found=digest[:12],
            fix="Download the version from the registry and release the downloaded files.",
        )
    target = repository / folder / version.name
    dvc_file = target.with_name(f"{target.name}.dvc")
    with _open_dvc(repository) as repo:
        _write_release(target, version, model_directory, training_set, manifest, anchor)
        repo.add([str(target)])
    if push:
        push_release(repository, version.name, folder=folder)
    return DvcRelease(target, dvc_file, push)


def push_release(repository: Path, model: str, *, folder: str = "releases") -> None:
    """Push the release of ``model`` to the default remote; files that the remote has already are skipped."""
    with _open_dvc(repository) as repo:
        repo.push(targets=[str(repository / folder / f"{model}.dvc")])


def is_released(repository: Path, version: ModelVersion, *, folder: str = "releases") -> bool:
    """Return whether the release folder contains this version, unchanged and tracked by DVC."""
    target = repository / folder / version.name
    if not target.with_name(f"{target.name}.dvc").exists():
        return False
    try:
        record = verify_release(target)
    except ReleaseError:
        return False
    return (record["version"], record[MODEL_FOLDER]) == (version.version, version.directory_digest)


def has_remote(repository: Path) -> bool:
    """Return whether ``repository`` has a default DVC remote; raises :class:`ReleaseError` outside a DVC repository."""
    with _open_dvc(repository) as repo:
        return bool(repo.config["core"].get("remote"))


def verify_release(folder: Path) -> dict[str, Any]:
    """Verify the files of a release against its record and return the record, for example after `dvc pull`.

    Raises :class:`ReleaseError`, which names the first part that is missing or differs.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RELEASE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"Release '{folder}'",
            expected=f"a readable {RELEASE_FILE}",
            found=type(error).__name__,
            fix="Restore it with: dvc pull.",
        ) from error
    for name, actual in _digests(folder).items():
        if actual != record.get(name):
            raise ReleaseError(
                f"Release '{folder}', {name}",
                expected=f"the digest {record.get(name, 'none')[:12]}",
                found=actual[:12],
                fix="Restore the released files with: dvc pull --force.",
            )
    return record


def _write_release(
    target: Path,
    version: ModelVersion,
    model: Path,
    training_set: Path,
    manifest: Manifest,
    anchor: Mapping[str, Any] | None,
) -> None:
    staging = target.with_name(f".{target.name}.staged")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(model, staging / MODEL_FOLDER)
    shutil.copy2(training_set, staging / TRAINING_SET_FILE)
    write_json(staging / MANIFEST_FILE, manifest.model_dump())
    if anchor is not None:
        write_json(staging / ANCHOR_FILE, anchor)
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
    """Open the DVC repository at ``repository``; an error of DVC is raised as :class:`ReleaseError`.

    It runs in this process, because each start of the DVC command line costs seconds.
    """
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(repository)) as repo:
            yield repo
    except (DvcException, OSError, ImportError) as error:
        # DVC raises OSError for a full disk, and ImportError for a remote without its driver.
        raise ReleaseError(
            f"DVC in '{repository}'",
            expected="a DVC repository with a usable remote",
            found=str(error).strip() or type(error).__name__,
            fix="Run .venv/bin/dvc push, resolve its error, then materialize the champion again.",
        ) from error
