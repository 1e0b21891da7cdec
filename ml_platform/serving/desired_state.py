"""What should serve: one small file per model, changed by compare-and-swap; others make the world match it."""

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
    """Raised when someone else changed the desired state since it was read."""


class ServedVersion(Settings):
    """A version that serves: its bento."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1, description="Version of the model.")
    bento: str = Field(min_length=1, description="Folder of the bento that serves it.")


class DesiredState(Settings):
    """What should serve one model. Weights are percent of the requests and add up to 100 when anything serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stable: ServedVersion | None = Field(default=None, description="Version that most requests go to.")
    candidate: ServedVersion | None = Field(default=None, description="Version that is being rolled out.")
    weights: dict[str, int] = Field(default_factory=dict, description="Percent of requests: stable, candidate.")
    shadow: ServedVersion | None = Field(
        default=None, description="Version that sees a copy of each request, unanswered."
    )
    generation: int = Field(default=0, ge=0, description="Counts changes; a change names the one it was made on.")

    @model_validator(mode="after")
    def _weights_add_up(self) -> Self:
        versions = {"stable": self.stable, "candidate": self.candidate}
        for role, weight in self.weights.items():
            if role not in versions or weight < 0:
                raise ValueError(f"weights: {role} {weight}; they are percent of stable and candidate")
            if weight and versions[role] is None:
                raise ValueError(f"weights: {weight} % for {role}, and there is no {role}")
        serving = self.stable or self.candidate
        if sum(self.weights.values()) != (100 if serving else 0):
            raise ValueError(f"weights add up to {sum(self.weights.values())}, not {100 if serving else 0}")
        if self.shadow is not None and self.stable is None:
            raise ValueError("shadow: there is no stable version whose requests could be copied")
        return self

    @property
    def served_versions(self) -> list[ServedVersion]:
        """The versions that must run, each once."""
        versions = [each for each in (self.stable, self.candidate, self.shadow) if each is not None]
        return list(dict.fromkeys(versions))


def read_desired_state(folder: Path) -> DesiredState:
    """Return the desired state of the model with serving folder ``folder``; an empty one (generation 0) by default."""
    path = folder / DESIRED_STATE_FILE
    if not path.exists():
        return DesiredState()
    return DesiredState.model_validate(json.loads(path.read_text()))


def swap_desired_state(folder: Path, state: DesiredState, expected_generation: int) -> DesiredState:
    """Replace the desired state by ``state`` if its generation is still ``expected_generation``; return the new one.

    The generation of the new state is one more, whatever ``state`` says. Raises
    :class:`GenerationConflictError` when another change came first: read again, decide again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{DESIRED_STATE_FILE}.lock", timeout=LOCK_SECONDS):
        current = read_desired_state(folder)
        if current.generation != expected_generation:
            raise GenerationConflictError(
                f"Desired state of '{folder.name}'",
                expected=f"generation {expected_generation}",
                found=f"generation {current.generation}",
                fix="Someone changed it meanwhile: read it again and decide again.",
            )
        stored = state.model_copy(update={"generation": expected_generation + 1})
        write_json(folder / DESIRED_STATE_FILE, stored.model_dump())
    return stored


def change_desired_state(folder: Path, change: Callable[[DesiredState], DesiredState]) -> DesiredState:
    """Replace the desired state by what ``change`` makes of it and return what stands now; no change, no generation.

    ``change`` is called again when another change came between, so it decides on what really stands.
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

    A candidate or shadow of the same version has reached its goal and ends; its weight goes to stable. Those of other
    versions go on as they are: who serves the rest of the requests is no reason to end a rollout under way. Where
    nothing was stable before, all requests go to ``new_stable``.
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
    """Return the desired state of each model that has one, by name."""
    return {
        path.parent.name: read_desired_state(path.parent)
        for path in sorted(serving_root.glob(f"*/{DESIRED_STATE_FILE}"))
    }
