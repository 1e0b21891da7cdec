"""A commit and `dvc pull` restore the released model and training set in another clone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.canonical import directory_digest
from ml_platform.registry.dvc_release import (
    ReleaseError,
    add_release,
    has_remote,
    is_released,
    push_release,
    verify_release,
)
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelVersion

Directory = Callable[..., Path]


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def git(folder: Path, *arguments: str) -> None:
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments)


def dvc(folder: Path, *arguments: str) -> None:
    run(folder, sys.executable, "-m", "dvc", *arguments, "--quiet")


@pytest.fixture
def training_set(tmp_path: Path) -> Path:
    pl.DataFrame({"label": [0, 1, 0]}).write_parquet(tmp_path / "made.parquet")
    return tmp_path / "made.parquet"


def version_of(directory: Path) -> ModelVersion:
    return ModelVersion(
        name="departure_risk",
        version=3,
        run_id="r",
        content_digest="c",
        directory_digest=directory_digest(directory),
        inputs_digest="i",
        partition="2013-06",
        trainer="lightgbm",
        aliases=("champion",),
        created_at_ms=0,
        tags={},
    )


@pytest.mark.slow
def test_second_clone_restores_model_and_training_set_by_pull(
    tmp_path: Path, model_directory: Directory, training_set: Path, manifest: Manifest
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    git(first, "init", "-q")
    dvc(first, "init")
    dvc(first, "remote", "add", "-d", "local", str(tmp_path / "remote"))
    directory = model_directory("tree")
    released = add_release(
        first, version_of(directory), model_directory=directory, training_set=training_set, manifest=manifest, push=True
    )
    assert has_remote(first)
    assert is_released(first, version_of(directory))
    assert not is_released(first, version_of(model_directory("forest")))
    git(first, "add", "-A")
    git(first, "commit", "-qm", "release")
    git(tmp_path, "clone", "-q", str(first), str(second))
    assert not (second / "releases" / "departure_risk").exists()
    dvc(second, "pull")
    folder = second / "releases" / "departure_risk"
    assert released.dvc_file == first / "releases" / "departure_risk.dvc"
    assert verify_release(folder)["version"] == 3
    assert directory_digest(folder / "model") == directory_digest(directory)
    assert pl.read_parquet(folder / "training_set.parquet")["label"].to_list() == [0, 1, 0]
    assert Manifest.read(folder / "manifest.json") == manifest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remote", "message"),
    [("s3://nobody/here", "dvc-s3"), ("http://127.0.0.1:9/x", "failed to")],
    ids=["driver", "server"],
)
def test_failed_push_reports_its_reason_and_can_be_repeated(
    tmp_path: Path, model_directory: Directory, training_set: Path, manifest: Manifest, remote: str, message: str
) -> None:
    first, directory = tmp_path / "first", model_directory("tree")
    first.mkdir()
    git(first, "init", "-q")
    dvc(first, "init")
    dvc(first, "remote", "add", "-d", "local", remote)
    with pytest.raises(ReleaseError, match=message):
        add_release(
            first,
            version_of(directory),
            model_directory=directory,
            training_set=training_set,
            manifest=manifest,
            push=True,
        )
    assert is_released(first, version_of(directory))

    dvc(first, "remote", "modify", "local", "url", str(tmp_path / "remote"))
    push_release(first, "departure_risk")
    assert len([path for path in (tmp_path / "remote").rglob("*") if path.is_file()]) >= 4


def test_directory_of_another_version_is_not_released(
    tmp_path: Path, model_directory: Directory, training_set: Path, manifest: Manifest
) -> None:
    version = version_of(model_directory("tree"))
    with pytest.raises(ReleaseError, match=f"a model directory with the digest {version.directory_digest[:12]}"):
        add_release(
            tmp_path,
            version,
            model_directory=model_directory("forest"),
            training_set=training_set,
            manifest=manifest,
        )
    assert not (tmp_path / "releases").exists()


@pytest.mark.slow
def test_folder_outside_dvc_is_rejected_with_the_message_of_dvc(
    tmp_path: Path, model_directory: Directory, training_set: Path, manifest: Manifest
) -> None:
    directory = model_directory("tree")
    with pytest.raises(ReleaseError, match=r"found you are not inside of a DVC repository"):
        add_release(
            tmp_path, version_of(directory), model_directory=directory, training_set=training_set, manifest=manifest
        )


def test_changed_release_is_named(
    tmp_path: Path, model_directory: Directory, training_set: Path, manifest: Manifest
) -> None:
    from ml_platform.registry.dvc_release import _write_release

    directory, folder = model_directory("tree"), tmp_path / "releases" / "departure_risk"
    _write_release(folder, version_of(directory), directory, training_set, manifest, None)
    assert verify_release(folder)["model"] == directory_digest(directory)
    (folder / "model" / "weights.txt").write_text("another")
    with pytest.raises(ReleaseError, match=r"Release '.*', model: expected the digest"):
        verify_release(folder)


def test_missing_release_names_the_command_that_restores_it(tmp_path: Path) -> None:
    with pytest.raises(
        ReleaseError, match=r"a readable release.json, found FileNotFoundError. Restore it with: dvc pull"
    ):
        verify_release(tmp_path)
