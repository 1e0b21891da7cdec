"""Stores the desired state of each model: which versions should serve it, one row of the state store for each model.

A change is a compare-and-swap. The reconciler reads the rows and makes the running services match them.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

import sqlalchemy as sa
from pydantic import ConfigDict, Field, field_validator, model_validator
from sqlalchemy.dialects import postgresql, sqlite

from ml_platform.data.canonical import canonical_json
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError
from ml_platform.state.schema import desired_states
from ml_platform.state.store import StateStore, now_text

logger = logging.getLogger(__name__)

DESIRED_STATE_FILE = "desired_state.json"
"""File with the desired state of a model in the homes of the releases up to 0.1.0."""


ROLES = ("stable", "candidate", "shadow")


class GenerationConflictError(PlatformError):
    """Raised when another change replaced the desired state after the caller read it."""


class DesiredStateError(PlatformError):
    """Raised when the stored desired state of a model cannot be read."""


class ServedVersion(Settings):
    """A model version and the bento that serves it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1, description="Version of the model.")
    bento: str = Field(min_length=1, description="Folder of the bento that serves it, relative to the root of bentos.")

    @field_validator("bento")
    @classmethod
    def _is_relative(cls, bento: str) -> str:
        # A home that was moved or restored elsewhere must not serve the files of the original.
        if PurePosixPath(bento).is_absolute() or ".." in PurePosixPath(bento).parts:
            raise ValueError(f"bento: expected a folder below the root of bentos, found '{bento}'")
        return bento


