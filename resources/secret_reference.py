"""References to secrets: a settings file names where a password is, and never contains it."""

import os
from pathlib import Path

from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError


class SecretError(PlatformError):
    """Raised when a secret is not where its reference says."""


class SecretReference(Settings):
    """Where a secret is: exactly one of ``env``, ``file`` and ``vault``."""

    env: str = Field(default="", description="Environment variable with the secret.")
    file: str = Field(default="", description="File with the secret, such as /run/secrets/postgres.")
    vault: str = Field(
        default="",
        description="Secret of Vault's KV engine version 2 as mount/path#key. VAULT_ADDR and VAULT_TOKEN name the "
        "server and the token; the package hvac is required.",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_text(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(
                "a secret is given by reference: {env: NAME}, {file: PATH} or {vault: mount/path#key}, not as text"
            )
        return value

    @model_validator(mode="after")
    def _require_one(self) -> "SecretReference":
        if sum(map(bool, (self.env, self.file, self.vault))) != 1:
            raise ValueError("a secret needs exactly one of env, file and vault")
        return self

    def read(self, setting: str) -> str:
        """Return the secret of ``setting``; the end of line of a file is not part of it.

        Raises :class:`SecretError` when the variable is not set, the file cannot be read, or Vault does not give it.
        """
        if self.env:
            found = os.environ.get(self.env, "")
            if not found:
                raise SecretError(
                    f"Secret of {setting}",
                    expected=f"the environment variable {self.env}",
                    found="no value",
                    fix="Set the variable, or correct the reference.",
                )
            return found
        return self._of_file(setting) if self.file else self._of_vault(setting)

    def _of_file(self, setting: str) -> str:
        try:
            found = Path(self.file).read_text().rstrip("\r\n")
        except OSError as error:
            raise self._absent(setting, f"the file {self.file}", str(error.strerror)) from error
        if not found:
            raise self._absent(setting, f"the file {self.file}", "an empty file")
        return found

    def _of_vault(self, setting: str) -> str:
        expected = f"the secret {self.vault} of Vault"
        try:
            import hvac
        except ImportError as error:
            raise SecretError(
                f"Secret of {setting}",
                expected=expected,
                found="no package hvac",
                fix="Install it: pip install 'ml-platform[vault]'.",
            ) from error
        from requests.exceptions import RequestException

        path, _, key = self.vault.partition("#")
        mount, _, rest = path.partition("/")
        try:
            client = hvac.Client()  # the address and the token of the environment
            answer = client.secrets.kv.v2.read_secret_version(
                path=rest, mount_point=mount, raise_on_deleted_version=True
            )
        except (hvac.exceptions.VaultError, RequestException) as error:
            raise self._absent(setting, expected, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
        if key not in answer["data"]["data"]:
            raise self._absent(setting, expected, f"no key '{key}' at {path}")
        return str(answer["data"]["data"][key])

    def _absent(self, setting: str, expected: str, found: str) -> SecretError:
        return SecretError(
            f"Secret of {setting}", expected=expected, found=found, fix="Provide the secret, or correct the reference."
        )
