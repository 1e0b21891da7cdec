"""The manifest of a model version: all inputs that a rebuild needs, and the results to compare it with.

The manifest is stored with the model, in the model directory, the registry and the release folder.
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
"""Folders of a repository whose uncommitted changes make a training run dirty."""


class ManifestError(PlatformError):
    """Raised when a manifest is missing or cannot be read."""


class _ManifestPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CodeInfo(_ManifestPart):
    """The code of a training run."""

    commit: str | None = Field(description="Commit of the repository; None outside a repository.")
    dirty: bool = Field(description="Whether changed or new files differed from the commit.")
    sha256: str = Field(
        description="Digest of the code that determines the model, as it ran; before 0.3.0 of all code."
    )


class HardwareInfo(_ManifestPart):
    """The hardware of a training run."""

    machine: str = Field(description="Architecture and operating system.")
    cpu_count: int = Field(description="Logical cores of the machine.")
    device: str = Field(description="Where the model was fitted: 'cpu', or the name of the accelerator.")


class Manifest(_ManifestPart):
    """Inputs and results of a training run."""

    model: str = Field(description="Name of the model.")
    partition: str = Field(description="Partition of the candidate, which is its test window.")
    trainer: str = Field(description="Name of the trainer.")
    tables: dict[str, int] = Field(description="Version of each lake table that was read, by table.")
    training_set: str = Field(description="Content hash of the training set.")
    first_month: str | None = Field(
        default=None, description="First partition of the training set that was read; None: all, as before 0.3.0."
    )
    training_rows: int = Field(description="Number of rows of the training set.")
    code: CodeInfo = Field(description="Code of the run.")
    lock: str | None = Field(description="SHA-256 of requirements.lock; None without the file.")
    parameters: dict[str, Any] = Field(description="Settings of the trainer as declared.")
    fitted: dict[str, Any] | None = Field(
        default=None,
        description="Settings as fitted, with the result of a search; a rebuild does not search again.",
    )
    declared: dict[str, Any] | None = Field(
        default=None,
        description="Other declared settings that determine the model, such as its split; None before 0.3.0.",
    )
    threshold_rule: dict[str, Any] | None = Field(
        default=None, description="Declared rule for the decision threshold; None before 0.2.0 and for a regression."
    )
    seeds: dict[str, int] = Field(description="Seeds by their purpose.")
    hardware: HardwareInfo = Field(description="Hardware of the run.")
    libraries: dict[str, str] = Field(
        default_factory=dict, description="Versions of the libraries that the lock does not pin, such as torch."
    )
    parent: str | None = Field(
        default=None, description="Content digest of the champion at training time; None without a champion."
    )
    data_clock: str = Field(description="End of the latest window in the training set at training time, ISO 8601.")
    dagster_run_id: str = Field(description="Id of the Dagster run.")
    created_at: str = Field(description="Wall-clock time of the training, ISO 8601.")
    metrics: dict[str, float] = Field(
        default_factory=dict, description="Metrics on the test rows; on the validation rows with a prefix."
    )
    threshold: dict[str, Any] | None = Field(
        default=None,
        description="Chosen threshold, with the quality of its answers on the validation rows (shares of rows).",
    )
    predictions: str | None = Field(default=None, description="Digest of the predictions for the test rows.")

    def inputs_digest(self) -> str:
        """Return the digest of the inputs that determine the model: equal inputs need no new fit.

        The digest of the code counts, its commit does not. So a comment, or code that this model does not use, needs no
        new fit. Hardware, parent, times, run id and results do not count. Table versions do not count either: they rise
        with every window that lands, and the hash of the training set covers the rows that were read.
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
        # Without this field, a manifest of an earlier version has the digest that its registered version carries.
        declared = {} if self.declared is None else {"declared": self.declared}
        return value_digest({**inputs, **declared, "code": self.code.sha256})

    def digest(self) -> str:
        """Return the digest of the whole manifest."""
        return value_digest(self.model_dump())

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Return the manifest at ``path``; raises :class:`ManifestError` when it is missing or invalid."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ManifestError(
                f"Manifest '{path}'",
                expected="a complete manifest",
                found=str(error).splitlines()[0],
                fix="Train the model again: without its manifest it cannot be reproduced.",
            ) from error


def collect_code(repository: Path, digest: str, folders: tuple[str, ...] = CODE_FOLDERS) -> CodeInfo:
    """Return the code of a run: its commit and dirty flag in ``repository``, and its ``digest``.

    The run is dirty when ``folders`` contain uncommitted changes or new files, comments and declarations included.
    Outside a Git repository, or without Git, the commit is None and the code counts as dirty.
    """
    commit = _git(repository, "rev-parse", "HEAD")
    changes = _git(
        repository, "status", "--porcelain", "--", *(name for name in folders if (repository / name).exists())
    )
    return CodeInfo(commit=commit, dirty=commit is None or bool(changes), sha256=digest)


def collect_lock(repository: Path, name: str = "requirements.lock") -> str | None:
    """Return the SHA-256 of the lock file, or None without the file."""
    path = repository / name
    return file_digest(path) if path.exists() else None


def collect_libraries(names: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each library, or "absent" for a library that is not installed."""
    return {name: _installed_version(name) for name in names}


def _installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def collect_hardware(device: str = "cpu") -> HardwareInfo:
    """Return the hardware of this machine; ``device`` is the device of the fit."""
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
