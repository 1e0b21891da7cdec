"""The record of a verified bento: it is found unchanged, and rejected when it is missing or changed."""

import json
from pathlib import Path

import pytest

from ml_platform.serving.bento_build import BentoVerification, BuiltBento, content_digest
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.desired_state import ServedVersion
from ml_platform.serving.verified_bentos import record_verified_bento, verified_served_version

MODEL = "a" * 64


def bento(root: Path, content: str = "trees") -> BuiltBento:
    """Write the files of a bento that its record covers."""
    path = root / "bentos" / "toy" / "1-abc"
    (path / "src" / "model").mkdir(parents=True)
    (path / "bento.yaml").write_text("name: toy")
    (path / "src" / "bentofile.yaml").write_text("written by bentoml")
    (path / "src" / "model" / "model.txt").write_text(content)
    return BuiltBento("toy:1-abc", path, content_digest(path), 12)


@pytest.fixture
def recorded(tmp_path: Path) -> BuiltBento:
    built_bento = bento(tmp_path)
    record_verified_bento(
        tmp_path / "records", tmp_path, built_bento, BentoVerification(50, 0.8, 1.5), version="1", model_digest=MODEL
    )
    return built_bento


def served_version_of(root: Path, version: str = "1", model_digest: str = MODEL) -> ServedVersion:
    return verified_served_version(root / "records", root, model="toy", version=version, model_digest=model_digest)


def test_verified_bento_is_found_by_its_version(tmp_path: Path, recorded: BuiltBento) -> None:
    assert served_version_of(tmp_path) == ServedVersion(version="1", bento=str(recorded.path))
    record = json.loads((tmp_path / "records" / "toy" / "1.json").read_text())
    assert (record["sha256"], record["rows"], record["latency_p99_ms"]) == (recorded.sha256, 50, 1.5)


def test_moved_home_finds_its_own_bento(tmp_path: Path, recorded: BuiltBento) -> None:
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert served_version_of(moved).bento == str(moved / recorded.path.relative_to(tmp_path))


def test_bytecode_of_a_bento_that_ran_is_ignored(tmp_path: Path, recorded: BuiltBento) -> None:
    (recorded.path / "src" / "module.pyc").write_bytes(b"bytecode")
    assert served_version_of(tmp_path).version == "1"


def test_version_without_a_verified_bento_is_rejected(tmp_path: Path, recorded: BuiltBento) -> None:
    with pytest.raises(BentoError, match=r"Version 2 of 'toy': expected a verified bento.*Materialize toy/bento"):
        served_version_of(tmp_path, version="2")


def test_bento_that_changed_after_its_verification_is_rejected(tmp_path: Path, recorded: BuiltBento) -> None:
    (recorded.path / "src" / "model" / "model.txt").write_text("other trees")
    with pytest.raises(BentoError, match=r"toy:1-abc: expected the content that was verified.*other content in"):
        served_version_of(tmp_path)


def test_missing_bento_is_rejected(tmp_path: Path, recorded: BuiltBento) -> None:
    (recorded.path / "bento.yaml").unlink()
    with pytest.raises(BentoError, match="found nothing in"):
        served_version_of(tmp_path)


def test_bento_of_another_model_under_the_same_version_is_rejected(tmp_path: Path, recorded: BuiltBento) -> None:
    with pytest.raises(BentoError, match=r"of model bbbbbbbbbbbb, found one of model aaaaaaaaaaaa"):
        served_version_of(tmp_path, model_digest="b" * 64)
