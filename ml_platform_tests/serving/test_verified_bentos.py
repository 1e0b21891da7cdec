"""The record of a verified bento: it is found unchanged, and rejected when it is missing or changed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ml_platform.serving.bento_build import BentoVerification, BuiltBento, normalized_digest
from ml_platform.serving.bento_digest import content_digest
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.desired_state import ServedVersion
from ml_platform.serving.verified_bentos import (
    find_verified_bento,
    import_verified_bentos,
    record_verified_bento,
    verified_bento_of,
    verified_served_version,
)
from ml_platform.state.schema import verified_bentos
from ml_platform.state.store import StateStore

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
def recorded(state_store: StateStore, tmp_path: Path) -> BuiltBento:
    built_bento = bento(tmp_path)
    record(state_store, tmp_path, built_bento)
    return built_bento


def record(state: StateStore, root: Path, built_bento: BuiltBento, latency_p99_ms: float = 1.5) -> None:
    verification = BentoVerification(50, 0.8, latency_p99_ms)
    record_verified_bento(state, root / "bentos", built_bento, verification, version="1", model_digest=MODEL)


def served_version_of(root: Path, version: str = "1", model_digest: str = MODEL) -> ServedVersion:
    state = StateStore(path=root / "state.db")
    return verified_served_version(state, root / "bentos", model="toy", version=version, model_digest=model_digest)


def test_verified_bento_is_found_by_its_version(tmp_path: Path, recorded: BuiltBento) -> None:
    assert served_version_of(tmp_path) == ServedVersion(version="1", bento="toy/1-abc")
    stored = verified_bento_of(StateStore(path=tmp_path / "state.db"), "toy", "1")
    assert stored is not None
    assert (stored.sha256, stored.rows, stored.latency_p99_ms) == (recorded.sha256, 50, 1.5)


def test_later_verification_replaces_the_record(any_state: StateStore, tmp_path: Path) -> None:
    built_bento = bento(tmp_path)
    for latency in (1.5, 2.5):
        record(any_state, tmp_path, built_bento, latency)
    stored = verified_bento_of(any_state, "toy", "1")
    assert stored is not None
    assert stored.latency_p99_ms == 2.5
    assert verified_bento_of(any_state, "toy", "2") is None


def test_unreadable_record_is_named(state_store: StateStore, tmp_path: Path) -> None:
    with state_store.write() as connection:
        connection.execute(verified_bentos.insert().values(model="toy", version="1", record="{"))
    with pytest.raises(BentoError, match=r"Verified bento of 'toy' version 1: .*verifies the bento again"):
        served_version_of(tmp_path)


def test_record_files_of_an_earlier_release_are_imported(
    any_state: StateStore, state_store: StateStore, recorded: BuiltBento, tmp_path: Path
) -> None:
    stored = verified_bento_of(state_store, "toy", "1")
    assert stored is not None
    (tmp_path / "records" / "toy").mkdir(parents=True)
    (tmp_path / "records" / "toy" / "1.json").write_text(stored.model_dump_json())
    (tmp_path / "records" / "toy" / "2.json").write_text("{")
    expected = 0 if any_state.path else 1  # both fixtures are one store on SQLite
    added, (problem,) = import_verified_bentos(any_state, tmp_path / "records")
    assert added == expected
    assert problem.startswith("toy/2.json: ")
    assert import_verified_bentos(any_state, tmp_path / "records")[0] == 0
    assert verified_bento_of(any_state, "toy", "1") == stored


def test_moved_home_finds_its_own_bento(tmp_path: Path, recorded: BuiltBento) -> None:
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert served_version_of(moved).bento == "toy/1-abc"
    shutil.rmtree(moved / "bentos")
    with pytest.raises(BentoError, match=f"nothing in {moved}/bentos/toy/1-abc"):
        served_version_of(moved)


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


def bento_with(code: str, root: Path) -> BuiltBento:
    """Write the files of a bento with the Python file ``code``."""
    built_bento = bento(root)
    (built_bento.path / "src" / "view.py").write_text(code)
    return replace(built_bento, sha256=content_digest(built_bento.path))


def found_bento(state: StateStore, root: Path, build_digest: str) -> BuiltBento | None:
    found = find_verified_bento(
        state, root / "bentos", model="toy", version="1", model_digest=MODEL, build_digest=build_digest
    )
    return None if found is None else found[0]


@pytest.mark.parametrize(
    ("code", "reused"),
    [
        ("RATE = 3\n", True),
        ('"""Rates."""\n\nRATE = (3)  # per hour\n"""Flights per hour."""\n', True),
        ("RATE = 4\n", False),
        ("RATE = 3\nif __name__ == '__main__':\n    print(RATE)\n", False),
    ],
    ids=["same", "comments", "other value", "other main block"],
)
def test_bento_is_reused_when_only_text_of_its_code_changed(
    state_store: StateStore, tmp_path: Path, code: str, reused: bool
) -> None:
    built_bento = bento_with("RATE = 3\n", tmp_path)
    record(state_store, tmp_path, built_bento)
    build_digest = normalized_digest(bento_with(code, tmp_path / "now").path)
    assert found_bento(state_store, tmp_path, build_digest) == (built_bento if reused else None)


def test_bento_whose_comment_changed_after_its_verification_is_not_reused(
    state_store: StateStore, tmp_path: Path
) -> None:
    built_bento = bento_with("RATE = 3\n", tmp_path)
    record(state_store, tmp_path, built_bento)
    build_digest = normalized_digest(built_bento.path)
    assert found_bento(state_store, tmp_path, build_digest) == built_bento
    (built_bento.path / "src" / "view.py").write_text("RATE = 3  # changed\n")
    assert found_bento(state_store, tmp_path, build_digest) is None
