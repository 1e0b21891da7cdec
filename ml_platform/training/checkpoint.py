"""Checkpoints of a fit, from which a killed fit resumes.

A checkpoint is complete or absent. It belongs to one set of rows and settings. An older checkpoint is removed only
after a newer one is complete.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.data.atomic import publish_directory, write_json
from ml_platform.data.canonical import value_digest
from ml_platform.training.trainer import Matrix

FORMAT = "ml_platform.checkpoint/1"
STATE_FILE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A point from which a fit resumes: the stored ``state``, and the folder with the trainer's files."""

    step: int
    state: dict[str, Any]
    folder: Path


class Checkpoints:
    """Checkpoints of one fit in ``folder``. Those with another ``fingerprint`` are ignored, and removed by a write."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def latest(self) -> Checkpoint | None:
        """Return the latest checkpoint of this fit, or None."""
        checkpoints = [each for each in map(self._read, self._folders()) if each is not None]
        return max(checkpoints, key=lambda each: each.step, default=None)

    def write(self, step: int, state: Mapping[str, Any], save: Callable[[Path], None]) -> None:
        """Store ``state`` and the files that ``save`` writes into the given folder; then remove older checkpoints."""
        staged = self.folder / f".staged-{step:08d}"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        save(staged)
        write_json(
            staged / STATE_FILE,
            {"format": FORMAT, "fingerprint": self.fingerprint, "step": step, "state": dict(state)},
        )
        target = self.folder / f"step-{step:08d}"
        publish_directory(staged, target)
        for old in self._folders():
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _read(self, folder: Path) -> Checkpoint | None:
        state = folder / STATE_FILE
        if not state.is_file():
            return None
        stored = json.loads(state.read_text())
        if stored["format"] != FORMAT or stored["fingerprint"] != self.fingerprint:
            return None
        return Checkpoint(stored["step"], stored["state"], folder)


def fingerprint(parameters: Mapping[str, Any], *parts: Matrix | None) -> str:
    """Return the digest of ``parameters`` and of the names, categories and values of each part."""
    digest = hashlib.sha256(value_digest(parameters).encode())
    for part in parts:
        if part is None:
            digest.update(b"none")
            continue
        digest.update(repr((part.features.shape, tuple(part.names), sorted(part.categories.items()))).encode())
        digest.update(np.ascontiguousarray(part.features).view(np.uint8).data)
        digest.update(np.ascontiguousarray(part.label).view(np.uint8).data)
        for name, values in part.context.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values).view(np.uint8).data)
    return digest.hexdigest()
