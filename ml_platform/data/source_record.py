"""The record of what was read from the source of a dataset and published, and of partitions that differ from it now.

A partition is requested once for each state of the source. It is requested again, with a growing wait, when its run
failed for another reason than the contract.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ml_platform.data.canonical import value_digest
from ml_platform.data.read_attempts import Attempt, RunStates
from ml_platform.data.sources.source import Slice, Source
from ml_platform.state.cursors import cursors_below, read_cursor, read_cursors, write_cursor
from ml_platform.state.store import StateStore


@dataclass(frozen=True)
class ChangedSlice:
    """A part of a source that is not as it was published; ``reason`` is equal for equal reasons to read it.

    ``attempt`` is the number of the request for this reason, from 1.
    """

    partition: str | None
    reason: str
    attempt: int


@dataclass
class ChangedSlices:
    """The parts of a source that are not as they were published: those that are due, and why others are not."""

    due: list[ChangedSlice] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def record_read(state: StateStore, dataset: str, partition: str | None, fingerprint: str) -> None:
    """Record that the read with ``fingerprint`` is published, in the current transaction if one is open."""
    reads = (read_cursor(state, _name(dataset, partition)) or {}).get("reads", 0)
    write_cursor(state, _name(dataset, partition), {"fingerprint": fingerprint, "reads": reads + 1})


def recorded_reads(state: StateStore, dataset: str) -> dict[str, Any]:
    """Return what is recorded of the reads of ``dataset``, by partition (empty: the whole)."""
    return cursors_below(state, _name(dataset, None))


def record_broken_read(state: StateStore, dataset: str, partition: str | None, fingerprint: str, check: str) -> None:
    """Record that the read with ``fingerprint`` broke the contract in ``check``, so that it is not requested again."""
    recorded = read_cursor(state, _name(dataset, partition)) or {}
    write_cursor(state, _name(dataset, partition), recorded | {"broken": [fingerprint, check]})


def record_requests(state: StateStore, dataset: str, slices: Sequence[ChangedSlice], request: str, now: float) -> None:
    """Record that ``request`` asks for runs that read ``slices``; ``now`` is POSIX time in seconds."""
    names = {each: _name(dataset, each.partition) for each in slices}
    with state.write():
        recorded = read_cursors(state, names.values())
        for each, name in names.items():
            requested = {"reason": each.reason, "attempt": each.attempt, "at": now, "request": request}
            write_cursor(state, name, recorded.get(name, {}) | {"requested": requested})


def changed_slices(
    source: Source,
    dataset: str,
    parts: Iterable[Slice],
    state: StateStore,
    code_version: str,
    now: float,
    run_state: RunStates,
) -> ChangedSlices:
    """Return those of ``parts`` whose rows are not published as the source has them now; empty parts are left out.

    A part that did not meet its contract, or whose runs failed too often, is requested again after a change of
    ``code_version`` or of its rows.
    """
    compared = list(parts)
    recorded = read_cursors(state, [_name(dataset, part.partition) for part in compared])
    changed = ChangedSlices()
    for part in compared:
        fingerprint, last = source.fingerprint(part), recorded.get(_name(dataset, part.partition), {})
        if fingerprint is None or fingerprint == last.get("fingerprint"):
            continue
        reason = value_digest([fingerprint, last.get("reads", 0), code_version])
        requested, (broken, check) = last.get("requested", {}), last.get("broken", ("", ""))
        if requested.get("reason") != reason:
            changed.due.append(ChangedSlice(part.partition, reason, 1))
        elif broken == fingerprint:
            changed.reasons[part.partition or dataset] = f"check '{check}' failed"
        else:
            attempt = Attempt(requested["attempt"], requested["at"], requested["request"])
            outcome = attempt.outcome(now, run_state)
            if outcome == "again":
                changed.due.append(ChangedSlice(part.partition, reason, attempt.number + 1))
            else:
                changed.reasons[part.partition or dataset] = attempt.describe(outcome)
    return changed


def _name(dataset: str, partition: str | None) -> str:
    return f"source/{dataset}/{partition or ''}"
