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

WANTED_FILE = "wanted.json"
LOCK_SECONDS = 10.0


class GenerationMoved(PlatformError):  # noqa: N818
    """Raised when someone else changed the wanted state since it was read."""


class Release(Settings):
    """A version that serves: its bento."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1, description="Version of the model.")
    bento: str = Field(min_length=1, description="Folder of the bento that serves it.")


class WantedState(Settings):
    """What should serve one model. Weights are percent of the requests and add up to 100 when anything serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stable: Release | None = Field(default=None, description="Version that most requests go to.")
    candidate: Release | None = Field(default=None, description="Version that is being rolled out.")
    weights: dict[str, int] = Field(default_factory=dict, description="Percent of requests: stable, candidate.")
    shadow: Release | None = Field(default=None, description="Version that sees a copy of each request, unanswered.")
    generation: int = Field(default=0, ge=0, description="Counts changes; a change names the one it was made on.")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        released = {"stable": self.stable, "candidate": self.candidate}
        for role, weight in self.weights.items():
            if role not in released or weight < 0:
                raise ValueError(f"weights: {role} {weight}; they are percent of stable and candidate")
            if weight and released[role] is None:
                raise ValueError(f"weights: {weight} % for {role}, and there is no {role}")
        serves = self.stable or self.candidate
        if sum(self.weights.values()) != (100 if serves else 0):
            raise ValueError(f"weights add up to {sum(self.weights.values())}, not {100 if serves else 0}")
        if self.shadow is not None and self.stable is None:
            raise ValueError("shadow: there is no stable version whose requests could be copied")
        return self

    @property
    def releases(self) -> list[Release]:
        """The versions that must run, each once."""
        found = [each for each in (self.stable, self.candidate, self.shadow) if each is not None]
        return list(dict.fromkeys(found))


def read_wanted(folder: Path) -> WantedState:
    """Return the wanted state of the model whose serving folder is ``folder``; nothing at generation 0 when none is."""
    path = folder / WANTED_FILE
    if not path.exists():
        return WantedState()
    return WantedState.model_validate(json.loads(path.read_text()))


def swap_wanted(folder: Path, state: WantedState, expected_generation: int) -> WantedState:
    """Replace the wanted state by ``state`` if its generation is still ``expected_generation``; return what stands now.

    The generation of the new state is one more, whatever ``state`` says. Raises :class:`GenerationMoved` when another
    change came first: read again, decide again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{WANTED_FILE}.lock", timeout=LOCK_SECONDS):
        standing = read_wanted(folder)
        if standing.generation != expected_generation:
            raise GenerationMoved(
                f"Wanted state of '{folder.name}'",
                expected=f"generation {expected_generation}",
                found=f"generation {standing.generation}",
                mend="Someone changed it meanwhile: read it again and decide again.",
            )
        stored = state.model_copy(update={"generation": expected_generation + 1})
        write_json(folder / WANTED_FILE, stored.model_dump())
    return stored


def change_wanted(folder: Path, change: Callable[[WantedState], WantedState]) -> WantedState:
    """Replace the wanted state by what ``change`` makes of it and return what stands now; no change, no generation.

    ``change`` is called again when another change came between, so it decides on what really stands.
    """
    while True:
        standing = read_wanted(folder)
        changed = change(standing)
        if changed == standing:
            return standing
        try:
            return swap_wanted(folder, changed, standing.generation)
        except GenerationMoved:
            continue


def with_stable(standing: WantedState, release: Release) -> WantedState:
    """Return ``standing`` with ``release`` as the stable version.

    A candidate or shadow of the same version has reached its goal and ends; its weight goes to stable. Those of other
    versions go on as they are: who serves the rest of the requests is no reason to end a rollout under way. Where
    nothing was stable before, all requests go to ``release``.
    """
    goes_on = standing.candidate is not None and standing.candidate.version != release.version
    watches_on = standing.shadow is not None and standing.shadow.version != release.version
    return WantedState(
        stable=release,
        candidate=standing.candidate if goes_on else None,
        weights=standing.weights if goes_on and standing.stable is not None else {"stable": 100},
        shadow=standing.shadow if watches_on else None,
        generation=standing.generation,
    )


def all_wanted(serving_root: Path) -> dict[str, WantedState]:
    """Return the wanted state of each model that has one, by name."""
    return {path.parent.name: read_wanted(path.parent) for path in sorted(serving_root.glob(f"*/{WANTED_FILE}"))}
