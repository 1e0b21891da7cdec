"""Pseudonyms of values that identify a person: a keyed hash that is equal for equal values.

Logs store pseudonyms in place of such values, and a join finds equal ones. Only who has the key can compute the
pseudonym of a known value; an unkeyed hash of an e-mail address or an age could be found by trying all of them.
HMAC-SHA256 (Krawczyk, Bellare and Canetti, RFC 2104, 1997), of which 128 bits are kept.
"""

import hashlib
import hmac
import json
import math
import os
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.data.atomic import sync_directory
from ml_platform.data.instants import microseconds_of
from ml_platform.errors import PlatformError

PII_KEY_VARIABLE = "ML_PLATFORM_PII_KEY"
"""Environment variable with the key of the pseudonyms: 64 hexadecimal digits, or a file with them."""

PII_KEY_FILE_VARIABLE = "ML_PLATFORM_PII_KEY_FILE"
"""Environment variable by which a home names the file of its own key to its services."""

_KEY_BYTES = 32
_KEY = re.compile(r"[0-9a-fA-F]{64}")
_PSEUDONYM = re.compile(r"hmac:([0-9a-f]{8}):[A-Za-z0-9_-]{22}")


class PseudonymKeyError(PlatformError):
    """Raised when the key of the pseudonyms is absent or cannot be used."""


@dataclass(frozen=True)
class PseudonymKey:
    """A secret of 32 bytes; :attr:`id` names it without revealing it."""

    secret: bytes

    def __repr__(self) -> str:
        return f"PseudonymKey({self.id})"

    @cached_property
    def id(self) -> str:
        """Eight hexadecimal digits, which each pseudonym of the key contains."""
        return hmac.digest(self.secret, b"key id", hashlib.sha256).hex()[:8]

    def pseudonym(self, name: str, value: Any) -> str | None:
        """Return the pseudonym of ``value`` in the column ``name``, and null for null and NaN.

        Numbers of equal value have equal pseudonyms, whatever their type, and so have times of equal instants. The same
        value has other pseudonyms in other columns.

        >>> key = PseudonymKey(bytes(32))
        >>> key.pseudonym("age", 7) == key.pseudonym("age", 7.0), key.pseudonym("age", None)
        (True, None)
        """
        text = _canonical(value)
        if text is None:
            return None
        digest = hmac.digest(self.secret, f"{name}\0{text}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"hmac:{self.id}:{urlsafe_b64encode(digest[:16]).decode().rstrip('=')}"

    def pseudonyms(self, name: str, values: Iterable[Any]) -> list[str | None]:
        """Return the pseudonyms of ``values`` in the column ``name``."""
        return [self.pseudonym(name, value) for value in values]

    def of_feature(self, column: pl.Series) -> pl.Series:
        """Return the pseudonyms of a feature, named as ``column`` is; numbers count in the precision of models."""
        if column.dtype.is_numeric() or column.dtype == pl.Boolean:
            column = column.cast(pl.Float32)
        return pl.Series(column.name, self.pseudonyms(column.name, column.to_list()), pl.String)


def key_of_pseudonym(value: Any) -> str | None:
    """Return the id of the key of ``value``; None when it is no pseudonym."""
    match = _PSEUDONYM.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else match[1]


def pseudonym_key(file: Path | None, environment: Mapping[str, str]) -> PseudonymKey:
    """Return the key in ``$ML_PLATFORM_PII_KEY``, else the one in ``file``, which is made when there is none.

    Only its owner can read the new file. Raises :class:`PseudonymKeyError` for a text that is no key, a file that
    others can read, and when neither is given.
    """
    given = environment.get(PII_KEY_VARIABLE, "").strip()
    if given:
        return _parsed(given if _KEY.fullmatch(given) else _text_of(Path(given)), PII_KEY_VARIABLE)
    if file is None:
        raise _key_error("Key of pseudonyms", "none", f"Set {PII_KEY_VARIABLE} to 64 hexadecimal digits or their file.")
    if not file.exists():
        _make(file)
    if file.stat().st_mode & 0o077:
        raise _key_error(f"Key of pseudonyms {file.name}", "a file that others can read", "Run chmod 600 on it.")
    return _parsed(_text_of(file), file.name)


def _make(file: Path) -> None:
    """Write a new key to ``file`` unless another process did so; readers see the whole key or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(f"{secrets.token_hex(_KEY_BYTES)}\n")
            opened.flush()
            os.fsync(opened.fileno())
        # A rename would replace the key of a process that was faster.
        os.link(hidden, file)
    except FileExistsError:
        pass
    finally:
        hidden.unlink()
    sync_directory(file.parent)


def _text_of(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        found = f"a text of another form, and no readable file ({type(error).__name__})"
        raise _key_error("Key of pseudonyms", found, f"Correct or unset {PII_KEY_VARIABLE}.") from None


def _parsed(text: str, source: str) -> PseudonymKey:
    if not _KEY.fullmatch(text):
        # The text may be a secret.
        raise _key_error(f"Key of pseudonyms, {source}", f"{len(text)} other characters", "Correct it.")
    return PseudonymKey(bytes.fromhex(text))


def _key_error(subject: str, found: str, fix: str) -> PseudonymKeyError:
    return PseudonymKeyError(subject, expected=f"{2 * _KEY_BYTES} hexadecimal digits", found=found, fix=fix)


def _canonical(value: Any) -> str | None:
    """Return the text of ``value`` that is equal for equal values; None for null and NaN."""
    if value is None:
        return None
    if isinstance(value, bool | int):
        return str(int(value))
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, datetime):
        return str(microseconds_of(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value // timedelta(microseconds=1))
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    if isinstance(value, list | tuple):
        return json.dumps([_canonical(each) for each in value])
    return str(value)
