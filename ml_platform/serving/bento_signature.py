"""Checks the signature of a bento before each start: every file is the one that the holder of a trusted key signed.

The signature is a bundle of the OpenSSF Model Signing specification (DSSE envelope of an in-toto statement), which
:mod:`ml_platform.serving.bento_signing` writes with the library `model-signing`. Only the check is here: it needs no
more than `cryptography`, because a start must not import the library.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.errors import PlatformError, listed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNATURE_FILE = "model.sig"
"""Name of the signature in the folder of a bento."""

TRUSTED_KEYS_VARIABLE = "ML_PLATFORM_TRUSTED_KEYS"
"""Environment variable with the folder of the public keys (PEM) whose signatures a service accepts."""

PACKAGE_FILE, SIGNED = "src/package.json", "signed"
"""File of a bento that says whether it was signed, and the name there. The digest in the folder's name covers it."""

BYTECODE = "__pycache__"
"""Folders that running a bento adds; a service removes them before it starts."""

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE, PREDICATE_TYPE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"


class ChangedBentoError(PlatformError):
    """Raised when the files of a bento are not those that were built, verified and signed."""


def require_signature(bento: Path, trusted: Path | None = None) -> str:
    """Return the id of the key that signed ``bento``, or "" for one of an earlier release, which is not signed.

    ``trusted`` is the folder of the public keys, by default the one in ``$ML_PLATFORM_TRUSTED_KEYS``. Raises
    :class:`ChangedBentoError` when the signature is absent, wrong or of another key, and when a file is changed, added
    or missing.
    """
    file = bento / SIGNATURE_FILE
    if not file.is_file() and not _is_signed(bento):
        return ""
    key, payload = _signed_payload(bento, file, trusted_keys(trusted))
    _require_files(bento, payload)
    return key


def trusted_keys(folder: Path | None = None) -> dict[str, "EllipticCurvePublicKey"]:
    """Return the public keys in ``folder`` by their id, the SHA-256 of their PEM text."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    named = os.environ.get(TRUSTED_KEYS_VARIABLE)
    folder = folder or (Path(named) if named else None)
    keys: dict[str, EllipticCurvePublicKey] = {}
    for path in sorted(folder.glob("*.pem")) if folder is not None else ():
        key: Any = load_pem_public_key(path.read_bytes())
        keys[key_id(key)] = key
    return keys


def key_id(public_key: "EllipticCurvePublicKey") -> str:
    """Return the id of ``public_key``, as a signature names it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def bento_files(bento: Path) -> dict[str, Path]:
    """Return the files of ``bento`` that a signature covers, by relative path: all but bytecode and the signature."""
    return dict(_files(bento))


def _files(bento: Path) -> Iterator[tuple[str, Path]]:
    for folder, names, files in os.walk(bento):
        here = Path(folder)
        # A link to a folder counts as a file, which no signature has.
        links = [name for name in names if (here / name).is_symlink()]
        names[:] = [name for name in names if name != BYTECODE and name not in links]
        for name in (*files, *links):
            relative = (here / name).relative_to(bento).as_posix()
            if relative != SIGNATURE_FILE:
                yield relative, here / name


def _is_signed(bento: Path) -> bool:
    file = bento / PACKAGE_FILE
    return file.is_file() and bool(json.loads(file.read_bytes()).get(SIGNED))


def _signed_payload(
    bento: Path, file: Path, keys: Mapping[str, "EllipticCurvePublicKey"]
) -> tuple[str, Mapping[str, Any]]:
    """Return the key and the statement of the signature in ``file``, after the check that a key of ``keys`` made it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

    if not file.is_file():
        raise _error(bento, f"a signature in {SIGNATURE_FILE}", "none")
    try:
        bundle = json.loads(file.read_bytes())
        key = str(bundle["verificationMaterial"]["publicKey"]["hint"])
        envelope = bundle["dsseEnvelope"]
        text = base64.b64decode(envelope["payload"])
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _error(bento, f"a readable signature in {SIGNATURE_FILE}", str(error)[:100]) from error
    if key not in keys:
        known = ", ".join(each[:12] for each in keys) or "no key"
        raise _error(
            bento,
            f"a signature of a trusted key ({known})",
            f"one of key {key[:12]}",
            "Copy the public key of who built it to the folder of trusted keys, or ",
        )
    try:
        algorithms = {256: SHA256(), 384: SHA384(), 521: SHA512()}
        keys[key].verify(signature, _authenticated(text), ECDSA(algorithms[keys[key].curve.key_size]))
        statement = json.loads(text)
    except (InvalidSignature, ValueError) as error:
        raise _error(bento, f"the signature of key {key[:12]}", "a signature of other content") from error
    kinds = (envelope.get("payloadType"), statement.get("_type"), statement.get("predicateType"))
    if kinds != (PAYLOAD_TYPE, STATEMENT_TYPE, PREDICATE_TYPE):
        raise _error(bento, "a statement about the files of a model", f"one of type {kinds[-1]}")
    return key, statement


def _authenticated(payload: bytes) -> bytes:
    """Return the bytes that are signed for ``payload``: the pre-authentication encoding of DSSE."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _require_files(bento: Path, statement: Mapping[str, Any]) -> None:
    signed = {each["name"]: (each["algorithm"], each["digest"]) for each in statement["predicate"]["resources"]}
    found = {name: ("sha256", _digest(path)) for name, path in _files(bento)}
    differing = {
        "changed": [name for name in signed if name in found and found[name] != signed[name]],
        "added": [name for name in found if name not in signed],
        "missing": [name for name in signed if name not in found],
    }
    problems = [f"{kind}: {listed(names, 3)}" for kind, names in differing.items() if names]
    if problems:
        raise _error(bento, "the files that were signed", "; ".join(problems))


def _digest(path: Path) -> str:
    return "" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()


def _error(bento: Path, expected: str, found: str, fix: str = "") -> ChangedBentoError:
    rest = "restore its folder from a backup, or materialize the model's bento: it is built, verified and signed again."
    return ChangedBentoError(
        f"Bento {bento.name}", expected=expected, found=found, fix=f"{fix}{rest if fix else rest.capitalize()}"
    )
