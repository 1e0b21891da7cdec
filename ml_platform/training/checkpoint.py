"""Where a fit stands, kept so that a killed one goes on: the newest whole checkpoint of the same work, or none.

Apart because both trainers need the same three promises: a checkpoint is whole or absent, it belongs to these rows and
settings and to no others, and an old one is removed only when a newer one stands.
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
    """A point to go on from: ``state`` as it was written, and the folder with the trainer's files."""

    step: int
    state: dict[str, Any]
    folder: Path


class Checkpoints:
    """The checkpoints of one fit in ``folder``; those of another ``fingerprint`` are not seen and cleared away."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint of this fit, None where there is none."""
        checkpoints = [each for each in map(self._read, self._folders()) if each is not None]
        return max(checkpoints, key=lambda each: each.step, default=None)

    def write(self, step: int, state: Mapping[str, Any], save: Callable[[Path], None]) -> None:
        """Keep ``state`` and the files that ``save`` writes into the folder it is given; then drop older ones."""
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
    """Return the digest of ``parameters`` and of the bytes of each part: another row, another fit."""
    digest = hashlib.sha256(value_digest(parameters).encode())
    for part in parts:
        if part is None:
            digest.update(b"none")
            continue
        digest.update(repr((part.features.shape, tuple(part.names), sorted(part.categories.items()))).encode())
        digest.update(np.ascontiguousarray(part.features).view(np.uint8).data)
        digest.update(np.ascontiguousarray(part.label).view(np.uint8).data)
    return digest.hexdigest()
