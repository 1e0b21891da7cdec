"""SHA-256 digests of values (by canonical JSON), files (by bytes) and folders (by names and bytes).

Verdicts, manifests, approvals and model versions compare digests that different packages compute, so all use these.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Return ``value`` as JSON with sorted keys and no spaces; NaN and infinity raise ``ValueError``.

    >>> canonical_json({"b": 1.5, "a": None})
    b'{"a":null,"b":1.5}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def value_digest(value: Any) -> str:
    """Return the hexadecimal SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the bytes of ``path``, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_digest(root: Path, leave_out: Iterable[str] = ()) -> str:
    """Return the digest of the relative paths and bytes of all files under ``root``, except those in ``leave_out``.

    Times, permissions and empty folders do not count, so a copy through an object store has the same digest.
    """
    skipped = set(leave_out)
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return value_digest({name: file_digest(path) for name, path in files.items() if name not in skipped})
