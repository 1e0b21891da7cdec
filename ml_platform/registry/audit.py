"""The append-only log of decisions: each record contains the digest of the previous one, so changes are detected.

The log decides which version is champion; MLflow's aliases only follow it.
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
    """Raised when the log was changed or truncated, or cannot be written."""


@dataclass(frozen=True)
class AuditRecord:
    """One decision: its kind, actor, time and facts."""

    sequence: int
    at: datetime
    kind: str
    actor: str
    facts: Mapping[str, Any]
    previous: str
    digest: str


class AuditLog:
    """The log at ``path`` (JSON lines); ``<path>.head`` names the last record, so a truncated log is detected."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head_path = path.with_name(f"{path.name}.head")
        self._lock = FileLock(f"{path}.lock")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the log for the body, so that it cannot change between reading it and recording a decision."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            yield

    def append(self, kind: str, *, actor: str, at: datetime, facts: Mapping[str, Any]) -> AuditRecord:
        """Add one record and return it when it is on disk.

        A file lock separates writers in several processes. Raises :class:`AuditError` when the log is broken or the
        disk is full. The log then keeps its previous content, and the caller must not act on the decision.
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
        """Yield the records in order, each verified against the previous one; with ``kind``, only those of the kind.

        Raises :class:`AuditError` at the first record that is changed, missing or unreadable.
        """
        previous, sequence = GENESIS, 0
        for number, line in enumerate(complete_lines(self.path), start=1):
            record = self._verify_line(line, number, previous)
            previous, sequence = record.digest, record.sequence
            if kind is None or record.kind == kind:
                yield record
        self._verify_end(sequence)

    def verify(self) -> int:
        """Return the number of records; raises :class:`AuditError`, which names the first broken record."""
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
        # A crash between line and head leaves one complete record beyond the head; it is valid.
        if sequence < head_sequence:
            raise self._audit_error(sequence + 1, f"{head_sequence} records, as in its head file", f"only {sequence}")

    def _head_sequence(self) -> int:
        return int(json.loads(self._head_path.read_bytes())["sequence"]) if self._head_path.exists() else 0

    def _last_record(self) -> AuditRecord | None:
        # Verify the whole chain first: decisions are few, and a broken log must not grow.
        return next(iter(deque(self.records(), maxlen=1)), None)

    def _append_line(self, line: bytes) -> None:
        try:
            append_line(self.path, line)
        except OSError as error:
            raise AuditError(
                f"Audit log '{self.path}'",
                expected="disk space for one more record",
                found=str(error),
                fix="No decision was recorded. Free disk space and repeat the command.",
            ) from error

    def _audit_error(self, number: int, expected: str, found: str) -> AuditError:
        return AuditError(
            f"Audit log '{self.path}', record {number}",
            expected=expected,
            found=found,
            fix="The log was changed or truncated outside the platform. Restore it from a backup before any promotion.",
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
