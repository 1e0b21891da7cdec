"""Stores the desired state of each model: which versions should serve it, in one small file.

A change is a compare-and-swap. The reconciler reads the files and makes the running services match them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Self

from filelock import FileLock
from pydantic import ConfigDict, Field, model_validator

from ml_platform.data.atomic import write_json
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError

DESIRED_STATE_FILE = "desired_state.json"
LOCK_SECONDS = 10.0


class GenerationConflictError(PlatformError):
    """Raised when another change replaced the desired state after the caller read it."""


class ServedVersion(Settings):
    """A model version and the bento that serves it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1, description="Version of the model.")
    bento: str = Field(min_length=1, description="Folder of the bento that serves it.")


class DesiredState(Settings):
    """Versions that should serve one model. Weights are percent of requests; without a version they are empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stable: ServedVersion | None = Field(default=None, description="Version that receives most requests.")
    candidate: ServedVersion | None = Field(default=None, description="Version that is being rolled out.")
    weights: dict[str, int] = Field(default_factory=dict, description="Percent of requests: stable, candidate.")
    shadow: ServedVersion | None = Field(
        default=None, description="Version that receives a copy of each request; its responses are dropped."
    )
    generation: int = Field(
        default=0, ge=0, description="Number of changes so far; a change names the generation it replaces."
    )

    @model_validator(mode="after")
    def _weights_add_up(self) -> Self:
        versions = {"stable": self.stable, "candidate": self.candidate}
        for role, weight in self.weights.items():
            if role not in versions or weight < 0:
                raise ValueError(f"weights: expected a percentage of stable or candidate, found {role} {weight}")
            if weight and versions[role] is None:
                raise ValueError(f"weights: {weight} % for {role}, but there is no {role} version")
        serving = self.stable or self.candidate
        if sum(self.weights.values()) != (100 if serving else 0):
            raise ValueError(f"weights add up to {sum(self.weights.values())}, not {100 if serving else 0}")
        if self.shadow is not None and self.stable is None:
            raise ValueError("shadow: there is no stable version whose requests it can receive")
        return self

    @property
    def served_versions(self) -> list[ServedVersion]:
        """Versions that must run, each once."""
        versions = [each for each in (self.stable, self.candidate, self.shadow) if each is not None]
        return list(dict.fromkeys(versions))


def read_desired_state(folder: Path) -> DesiredState:
    """Return the desired state in the serving folder ``folder`` of a model, or an empty one (generation 0)."""
    path = folder / DESIRED_STATE_FILE
    if not path.exists():
        return DesiredState()
    return DesiredState.model_validate(json.loads(path.read_text()))


def swap_desired_state(folder: Path, state: DesiredState, expected_generation: int) -> DesiredState:
    """Replace the desired state by ``state`` if its generation is still ``expected_generation``.

    Returns the stored state, whose generation is ``expected_generation`` + 1 whatever ``state`` says. Raises
    :class:`GenerationConflictError` when another change came first; the caller then reads the state and decides again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{DESIRED_STATE_FILE}.lock", timeout=LOCK_SECONDS):
        current = read_desired_state(folder)
        if current.generation != expected_generation:
            raise GenerationConflictError(
                f"Desired state of '{folder.name}'",
                expected=f"generation {expected_generation}",
                found=f"generation {current.generation}",
                fix="Read the state and decide again: another change replaced it.",
            )
        stored = state.model_copy(update={"generation": expected_generation + 1})
        write_json(folder / DESIRED_STATE_FILE, stored.model_dump())
    return stored


def change_desired_state(folder: Path, change: Callable[[DesiredState], DesiredState]) -> DesiredState:
    """Replace the desired state by the result of ``change`` and return the stored state.

    An unchanged state keeps its generation. When another change comes between, ``change`` is called again with the
    state that is stored then.
    """
    while True:
        current = read_desired_state(folder)
        changed = change(current)
        if changed == current:
            return current
        try:
            return swap_desired_state(folder, changed, current.generation)
        except GenerationConflictError:
            continue


def with_stable(current: DesiredState, new_stable: ServedVersion) -> DesiredState:
    """Return ``current`` with ``new_stable`` as the stable version.

    A candidate or shadow of the same version ends, and its weight goes to stable. A candidate or shadow of another
    version continues, because a new stable version is no reason to end a rollout. Without a previous stable version,
    all requests go to ``new_stable``.
    """
    keeps_candidate = current.candidate is not None and current.candidate.version != new_stable.version
    keeps_shadow = current.shadow is not None and current.shadow.version != new_stable.version
    return DesiredState(
        stable=new_stable,
        candidate=current.candidate if keeps_candidate else None,
        weights=current.weights if keeps_candidate and current.stable is not None else {"stable": 100},
        shadow=current.shadow if keeps_shadow else None,
        generation=current.generation,
    )


def all_desired_states(serving_root: Path) -> dict[str, DesiredState]:
    """Return the desired state of each model that has one, by the name of the model."""
    return {
        path.parent.name: read_desired_state(path.parent)
        for path in sorted(serving_root.glob(f"*/{DESIRED_STATE_FILE}"))
    }
