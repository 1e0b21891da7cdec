"""Digests of values, files and folders depend on their content only."""

import os
from pathlib import Path

import pytest

from ml_platform.data.canonical import canonical_json, directory_digest, file_digest, value_digest


def test_order_of_keys_does_not_change_the_digest() -> None:
    assert value_digest({"a": 1, "b": [2.5, None]}) == value_digest({"b": [2.5, None], "a": 1})


def test_numbers_that_json_lacks_are_rejected() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json({"auc": float("nan")})


def test_file_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_directory_digest_depends_on_names_and_bytes_but_not_times(tmp_path: Path) -> None:
    (tmp_path / "one" / "sub").mkdir(parents=True)
    (tmp_path / "one" / "sub" / "f.txt").write_text("x")
    before = directory_digest(tmp_path / "one")
    os.utime(tmp_path / "one" / "sub" / "f.txt", (0, 0))
    assert directory_digest(tmp_path / "one") == before
    (tmp_path / "one" / "sub" / "f.txt").write_text("y")
    assert directory_digest(tmp_path / "one") != before


def test_left_out_files_do_not_change_the_directory_digest(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("x")
    alone = directory_digest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert directory_digest(tmp_path, leave_out=["manifest.json"]) == alone
