"""An anchor shows that the audit log was rewritten, and its signature shows who printed it."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.registry.audit import AuditError, AuditLog
from ml_platform.registry.audit_anchor import anchor_of, released_anchors, verify_anchor
from ml_platform.state.store import StateStore

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def log(state_store: StateStore) -> AuditLog:
    log = AuditLog(state_store)
    log.append("approval", actor="ada", at=NOON, facts={"model": "risk"})
    return log


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """An ed25519 private and public key, made by OpenSSL."""
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def stored(anchor: dict[str, object], folder: Path) -> Path:
    file = folder / "audit_head.json"
    file.write_text(json.dumps(anchor))
    return file


def test_anchor_names_the_last_record_and_stays_valid_as_the_log_grows(log: AuditLog, tmp_path: Path) -> None:
    anchor = anchor_of(log, NOON)
    assert anchor == {"sequence": 1, "digest": log.record(1).digest, "at": "2013-07-01T12:00:00+00:00"}
    log.append("approval", actor="bob", at=NOON, facts={})
    assert verify_anchor(log, stored(anchor, tmp_path)).sequence == 1


def test_anchor_of_an_empty_log_is_valid(state_store: StateStore, tmp_path: Path) -> None:
    log = AuditLog(state_store)
    assert verify_anchor(log, stored(anchor_of(log, NOON), tmp_path)).sequence == 0


def test_log_that_was_replaced_differs_from_its_anchor(log: AuditLog, tmp_path: Path) -> None:
    file = stored(anchor_of(log, NOON), tmp_path)
    (tmp_path / "other").mkdir()
    replaced = AuditLog(StateStore.in_folder(tmp_path / "other"))
    with pytest.raises(AuditError, match=rf"record 1: expected the digest .* of the anchor {file}, found no record"):
        verify_anchor(replaced, file)
    replaced.append("approval", actor="eve", at=NOON, facts={"model": "risk"})
    assert replaced.verify() == 1
    with pytest.raises(AuditError, match=r"record 1: expected the digest .* of the anchor"):
        verify_anchor(replaced, file)


def test_signed_anchor_is_accepted_with_its_key_only(log: AuditLog, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    anchor = anchor_of(log, NOON, private)
    assert verify_anchor(log, stored(anchor, tmp_path), public).sequence == 1
    with pytest.raises(AuditError, match="expected a signature of this key, found another one"):
        verify_anchor(log, stored({**anchor, "at": "2013-07-02T12:00:00+00:00"}, tmp_path), public)
    with pytest.raises(AuditError, match="expected a signature, found none"):
        verify_anchor(log, stored(anchor_of(log, NOON), tmp_path), public)


def test_file_that_is_no_key_or_no_anchor_is_named(log: AuditLog, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    with pytest.raises(AuditError, match=r"public\.pem': expected an ed25519 private key"):
        anchor_of(log, NOON, public)
    file = stored(anchor_of(log, NOON, private), tmp_path)
    with pytest.raises(AuditError, match=r"key\.pem': expected an ed25519 public key"):
        verify_anchor(log, file, private)
    file.write_text("{}")
    with pytest.raises(AuditError, match=r"expected a readable anchor \(JSON\), found KeyError"):
        verify_anchor(log, file)


def test_anchors_of_all_releases_are_found(tmp_path: Path) -> None:
    for model in ("risk", "delay"):
        (tmp_path / "releases" / model).mkdir(parents=True)
        (tmp_path / "releases" / model / "audit_head.json").write_text("{}")
    assert [file.parent.name for file in released_anchors(tmp_path)] == ["delay", "risk"]
