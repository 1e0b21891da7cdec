"""What a model version was made from, complete enough to make it again.

Apart because the manifest travels with the model: it lies in the model directory, the registry and the release folder.
"""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.canonical import file_digest, value_digest
from ml_platform.errors import PlatformError

MANIFEST_FILE = "manifest.json"
CODE_FOLDERS = ("ml_platform", "assets", "resources", "bento")
CODE_SUFFIXES = (".py", ".yaml", ".yml", ".toml")


class ManifestError(PlatformError):
    """Raised when a manifest is absent or cannot be read."""


class _ManifestPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CodeInfo(_ManifestPart):
    """Which code ran."""

    commit: str | None = Field(description="Commit of the repository, None where the code is not in one.")
    dirty: bool = Field(description="Whether tracked or new files differed from the commit.")
    sha256: str = Field(description="Digest of the code and declarations as they ran, whatever the commit says.")


class HardwareInfo(_ManifestPart):
    """On what it ran."""

    machine: str = Field(description="Architecture and operating system.")
    cpu_count: int = Field(description="Logical cores of the machine.")
    device: str = Field(description="Where the model was fitted: 'cpu', or the name of the accelerator.")


class Manifest(_ManifestPart):
    """Everything that a training run used, and what it measured."""

    model: str = Field(description="Name of the model.")
    partition: str = Field(description="Partition whose landing made this candidate.")
    trainer: str = Field(description="Name of the trainer.")
    tables: dict[str, int] = Field(description="Version of each lake table that was read.")
    training_set: str = Field(description="Content hash of the training set.")
    training_rows: int = Field(description="Rows of the training set.")
    code: CodeInfo = Field(description="Which code ran.")
    lock: str | None = Field(description="SHA-256 of requirements.lock, None where there is none.")
    parameters: dict[str, Any] = Field(description="Settings of the trainer as declared.")
    fitted: dict[str, Any] | None = Field(
        default=None,
        description="The same as fitted: what tuning found in its place, so that nothing is searched again.",
    )
    threshold_rule: dict[str, Any] | None = Field(
        default=None, description="Declared rule for the decision threshold, None before 0.2.0 and for a regression."
    )
    seeds: dict[str, int] = Field(description="Seeds by what they seed.")
    hardware: HardwareInfo = Field(description="On what it ran.")
    libraries: dict[str, str] = Field(
        default_factory=dict, description="Versions of what the trainer uses and the lock leaves open, such as torch."
    )
    parent: str | None = Field(default=None, description="Content digest of the champion when it was trained.")
    data_clock: str = Field(description="End of the newest month that had landed at training, ISO 8601.")
    dagster_run_id: str = Field(description="Dagster run that made it.")
    created_at: str = Field(description="Wall time of its making, ISO 8601.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Metrics on the test rows, at training.")
    threshold: dict[str, Any] | None = Field(
        default=None,
        description="The chosen threshold with the quality of its answers on the validation rows, as shares of rows.",
    )
    predictions: str | None = Field(default=None, description="Digest of the predictions of the test rows.")

    def inputs_digest(self) -> str:
        """Return the digest of all that decides the model: equal inputs make training again pointless.

        The commit does not count (its code's digest does), nor do hardware, parent, times, run id and results. Neither
        do the versions of the tables: they rise with every other month that lands, and the training set's hash says
        what of them was read.
        """
        inputs = self.model_dump(
            include={
                "model",
                "partition",
                "trainer",
                "training_set",
                "lock",
                "parameters",
                "threshold_rule",
                "libraries",
                "seeds",
            }
        )
        return value_digest({**inputs, "code": self.code.sha256})

    def digest(self) -> str:
        """Return the digest of the whole manifest."""
        return value_digest(self.model_dump())

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Return the manifest at ``path``; raises :class:`ManifestError` when it is absent or wrong."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ManifestError(
                f"Manifest '{path}'",
                expected="a complete manifest",
                found=str(error).splitlines()[0],
                fix="A model without its manifest cannot be reproduced: train it again.",
            ) from error


def collect_code(repository: Path, folders: tuple[str, ...] = CODE_FOLDERS) -> CodeInfo:
    """Return commit, dirty flag and digest of the code in ``folders`` of ``repository``.

    The digest covers Python and declarations, including files not yet committed. Outside a git repository, or without
    git, the commit is None and the code counts as dirty.
    """
    files = sorted(
        path
        for folder in folders
        for path in (repository / folder).rglob("*")
        if path.suffix in CODE_SUFFIXES and path.is_file()
    )
    digest = value_digest({path.relative_to(repository).as_posix(): file_digest(path) for path in files})
    commit = _git(repository, "rev-parse", "HEAD")
    changes = _git(
        repository, "status", "--porcelain", "--", *(name for name in folders if (repository / name).exists())
    )
    return CodeInfo(commit=commit, dirty=commit is None or bool(changes), sha256=digest)


def collect_lock(repository: Path, name: str = "requirements.lock") -> str | None:
    """Return the SHA-256 of the lock file, or None where there is none."""
    path = repository / name
    return file_digest(path) if path.exists() else None


def collect_libraries(names: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each library, "absent" for one that is not installed."""
    return {name: _installed_version(name) for name in names}


def _installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def collect_hardware(device: str = "cpu") -> HardwareInfo:
    """Return what this machine is; ``device`` is named by whoever fitted."""
    return HardwareInfo(
        machine=f"{platform.machine()} {platform.system()}", cpu_count=os.cpu_count() or 1, device=device
    )


def _git(repository: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(repository), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
