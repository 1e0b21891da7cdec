"""Anchors of the audit log: its end as a small file outside the store, signed by a key where one is given.

Digests show that a record was changed. Only an anchor shows that the whole log was rewritten with valid digests.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.data.canonical import canonical_json
from ml_platform.registry.audit import AuditError, AuditHead, AuditLog

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ANCHOR_FILE = "audit_head.json"
SIGNATURE = "signature"


def anchor_of(audit: AuditLog, at: datetime, private_key: Path | None = None) -> dict[str, Any]:
    """Return the end of the log as JSON values: sequence, digest, at; with a key also its signature (hexadecimal).

    ``private_key`` is an ed25519 key in PEM. Raises :class:`~ml_platform.registry.audit.AuditError` for another file.
    """
    head = audit.head()
    anchor = {"sequence": head.sequence, "digest": head.digest, "at": at.isoformat()}
    if private_key is None:
        return anchor
    return {**anchor, SIGNATURE: _private_key(private_key).sign(canonical_json(anchor)).hex()}


def verify_anchor(audit: AuditLog, file: Path, public_key: Path | None = None) -> AuditHead:
    """Return the end of the log that ``file`` names, when the log still contains it.

    With ``public_key`` (ed25519, PEM) the file must have a valid signature. Raises
    :class:`~ml_platform.registry.audit.AuditError` for a file that cannot be read, a missing or wrong signature, and a
    log that was rewritten or shortened since.
    """
    stored = _read_anchor(file)
    if public_key is not None:
        _require_signature(file, stored, _public_key(public_key))
    anchor = AuditHead(int(stored["sequence"]), str(stored["digest"]))
    audit.require_anchor(anchor, str(file))
    return anchor


def released_anchors(repository: Path, folder: str = "releases") -> list[Path]:
    """Return the anchors that the releases in ``repository`` contain, sorted by model."""
    return sorted((repository / folder).glob(f"*/{ANCHOR_FILE}"))


def _read_anchor(file: Path) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = json.loads(file.read_bytes())
        int(stored["sequence"]), str(stored["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _anchor_error(file, "a readable anchor (JSON)", type(error).__name__) from error
    return stored


def _require_signature(file: Path, stored: Mapping[str, Any], key: "Ed25519PublicKey") -> None:
    from cryptography.exceptions import InvalidSignature

    content = {name: value for name, value in stored.items() if name != SIGNATURE}
    try:
        key.verify(bytes.fromhex(str(stored[SIGNATURE])), canonical_json(content))
    except KeyError as error:
        raise _anchor_error(file, "a signature", "none") from error
    except (InvalidSignature, ValueError) as error:
        raise _anchor_error(file, "a signature of this key", "another one") from error


def _private_key(file: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _anchor_error(file, "an ed25519 private key without a password, in PEM", str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _anchor_error(file, "an ed25519 private key", type(key).__name__)
    return key


def _public_key(file: Path) -> "Ed25519PublicKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError) as error:
        raise _anchor_error(file, "an ed25519 public key in PEM", str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _anchor_error(file, "an ed25519 public key", type(key).__name__)
    return key


def _anchor_error(file: Path, expected: str, found: str) -> AuditError:
    return AuditError(
        f"Anchor '{file}'",
        expected=expected,
        found=found,
        fix="Use the file and the keys of `ml-platform audit head --sign`; the log itself was not changed.",
    )
