"""A manifest distinguishes inputs from results, and the code that ran from its commit."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ml_platform.registry.manifest import CodeInfo, Manifest, collect_code, collect_lock


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "ml_platform").mkdir()
    (tmp_path / "ml_platform" / "engine.py").write_text("RATE = 1\n")
    (tmp_path / "README.md").write_text("text\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        {"training_set": "f" * 64},
        {"parameters": {"num_leaves": 63}},
        {"seeds": {"fit": 2}},
        {"lock": None},
        {"libraries": {"torch": "2.13"}},
        {"partition": "2013-07"},
        {"declared": {"split": {"validation_months": 2}}},
        {"code": CodeInfo(commit="c0ffee", dirty=True, sha256="0" * 64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changed_input_changes_the_inputs_digest(manifest: Manifest, change: dict[str, Any]) -> None:
    assert manifest.model_copy(update=change).inputs_digest() != manifest.inputs_digest()


@pytest.mark.parametrize(
    "change",
    [
        {"dagster_run_id": "run-2"},
        {"created_at": "2026-11-22T08:00:00+00:00"},
        {"metrics": {"auc": 0.77}},
        {"tables": {"datasets/flights": 7}},
        {"code": CodeInfo(commit="another", dirty=True, sha256="b" * 64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_field_that_does_not_determine_the_model_leaves_the_inputs_digest(
    manifest: Manifest, change: dict[str, Any]
) -> None:
    changed = manifest.model_copy(update=change)
    assert changed.inputs_digest() == manifest.inputs_digest()
    assert changed.digest() != manifest.digest()


def test_manifest_of_an_earlier_version_keeps_the_digest_of_its_registered_version(manifest: Manifest) -> None:
    stored = json.loads(manifest.model_dump_json())
    del stored["declared"]
    # Computed by version 0.2.0 for this manifest, and stored as a tag of the registered version.
    digest_of_0_2 = "9b8c936ffecc26d35dace74dd19f4bf3c8eda432183bdc03f6d22bdff450ff78"
    assert Manifest.model_validate(stored).inputs_digest() == digest_of_0_2


def test_clean_repository_gives_its_commit(repository: Path) -> None:
    code = collect_code(repository, "e" * 64)
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    assert (code.commit, code.dirty, code.sha256) == (head.strip(), False, "e" * 64)


def test_new_code_not_yet_committed_is_dirty(repository: Path) -> None:
    before = collect_code(repository, "e" * 64)
    (repository / "ml_platform" / "new.py").write_text("x = 1\n")
    after = collect_code(repository, "e" * 64)
    assert (after.commit, after.dirty) == (before.commit, True)


def test_changed_text_outside_the_code_does_not_count(repository: Path) -> None:
    before = collect_code(repository, "e" * 64)
    (repository / "README.md").write_text("other text\n")
    assert collect_code(repository, "e" * 64) == before


def test_code_outside_a_repository_has_no_commit_and_counts_as_dirty(tmp_path: Path) -> None:
    (tmp_path / "ml_platform").mkdir()
    code = collect_code(tmp_path, "e" * 64)
    assert (code.commit, code.dirty) == (None, True)


def test_lock_digest_covers_its_bytes(tmp_path: Path) -> None:
    assert collect_lock(tmp_path) is None
    (tmp_path / "requirements.lock").write_text("polars==2\n")
    first = collect_lock(tmp_path)
    (tmp_path / "requirements.lock").write_text("polars==3\n")
    assert collect_lock(tmp_path) != first


def test_manifest_is_equal_after_writing_and_reading(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    assert Manifest.read(tmp_path / "manifest.json") == manifest
