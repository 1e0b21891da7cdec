"""The append-only log of decisions: each record carries the digest of the one before, so no line can change unseen.

Apart because promotion, approvals and rollout write to it and answer from it; MLflow's aliases only follow it.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from ml_platform.data.atomic import write_json
from ml_platform.data.canonical import canonical_json, value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.journal import append_line, drop_torn_line, whole_lines

GENESIS = "0" * 64


class AuditError(PlatformError):
    """Raised when the log was changed, cut, or cannot be written."""


@dataclass(frozen=True)
class AuditRecord:
    """One decision: what (``kind``), by whom, when, with which facts."""

    sequence: int
    at: datetime
    kind: str
    actor: str
    facts: Mapping[str, Any]
    previous: str
    digest: str


class AuditLog:
    """The log at ``path`` (JSON lines); its head in ``<path>.head`` shows when the end was cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head = path.with_name(f"{path.name}.head")
        self._turn = FileLock(f"{path}.lock")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other writers out for the body: what was read before a decision still holds when it is recorded."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._turn:
            yield

    def append(self, kind: str, *, actor: str, at: datetime, facts: Mapping[str, Any]) -> AuditRecord:
        """Add one record and return it, once it is on the disk.

        Writers in several processes take turns by a file lock. Raises :class:`AuditError` when the log is broken, and
        when the disk takes no more: the log is then as it was, and the decision must not be acted upon.
        """
        with self.exclusive():
            drop_torn_line(self.path)
            last = self._last()
            line = {
                "sequence": last.sequence + 1 if last else 1,
                "at": at.isoformat(),
                "kind": kind,
                "actor": actor,
                "facts": dict(facts),
                "previous": last.digest if last else GENESIS,
            }
            record = {**line, "digest": value_digest(line)}
            self._write(canonical_json(record) + b"\n")
            write_json(self._head, {"sequence": record["sequence"], "digest": record["digest"]})
        return _record(record)

    def records(self, kind: str | None = None) -> Iterator[AuditRecord]:
        """Yield the records in order, each verified against the one before; of one ``kind`` where given.

        Raises :class:`AuditError` at the first record that does not hold.
        """
        previous, sequence = GENESIS, 0
        for number, line in enumerate(whole_lines(self.path), start=1):
            record = self._verified(line, number, previous)
            previous, sequence = record.digest, record.sequence
            if kind is None or record.kind == kind:
                yield record
        self._verify_end(sequence)

    def verify(self) -> int:
        """Return how many records the log holds; raises :class:`AuditError` naming the first one that is broken."""
        return sum(1 for _ in self.records())

    def _verified(self, line: bytes, number: int, previous: str) -> AuditRecord:
        try:
            value = json.loads(line)
            claimed = value.pop("digest")
            record = _record({**value, "digest": claimed})
        except (ValueError, KeyError, AttributeError) as error:
            raise self._broken(number, "a readable record", type(error).__name__) from error
        if value_digest(value) != claimed:
            raise self._broken(number, f"content with the digest {claimed[:12]}", value_digest(value)[:12])
        if record.previous != previous or record.sequence != number:
            raise self._broken(
                number,
                f"record {number} after {previous[:12]}",
                f"record {record.sequence} after {record.previous[:12]}",
            )
        return record

    def _verify_end(self, sequence: int) -> None:
        promised = self._promised()
        # One more than promised is a crash between the line and the head: the line is whole, so it counts.
        if sequence < promised:
            raise self._broken(sequence + 1, f"{promised} records, as its head says", f"the log ends after {sequence}")

    def _promised(self) -> int:
        return int(json.loads(self._head.read_bytes())["sequence"]) if self._head.exists() else 0

    def _last(self) -> AuditRecord | None:
        # The whole chain is verified before it grows: decisions are few, and none is added to a broken log.
        return next(iter(deque(self.records(), maxlen=1)), None)

    def _write(self, line: bytes) -> None:
        try:
            append_line(self.path, line)
        except OSError as error:
            raise AuditError(
                f"Audit log '{self.path}'",
                expected="room for one more record",
                found=str(error),
                mend="Nothing was decided: free the disk and repeat the command.",
            ) from error

    def _broken(self, number: int, expected: str, found: str) -> AuditError:
        return AuditError(
            f"Audit log '{self.path}', record {number}",
            expected=expected,
            found=found,
            mend="The log was changed or cut outside the platform: restore it from a backup before any promotion.",
        )


def _record(value: Mapping[str, Any]) -> AuditRecord:
    return AuditRecord(
        sequence=int(value["sequence"]),
        at=datetime.fromisoformat(value["at"]),
        kind=value["kind"],
        actor=value["actor"],
        facts=value["facts"],
        previous=value["previous"],
        digest=value["digest"],
    )