class DesiredState(Settings):
    """Versions that should serve one model. Weights are percent of requests; without a version they are empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stable: ServedVersion | None = Field(default=None, description="Version that receives most requests.")
    candidate: ServedVersion | None = Field(default=None, description="Version that is being rolled out.")
    weights: dict[str, int] = Field(default_factory=dict, description="Percent of requests: stable, candidate.")
    shadow: ServedVersion | None = Field(
        default=None, description="Version that receives a copy of each request; its responses are dropped."
    )
    previous: ServedVersion | None = Field(
        default=None, description="Version that was stable before; it runs without requests, ready for a rollback."
    )
    previous_until: int | None = Field(
        default=None, description="Time until which it runs (seconds since 1970); None without a previous version."
    )
    sticky_by: str | None = Field(
        default=None, description="Request header whose value decides between stable and candidate; None: chance."
    )
    successor: str | None = Field(
        default=None, description="New name of the model, after a rename; the answers at the old path are deprecated."
    )
    deprecated_since: int | None = Field(
        default=None, description="Time of that rename (seconds since 1970); None without a successor."
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
        """Versions that receive requests, each once."""
        versions = [each for each in (self.stable, self.candidate, self.shadow) if each is not None]
        return list(dict.fromkeys(versions))

    @property
    def needed_versions(self) -> list[ServedVersion]:
        """Versions whose bentos are needed: those that receive requests, and the previous one."""
        return list(dict.fromkeys([*self.served_versions, *([self.previous] if self.previous else [])]))

    def without_ended_previous(self, now: float) -> "DesiredState":
        """Return this state without its previous version if that must not run at ``now`` (seconds since 1970)."""
        if self.previous is None or (self.previous_until is not None and now < self.previous_until):
            return self
        return self.model_copy(update={"previous": None, "previous_until": None})


@dataclass(frozen=True)
class DesiredStates:
    """The desired state of each model that has one, by the name of the model.

    ``unreadable`` has the error of each model whose stored state cannot be read; ``readable`` has all others.
    """

    readable: Mapping[str, DesiredState]
    unreadable: Mapping[str, DesiredStateError]


def read_desired_state(state: StateStore, model: str) -> DesiredState:
    """Return the desired state of ``model``, or an empty one (generation 0).

    Raises :class:`DesiredStateError` when the stored state cannot be read.
    """
    with state.read() as connection:
        row = connection.execute(sa.select(desired_states).where(desired_states.c.model == model)).one_or_none()
    return DesiredState() if row is None else _parsed(model, row.state, row.generation)


def all_desired_states(state: StateStore) -> DesiredStates:
    """Return the desired states of all models; one query. An unreadable state does not hide the others."""
    with state.read() as connection:
        rows = connection.execute(sa.select(desired_states).order_by(desired_states.c.model)).all()
    readable, unreadable = {}, {}
    for row in rows:
        try:
            readable[row.model] = _parsed(row.model, row.state, row.generation)
        except DesiredStateError as error:
            unreadable[row.model] = error
    return DesiredStates(readable, unreadable)


def desired_generation(state: StateStore, model: str) -> int:
    """Return the generation of the desired state of ``model``, also of an unreadable one; 0 before the first."""
    with state.read() as connection:
        query = sa.select(desired_states.c.generation).where(desired_states.c.model == model)
        return int(connection.scalar(query) or 0)


def swap_desired_state(state: StateStore, model: str, desired: DesiredState, expected_generation: int) -> DesiredState:
    """Replace the desired state of ``model`` by ``desired`` if its generation is still ``expected_generation``.

    Returns the stored state, whose generation is ``expected_generation`` + 1 whatever ``desired`` says. Raises
    :class:`GenerationConflictError` when another change came first; the caller then reads the state and decides again.
    """
    stored = desired.model_copy(update={"generation": expected_generation + 1})
    values = {
        "generation": stored.generation,
        "state": canonical_json(stored.model_dump()).decode(),
        "changed_at": now_text(),
    }
    with state.write() as connection:
        same = (desired_states.c.model == model) & (desired_states.c.generation == expected_generation)
        swapped = connection.execute(desired_states.update().where(same).values(values)).rowcount == 1
        if not swapped and expected_generation == 0:
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(desired_states)
            first = insert.values(model=model, **values).on_conflict_do_nothing()
            swapped = connection.scalar(first.returning(desired_states.c.model)) is not None
        if not swapped:
            raise GenerationConflictError(
                f"Desired state of '{model}'",
                expected=f"generation {expected_generation}",
                found=f"generation {desired_generation(state, model)}",
                fix="Read the state and decide again: another change replaced it.",
            )
    return stored


def change_desired_state(
    state: StateStore,
    model: str,
    change: Callable[[DesiredState], DesiredState],
    *,
    replace_unreadable: bool = False,
) -> DesiredState:
    """Replace the desired state of ``model`` by the result of ``change`` and return the stored state.

    An unchanged state keeps its generation. When another change comes between, ``change`` is called again with the
    state that is stored then. With ``replace_unreadable``, a state that cannot be read is logged and counts as empty;
    otherwise it raises :class:`DesiredStateError`.
    """
    while True:
        unreadable = False
        try:
            current = read_desired_state(state, model)
        except DesiredStateError as error:
            if not replace_unreadable:
                raise
            logger.warning("Replacing an unreadable state. %s", error)
            current, unreadable = DesiredState(generation=desired_generation(state, model)), True
        changed = change(current)
        if changed == current and not unreadable:
            return current
        try:
            return swap_desired_state(state, model, changed, current.generation)
        except GenerationConflictError:
            continue


def with_stable(
    current: DesiredState, new_stable: ServedVersion, *, keep_previous_until: int | None = None
) -> DesiredState:
    """Return ``current`` with ``new_stable`` as the stable version.

    The version that was stable before runs on until ``keep_previous_until`` (seconds since 1970), ready for a rollback.

    A candidate or shadow of the same version ends, and its weight goes to stable. A candidate or shadow of another
    version continues, because a new stable version is no reason to end a rollout. Without a previous stable version,
    all requests go to ``new_stable``.
    """
    keeps_candidate = current.candidate is not None and current.candidate.version != new_stable.version
    keeps_shadow = current.shadow is not None and current.shadow.version != new_stable.version
    previous, until = current.previous, current.previous_until
    if current.stable != new_stable:
        previous, until = (current.stable, keep_previous_until) if keep_previous_until else (None, None)
    return DesiredState(
        stable=new_stable,
        previous=previous,
        previous_until=until if previous else None,
        candidate=current.candidate if keeps_candidate else None,
        weights=current.weights if keeps_candidate and current.stable is not None else {"stable": 100},
        shadow=current.shadow if keeps_shadow else None,
        successor=current.successor,
        deprecated_since=current.deprecated_since,
        generation=current.generation,
    )


def import_desired_states(state: StateStore, serving_folder: Path, bentos_root: Path) -> dict[str, int]:
    """Store the desired-state files of the releases up to 0.1.0; return the generation of each added model.

    These files contain absolute paths of bentos. A path outside ``bentos_root`` belongs to the place of the home before
    it was moved, so its last three parts (store, model and bento) are kept. A file that cannot be read is stored as it
    is: the reconciler names it. A repeated import adds nothing.
    """
    added = {}
    for file in sorted(serving_folder.glob(f"*/{DESIRED_STATE_FILE}")):
        model, text = file.parent.name, file.read_text(errors="replace")
        try:
            desired = DesiredState.model_validate(_with_relative_bentos(json.loads(text), bentos_root))
            generation, text = desired.generation, canonical_json(desired.model_dump()).decode()
        except (ValueError, AttributeError, TypeError):
            generation = 0
        with state.write() as connection:
            known = connection.scalar(sa.select(desired_states.c.model).where(desired_states.c.model == model))
            if known is None:
                values = {"model": model, "generation": generation, "state": text, "changed_at": now_text()}
                connection.execute(desired_states.insert().values(values))
                added[model] = generation
    return added


def relative_bento(bento: Path, bentos_root: Path) -> str:
    """Return the folder ``bento`` relative to the root of all bentos, as a desired state stores it."""
    return bento.relative_to(bentos_root).as_posix()


def _parsed(model: str, text: str, generation: int) -> DesiredState:
    try:
        desired = DesiredState.model_validate(json.loads(text))
        if desired.generation != generation:
            raise ValueError(f"generation {desired.generation} in a row of generation {generation}")
    except ValueError as error:
        raise DesiredStateError(
            f"Desired state of '{model}'",
            expected="a valid state in the state store",
            found=" ".join(str(error).split())[:200],
            fix=f"Roll the champion out again, which replaces it: materialize {model}/rollout.",
        ) from error
    return desired


def _with_relative_bentos(stored: dict[str, Any], bentos_root: Path) -> dict[str, Any]:
    def relative(bento: str) -> str:
        folder = Path(bento)
        if not folder.is_absolute():
            return bento
        inside = folder.is_relative_to(bentos_root)
        return folder.relative_to(bentos_root).as_posix() if inside else "/".join(folder.parts[-3:])

    served = {role: stored.get(role) for role in ROLES}
    changed = {role: {**one, "bento": relative(one["bento"])} for role, one in served.items() if one}
    return {**stored, **changed}
