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
from ml_platform.registry.append_log import append_line, complete_lines, truncate_partial_line

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
        self._head_path = path.with_name(f"{path.name}.head")
        self._lock = FileLock(f"{path}.lock")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other writers out for the body: what was read before a decision still holds when it is recorded."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            yield

    def append(self, kind: str, *, actor: str, at: datetime, facts: Mapping[str, Any]) -> AuditRecord:
        """Add one record and return it, once it is on the disk.

        Writers in several processes take turns by a file lock. Raises :class:`AuditError` when the log is broken, and
        when the disk takes no more: the log is then as it was, and the decision must not be acted upon.
        """
        with self.exclusive():
            truncate_partial_line(self.path)
            previous = self._last_record()
            line = {
                "sequence": previous.sequence + 1 if previous else 1,
                "at": at.isoformat(),
                "kind": kind,
                "actor": actor,
                "facts": dict(facts),
                "previous": previous.digest if previous else GENESIS,
            }
            record = {**line, "digest": value_digest(line)}
            self._append_line(canonical_json(record) + b"\n")
            write_json(self._head_path, {"sequence": record["sequence"], "digest": record["digest"]})
        return _parse_record(record)

    def records(self, kind: str | None = None) -> Iterator[AuditRecord]:
        """Yield the records in order, each verified against the one before; of one ``kind`` where given.

        Raises :class:`AuditError` at the first record that does not hold.
        """
        previous, sequence = GENESIS, 0
        for number, line in enumerate(complete_lines(self.path), start=1):
            record = self._verify_line(line, number, previous)
            previous, sequence = record.digest, record.sequence
            if kind is None or record.kind == kind:
                yield record
        self._verify_end(sequence)

    def verify(self) -> int:
        """Return how many records the log holds; raises :class:`AuditError` naming the first one that is broken."""
        return sum(1 for _ in self.records())

    def _verify_line(self, line: bytes, number: int, previous: str) -> AuditRecord:
        try:
            value = json.loads(line)
            stored_digest = value.pop("digest")
            record = _parse_record({**value, "digest": stored_digest})
        except (ValueError, KeyError, AttributeError) as error:
            raise self._audit_error(number, "a readable record", type(error).__name__) from error
        if value_digest(value) != stored_digest:
            raise self._audit_error(number, f"content with the digest {stored_digest[:12]}", value_digest(value)[:12])
        if record.previous != previous or record.sequence != number:
            raise self._audit_error(
                number,
                f"record {number} after {previous[:12]}",
                f"record {record.sequence} after {record.previous[:12]}",
            )
        return record

    def _verify_end(self, sequence: int) -> None:
        head_sequence = self._head_sequence()
        # One record more than the head is a crash between the line and the head: the line is whole, so it counts.
        if sequence < head_sequence:
            raise self._audit_error(
                sequence + 1, f"{head_sequence} records, as its head says", f"the log ends after {sequence}"
            )

    def _head_sequence(self) -> int:
        return int(json.loads(self._head_path.read_bytes())["sequence"]) if self._head_path.exists() else 0

    def _last_record(self) -> AuditRecord | None:
        # The whole chain is verified before it grows: decisions are few, and none is added to a broken log.
        return next(iter(deque(self.records(), maxlen=1)), None)

    def _append_line(self, line: bytes) -> None:
        try:
            append_line(self.path, line)
        except OSError as error:
            raise AuditError(
                f"Audit log '{self.path}'",
                expected="room for one more record",
                found=str(error),
                fix="Nothing was decided: free the disk and repeat the command.",
            ) from error

    def _audit_error(self, number: int, expected: str, found: str) -> AuditError:
        return AuditError(
            f"Audit log '{self.path}', record {number}",
            expected=expected,
            found=found,
            fix="The log was changed or cut outside the platform: restore it from a backup before any promotion.",
        )


def _parse_record(value: Mapping[str, Any]) -> AuditRecord:
    return AuditRecord(
        sequence=int(value["sequence"]),
        at=datetime.fromisoformat(value["at"]),
        kind=value["kind"],
        actor=value["actor"],
        facts=value["facts"],
        previous=value["previous"],
        digest=value["digest"],
    )
