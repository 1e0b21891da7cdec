"""Pseudonyms: equal for equal values, different by column and key, and no key is made twice or shown."""

import stat
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.data.pseudonyms import (
    PII_KEY_VARIABLE,
    PseudonymKey,
    PseudonymKeyError,
    key_of_pseudonym,
    pseudonym_key,
)

KEY, OTHER_KEY = PseudonymKey(bytes(32)), PseudonymKey(bytes(31) + b"1")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (7, 7.0),
        (7, Decimal("7.00")),
        (0, -0.0),
        (Decimal("100"), Decimal("1E2")),
        (NOON, NOON.astimezone(timezone(timedelta(hours=14)))),
        ([1, 2], (1.0, 2.0)),
    ],
)
def test_equal_values_have_equal_pseudonyms(one: Any, other: Any) -> None:
    assert KEY.pseudonym("c", one) == KEY.pseudonym("c", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "A"), (7, 8), (0.1, 0.2), (NOON, NOON + timedelta(microseconds=1)), (["1", "2"], ["1,2"]), ([None], [])],
)
def test_other_values_have_other_pseudonyms(one: Any, other: Any) -> None:
    assert KEY.pseudonym("c", one) != KEY.pseudonym("c", other)


@given(st.text(), st.text())
def test_pseudonyms_are_equal_only_for_equal_texts_of_one_column(one: str, other: str) -> None:
    assert (KEY.pseudonym("c", one) == KEY.pseudonym("c", other)) == (one == other)
    assert KEY.pseudonym("c", one) != KEY.pseudonym("d", one)
    assert KEY.pseudonym("c", one) != OTHER_KEY.pseudonym("c", one)


def test_null_stays_null_and_a_pseudonym_names_its_key() -> None:
    assert KEY.pseudonyms("c", [None, float("nan")]) == [None, None]
    found = KEY.pseudonym("c", date(2026, 1, 1))
    assert (key_of_pseudonym(found), key_of_pseudonym("2026-01-01"), key_of_pseudonym(7)) == (KEY.id, None, None)
    assert KEY.id != OTHER_KEY.id
    assert bytes(32).hex() not in repr(KEY)


def test_feature_has_the_pseudonym_of_its_float32_value() -> None:
    stored = pl.Series("v__x", [0.1, None, 3.0], pl.Float32)
    recomputed = pl.Series("v__x", [0.1, None, 3.0], pl.Float64)
    assert KEY.of_feature(stored).equals(KEY.of_feature(recomputed))
    assert KEY.of_feature(stored).null_count() == 1
    assert KEY.of_feature(pl.Series("v__k", ["a", None])).null_count() == 1


def test_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "serving" / "pii.key"
    made = pseudonym_key(file, {})
    assert pseudonym_key(file, {}) == made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]
    file.chmod(0o640)
    with pytest.raises(PseudonymKeyError, match="found a file that others can read"):
        pseudonym_key(file, {})


def test_processes_that_need_a_key_at_once_get_the_same(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ml_platform.data.pseudonyms import pseudonym_key\n"
        "sys.stdin.read(1); print(pseudonym_key(Path(sys.argv[1]), {}).id)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "pii.key")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate("x", timeout=120)[0] for process in processes}) == 1


def test_key_of_the_environment_is_a_text_or_a_file(tmp_path: Path) -> None:
    text = "ab" * 32
    (tmp_path / "key").write_text(f"{text}\n")
    home_key = tmp_path / "pii.key"
    assert pseudonym_key(home_key, {PII_KEY_VARIABLE: text}).secret.hex() == text
    assert pseudonym_key(home_key, {PII_KEY_VARIABLE: str(tmp_path / "key")}).secret.hex() == text
    assert not home_key.exists()


@pytest.mark.parametrize("given_key", ["ab" * 31, "no such file", "x" * 5_000])
def test_wrong_key_is_refused_and_not_shown(given_key: str) -> None:
    with pytest.raises(PseudonymKeyError, match="expected 64 hexadecimal digits") as raised:
        pseudonym_key(None, {PII_KEY_VARIABLE: given_key})
    assert given_key not in str(raised.value)


def test_file_with_another_text_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2")
    with pytest.raises(PseudonymKeyError, match="7 other characters") as raised:
        pseudonym_key(None, {PII_KEY_VARIABLE: str(tmp_path / "key")})
    assert "hunter2" not in str(raised.value)
