"""The record of what was read from the source of a dataset and published, and of partitions that differ from it now.

A request names the number of published reads and of failed attempts. It is therefore made once for each state of the
source, and again after an attempt that failed because the source was away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml_platform.data.canonical import value_digest
from ml_platform.data.sources.source import Slice, Source
from ml_platform.state.cursors import cursors_below, read_cursor, write_cursor
from ml_platform.state.store import StateStore


@dataclass(frozen=True)
class ChangedSlice:
    """A part of a source that is not as it was published; ``request`` is equal for equal reasons to read it."""

    partition: str | None
    request: str


def record_read(state: StateStore, dataset: str, partition: str | None, fingerprint: str) -> None:
    """Record that the read with ``fingerprint`` is published, in the current transaction if one is open."""
    reads = _recorded(state, dataset, partition).get("reads", 0)
    write_cursor(state, _name(dataset, partition), {"fingerprint": fingerprint, "reads": reads + 1, "failures": 0})


def record_failed_read(state: StateStore, dataset: str, partition: str | None) -> None:
    """Record that the source did not answer, so that the partition is requested again."""
    recorded = _recorded(state, dataset, partition)
    write_cursor(state, _name(dataset, partition), recorded | {"failures": recorded.get("failures", 0) + 1})


def changed_slices(
    source: Source, dataset: str, parts: Iterable[Slice], state: StateStore, code_version: str
) -> list[ChangedSlice]:
    """Return those of ``parts`` whose rows are not published as the source has them now; empty parts are left out.

    A part that did not meet its contract is requested again after a change of ``code_version``.
    """
    recorded: Mapping[str, dict[str, object]] = cursors_below(state, _name(dataset, ""))
    changed = []
    for part in parts:
        fingerprint, last = source.fingerprint(part), recorded.get(part.partition or "", {})
        if fingerprint is not None and fingerprint != last.get("fingerprint"):
            reason = [fingerprint, last.get("reads", 0), last.get("failures", 0), code_version]
            changed.append(ChangedSlice(part.partition, value_digest(reason)))
    return changed


def _recorded(state: StateStore, dataset: str, partition: str | None) -> dict[str, int]:
    return read_cursor(state, _name(dataset, partition)) or {}


def _name(dataset: str, partition: str | None) -> str:
    return f"source/{dataset}/{partition or ''}"
