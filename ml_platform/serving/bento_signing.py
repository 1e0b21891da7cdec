"""Signs bentos with the library `model-signing`, and verifies all their files with it.

The private key is in the environment, or a file of the home that is made on first use. The home keeps the public key of
each key that signed, so that bentos stay verifiable after the key was changed, and after the home was moved.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ml_platform.data.atomic import write_bytes
from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import PlatformError
from ml_platform.serving.bento_signature import (
    SIGNATURE_FILE,
    ChangedBentoError,
    bento_files,
    key_id,
    require_signature,
)

SIGNING_KEY_VARIABLE = "ML_PLATFORM_SIGNING_KEY"
"""Environment variable with the private key that signs: its file, or its text (PEM, an elliptic curve)."""

PRIVATE_KEY, TRUSTED = "signing_key.pem", "trusted"
"""File and folder below the folder of the keys."""

LOCK_FILE = ".keys.lock"


class SigningKeyError(PlatformError):
    """Raised when the private key cannot be used, or `model-signing` is not installed."""


@dataclass(frozen=True)
class SigningKeys:
    """The keys in ``folder``: the private one, and the public ones whose signatures are trusted."""

    folder: Path

    @property
    def private(self) -> Path:
        return self.folder / PRIVATE_KEY

    @property
    def trusted(self) -> Path:
        return self.folder / TRUSTED

    def sign(self, bento: Path) -> str:
        """Sign all files of ``bento``, verify the result, and return the id of the key.

        The key is made when there is none. Raises :class:`SigningKeyError` for a key that cannot sign.
        """
        signing = _library("signing")
        with self._private_key() as key:
            try:
                config = signing.Config().use_elliptic_key_signer(private_key=key)
            except (ValueError, TypeError) as error:
                raise _key_error(str(error)) from error
            (bento / SIGNATURE_FILE).unlink(missing_ok=True)
            config.set_hashing_config(_hashing_config(bento)).sign(bento, bento / SIGNATURE_FILE)
            self._trust(key)
        return require_signature(bento, self.trusted)

    def verify(self, bento: Path) -> str:
        """Verify ``bento`` as a service does before its start, then with `model-signing`; return the id of the key.

        The id is empty for a bento of an earlier release, which is not signed. Raises :class:`ChangedBentoError`.
        """
        key = require_signature(bento, self.trusted)
        if not key:
            return ""
        verifying, config = _library("verifying"), _hashing_config(bento)
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=self._public_file(key))
        try:
            verifier.set_hashing_config(config).verify(bento, bento / SIGNATURE_FILE)
        except Exception as error:
            raise ChangedBentoError(
                f"Bento {bento.name}",
                expected="a signature that model-signing verifies",
                found=f"{type(error).__name__}: {error}"[:200],
                fix="Materialize the model's bento: it is built, verified and signed again.",
            ) from error
        return key

    def _public_file(self, key: str) -> Path:
        return self.trusted / f"{key[:16]}.pem"

    @contextmanager
    def _private_key(self) -> Iterator[Path]:
        """Yield the file of the private key; a text in the environment is in a private file meanwhile."""
        given = os.environ.get(SIGNING_KEY_VARIABLE, "").strip()
        if given.startswith("-----BEGIN"):
            with scratch_folder("signing-key") as folder:
                write_bytes(folder / PRIVATE_KEY, given.encode(), mode=0o600)
                yield folder / PRIVATE_KEY
            return
        if given:
            if not Path(given).is_file():
                raise _key_error(f"no file {given}")
            yield Path(given)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK_FILE):
            if not self.private.exists():
                write_bytes(self.private, _new_key(), mode=0o600)
        yield self.private

    def _trust(self, private_key: Path) -> None:
        """Keep the public key of ``private_key`` among the trusted ones."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

        key: Any = load_pem_private_key(private_key.read_bytes(), None)
        public = key.public_key()
        file = self._public_file(key_id(public))
        if not file.exists():
            self.trusted.mkdir(parents=True, exist_ok=True)
            write_bytes(file, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _new_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _hashing_config(bento: Path) -> Any:
    """Return the settings by which the library covers :func:`bento_files`: the signature and bytecode are ignored."""
    covered = bento_files(bento)
    files = [path.relative_to(bento) for path in bento.rglob("*") if path.is_file()]
    ignored = [*(path for path in files if path.as_posix() not in covered), Path(SIGNATURE_FILE)]
    return _library("hashing").Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _library(module: str) -> Any:
    """Return a module of `model-signing`, whose import takes a third of a second."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{module}")
    except ModuleNotFoundError as error:
        raise SigningKeyError(
            "Signing of bentos", expected="the library model-signing", found=str(error), fix="Run make install."
        ) from error


def _key_error(found: str) -> SigningKeyError:
    return SigningKeyError(
        "Private key for bentos",
        expected="a key of an elliptic curve (PEM, without a password), such as 'openssl ecparam -name prime256v1 "
        "-genkey -noout' prints",
        found=found[:200],
        fix=f"Correct or unset {SIGNING_KEY_VARIABLE}; without it, the home makes a key of its own.",
    )
