"""The append-only log of decisions: each record contains the digest of the previous one, so changes are detected.

The log decides which version is champion; MLflow's aliases only follow it. The records are rows of the state store, and
a head row names the last one. An append compares the last record with the head; :meth:`AuditLog.verify` checks all.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ml_platform.data.canonical import canonical_json, value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.append_log import extend_lines
from ml_platform.state.schema import audit_head, audit_records
from ml_platform.state.store import StateStore

LOG = logging.getLogger(__name__)

MODEL_RENAMED = "model_renamed"
"""Kind of the record of a rename: ``model`` is the new name, ``renamed_from`` the old one."""

GENESIS = "0" * 64
"""Digest before the first record."""

COPY_FILE = "records/audit.jsonl"
"""Path of the copy of the log, relative to the folder of the SQLite store."""

HEAD_ROW = 1
PAGE_ROWS = 32
"""Number of records that :meth:`AuditLog.newest_first` reads at once."""


class AuditError(PlatformError):
    """Raised when the log was changed or truncated, or is not the one of an anchor."""


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


@dataclass(frozen=True)
class AuditHead:
    """The end of the log: the number of records, and the digest of the last one."""

    sequence: int
    digest: str


class AuditLog:
    """The audit log in ``state``. Several threads and processes may append to it at the same time."""

    def __init__(self, state: StateStore) -> None:
        self.state = state

    @contextmanager
    def exclusive(self, model: str) -> Iterator[None]:
        """Take the lock of the decisions on ``model`` for the body.

        No decision on the model can come between reading the log and recording. No transaction is open, so the body
        may call MLflow. Raises :class:`~ml_platform.state.store.StateLockedError` when another process keeps the lock.
        """
        with self.state.lock(f"promotion-{model}"):
            yield

    def append(self, kind: str, *, actor: str, at: datetime, facts: Mapping[str, Any]) -> AuditRecord:
        """Add one record and return it; inside a write transaction of the state store it joins that transaction.

        Raises :class:`AuditError` when the last record does not match the head, and
        :class:`~ml_platform.state.store.StateStoreError` when the store cannot be written, for example on a full disk.
        The log then keeps its previous content, and the caller must not act on the decision.
        """
        with self.state.write() as connection:
            head = self._head(connection, for_update=True)
            self._verify_last(connection, head)
            content = {
                "sequence": head.sequence + 1,
                "at": at.isoformat(),
                "kind": kind,
                "actor": actor,
                "facts": dict(facts),
                "previous": head.digest,
            }
            stored = json.loads(canonical_json({**content, "digest": value_digest(content)}))
            self._insert(connection, stored)
            self._move_head(connection, stored)
            self.state.after_commit(self._extend_copy)
        return _parse_record(stored)

    def records(self, kind: str | None = None, model: str | None = None) -> list[AuditRecord]:
        """Return the records of ``kind`` on ``model`` in order; None selects all.

        The records of a model include those under its former names, see :meth:`former_names`. Only the selected rows
        are read, by their index, and the digest of each is checked. Raises :class:`AuditError` for a changed record.
        :meth:`verify` also finds missing and replaced ones.
        """
        with self.state.read() as connection:
            rows = connection.execute(self._selected(kind, model).order_by(audit_records.c.sequence)).all()
        return [self._verified(row) for row in rows]

    def records_from(self, sequence: int, kinds: Collection[str], model: str) -> list[AuditRecord]:
        """Return the records of ``kinds`` on ``model`` from the number ``sequence`` on, in order, as :meth:`records`.

        Earlier records cost nothing.
        """
        column = audit_records.c
        query = self._selected(None, model).where(column.kind.in_(kinds), column.sequence >= sequence)
        with self.state.read() as connection:
            rows = connection.execute(query.order_by(column.sequence)).all()
        return [self._verified(row) for row in rows]

    def newest_first(self, kind: str | None = None, model: str | None = None) -> Iterator[AuditRecord]:
        """Yield the records of ``kind`` on ``model``, latest first, as :meth:`records` does; read in small pages.

        No transaction is open between the records.
        """
        query, size = self._selected(kind, model).order_by(audit_records.c.sequence.desc()), 1
        while True:
            with self.state.read() as connection:
                rows = connection.execute(query.limit(size)).all()
            for row in rows:
                yield self._verified(row)
            if len(rows) < size:
                return
            # Most callers need only the last record, so the first page has one.
            query, size = query.where(audit_records.c.sequence < rows[-1].sequence), PAGE_ROWS

    def between(self, start: datetime, end: datetime) -> list[AuditRecord]:
        """Return the records from ``start`` until before ``end``, in order, as :meth:`records` does.

        Records are written in the order of their times, so the first one is found by bisection: a few rows are read
        besides those of the time.
        """
        low, high = 1, self.head().sequence + 1
        while low < high:
            middle = (low + high) // 2
            if self.record(middle).at < start:
                low = middle + 1
            else:
                high = middle
        query = sa.select(audit_records).where(audit_records.c.sequence >= low).order_by(audit_records.c.sequence)
        found: list[AuditRecord] = []
        with self.state.read() as connection:
            for row in connection.execute(query.execution_options(yield_per=PAGE_ROWS)):
                record = self._verified(row)
                if record.at >= end:
                    break
                found.append(record)
        return found

    def latest(self, kind: str | None = None, model: str | None = None) -> AuditRecord | None:
        """Return the last record of ``kind`` on ``model``, or None."""
        return next(self.newest_first(kind, model), None)

    def record(self, sequence: int) -> AuditRecord:
        """Return the record with the number ``sequence``; raises :class:`AuditError` when it is missing or changed."""
        query = sa.select(audit_records).where(audit_records.c.sequence == sequence)
        with self.state.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise self._error(sequence, "a record", "none")
        return self._verified(row)

    def models(self, kind: str) -> list[str]:
        """Return the names of the models with a record of ``kind``, sorted."""
        query = sa.select(audit_records.c.model).where(audit_records.c.kind == kind).distinct()
        with self.state.read() as connection:
            return sorted(name for name in connection.scalars(query) if name is not None)

    def former_names(self, model: str) -> list[str]:
        """Return the names that ``model`` had before its renames, the last one first; mostly none."""
        names = [name for name, *_ in self._spans(model)]
        return [name for place, name in enumerate(names) if name != model and name not in names[:place]]

    def head(self) -> AuditHead:
        """Return the end of the log; raises :class:`AuditError` when its row was removed."""
        with self.state.read() as connection:
            return self._head(connection)

    def verify(self) -> int:
        """Check every record, every link, the number of records and the head; return the number of records.

        Everything is read in one transaction, so a writer does not disturb it. Raises :class:`AuditError`, which names
        the first broken record.
        """
        with self.state.read() as connection:
            head = self._head(connection)
            previous, sequence = GENESIS, 0
            rows = connection.execution_options(yield_per=1000).execute(
                sa.select(audit_records).order_by(audit_records.c.sequence)
            )
            for row in rows:
                sequence += 1
                if row.sequence != sequence:
                    raise self._error(sequence, f"record {sequence} after {previous[:12]}", f"record {row.sequence}")
                record = self._verified(row)
                if record.previous != previous:
                    raise self._error(
                        sequence, f"record {sequence} after {previous[:12]}", f"one after {record.previous[:12]}"
                    )
                previous = record.digest
            rows.close()
        if head.sequence != sequence:
            number = min(head.sequence, sequence) + 1
            raise self._error(number, f"{head.sequence} records, as the head says", f"{sequence}")
        if head.digest != previous:
            raise self._error(sequence, f"the digest {head.digest[:12]}, as the head says", previous[:12])
        return sequence

    def require_anchor(self, anchor: AuditHead, source: str) -> None:
        """Raise :class:`AuditError` unless the log still contains the record that ``anchor`` names.

        A log that was rewritten with valid digests differs here. ``source`` names the anchor in the message.
        """
        query = sa.select(audit_records.c.digest).where(audit_records.c.sequence == anchor.sequence)
        with self.state.read() as connection:
            digest = GENESIS if anchor.sequence == 0 else connection.scalar(query)
        if digest != anchor.digest:
            raise self._error(
                anchor.sequence,
                f"the digest {anchor.digest[:12]} of the anchor {source}",
                "no record" if digest is None else digest[:12],
            )

    @property
    def copy(self) -> Path | None:
        """The copy of the log beside a SQLite store: one record per line, for a repair of a lost store."""
        return None if self.state.path is None else self.state.path.parent / COPY_FILE

    def export(self, after: int = 0) -> Iterator[bytes]:
        """Yield each record after the number ``after`` as one line of JSON; :meth:`import_jsonl` reads them."""
        query = self._selected(None, None).where(audit_records.c.sequence > after).order_by(audit_records.c.sequence)
        with self.state.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            yield canonical_json(_json_values(self._verified(row))) + b"\n"

    def import_jsonl(self, path: Path) -> int:
        """Add the records of the exported log at ``path`` to this empty log, unchanged, and return their number.

        The file ``<path>.head`` of the releases up to 0.1.0 is compared, where it exists. A last line that a killed
        writer left incomplete does not count. A log that has these records already is not changed. Raises
        :class:`AuditError`, and imports nothing, when a line is broken, the chain has a gap, the file ends before its
        head, or this log has other records.
        """
        stored = list(_verified_lines(path))
        with self.state.write() as connection:
            head = self._head(connection, for_update=True)
            if head.sequence:
                self._require_same(connection, stored)
                return 0
            for record in stored:
                self._insert(connection, record)
            if stored:
                self._move_head(connection, stored[-1])
        return len(stored)

    def _selected(self, kind: str | None, model: str | None) -> sa.Select[Any]:
        query, column = sa.select(audit_records), audit_records.c
        if kind is not None:
            query = query.where(column.kind == kind)
        if model is None:
            return query
        spans = self._spans(model)
        if len(spans) == 1 and spans[0][1:] == (0, None):
            return query.where(column.model == model)
        return query.where(
            sa.or_(
                *(
                    sa.and_(
                        column.model == name,
                        column.sequence > after,
                        *([] if until is None else [column.sequence < until]),
                    )
                    for name, after, until in spans
                )
            )
        )

    def _spans(self, model: str) -> list[tuple[str, int, int | None]]:
        """Return which records are those of ``model``: a name, and the numbers after and before which it counts.

        A record keeps the name of its time. The name of a renamed model may be given to another model later.
        """
        with self.state.read() as connection:
            rows = connection.execute(sa.select(audit_records).where(audit_records.c.kind == MODEL_RENAMED)).all()
        renames = [
            (each.sequence, each.facts["renamed_from"], each.facts["model"]) for each in map(self._verified, rows)
        ]

        def spans(name: str, until: int | None) -> list[tuple[str, int, int | None]]:
            earlier = [each for each in renames if until is None or each[0] < until]
            after = max((number for number, old, _ in earlier if old == name), default=0)
            given = sorted((each for each in earlier if each[2] == name and each[0] > after), reverse=True)
            return [(name, after, until), *(span for number, old, _ in given for span in spans(old, number))]

        return spans(model, None)

    def _extend_copy(self) -> None:
        """Add the records that the copy lacks; a copy that cannot be written is logged and does not undo a decision."""
        path = self.copy
        if path is None:
            return
        try:
            with self.state.lock("audit-copy"):
                extend_lines(path, lambda last: self.export(0 if last is None else json.loads(last)["sequence"]))
        except (OSError, ValueError, AuditError) as error:
            LOG.warning("The copy %s of the audit log was not extended: %s", path, error)

    def _head(self, connection: Connection, *, for_update: bool = False) -> AuditHead:
        query = sa.select(audit_head.c.sequence, audit_head.c.digest).where(audit_head.c.id == HEAD_ROW)
        row = connection.execute(query.with_for_update() if for_update else query).one_or_none()
        if row is None:
            raise self._error(0, "a head row", "none: it was removed")
        return AuditHead(row.sequence, row.digest)

    def _verify_last(self, connection: Connection, head: AuditHead) -> None:
        query = sa.select(audit_records).order_by(audit_records.c.sequence.desc()).limit(1)
        row = connection.execute(query).one_or_none()
        found = AuditHead(0, GENESIS) if row is None else AuditHead(row.sequence, self._verified(row).digest)
        if found != head:
            raise self._error(
                max(found.sequence, head.sequence),
                f"record {head.sequence} with the digest {head.digest[:12]} as the last one, as the head says",
                f"record {found.sequence} with the digest {found.digest[:12]}",
            )

    def _insert(self, connection: Connection, stored: Mapping[str, Any]) -> None:
        values = {**stored, "facts": canonical_json(stored["facts"]).decode(), "model": _model_of(stored["facts"])}
        connection.execute(audit_records.insert().values(values))

    def _move_head(self, connection: Connection, stored: Mapping[str, Any]) -> None:
        values = {"sequence": stored["sequence"], "digest": stored["digest"]}
        connection.execute(audit_head.update().where(audit_head.c.id == HEAD_ROW).values(values))

    def _require_same(self, connection: Connection, stored: list[dict[str, Any]]) -> None:
        query = sa.select(audit_records.c.digest).order_by(audit_records.c.sequence).limit(len(stored))
        known = list(connection.scalars(query))
        for number, record in enumerate(stored, start=1):
            digest = known[number - 1] if number <= len(known) else "none"
            if digest != record["digest"]:
                raise self._error(number, f"the imported record {record['digest'][:12]}", digest[:12])

    def _verified(self, row: Row[Any]) -> AuditRecord:
        try:
            facts = json.loads(row.facts)
            content = {
                "sequence": row.sequence,
                "at": row.at,
                "kind": row.kind,
                "actor": row.actor,
                "facts": facts,
                "previous": row.previous,
            }
            digest = value_digest(content)
            record = _parse_record({**content, "digest": row.digest})
        except (ValueError, AttributeError, TypeError) as error:
            raise self._error(row.sequence, "a readable record", type(error).__name__) from error
        if digest != row.digest:
            raise self._error(row.sequence, f"content with the digest {row.digest[:12]}", digest[:12])
        if row.model != _model_of(facts):
            # The column selects the records of a model, so a changed one would hide the record.
            raise self._error(row.sequence, f"the model {_model_of(facts)!r} of its facts", repr(row.model))
        return record

    def _error(self, number: int, expected: str, found: str) -> AuditError:
        return AuditError(
            f"Audit log in {self.state.location}, record {number}",
            expected=expected,
            found=found,
            fix="The log was changed outside the platform. Restore it from a backup before any promotion.",
        )


def _verified_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON lines file; raises :class:`AuditError` for the first broken one."""
    previous, number = GENESIS, 0
    head = _head_file(path)
    for number, line in enumerate(_lines(path), start=1):
        try:
            stored = json.loads(line)
            content = {name: value for name, value in stored.items() if name != "digest"}
            digest, record = value_digest(content), _parse_record(stored)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise _line_error(path, number, "a readable record", type(error).__name__) from error
        if digest != record.digest:
            raise _line_error(path, number, f"content with the digest {record.digest[:12]}", digest[:12])
        if (record.previous, record.sequence) != (previous, number):
            found = f"record {record.sequence} after {record.previous[:12]}"
            raise _line_error(path, number, f"record {number} after {previous[:12]}", found)
        if number == head.sequence and head.digest != digest:
            raise _line_error(path, number, f"the digest {head.digest[:12]}, as in its head file", digest[:12])
        previous = record.digest
        yield stored
    if number < head.sequence:
        raise _line_error(path, number + 1, f"{head.sequence} records, as in its head file", f"only {number}")


def _lines(path: Path) -> list[bytes]:
    """Return the lines of ``path``. A last line without newline counts when it is a whole record."""
    data = path.read_bytes() if path.exists() else b""
    whole, newline, rest = data.rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    try:
        json.loads(rest)
    except ValueError:
        return lines
    return [*lines, rest]


def _head_file(path: Path) -> AuditHead:
    file = path.with_name(f"{path.name}.head")
    if not file.exists():
        return AuditHead(0, GENESIS)
    try:
        value = json.loads(file.read_bytes())
        return AuditHead(int(value["sequence"]), str(value["digest"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _line_error(path, 0, f"a readable head file {file.name}", type(error).__name__) from error


def _line_error(path: Path, number: int, expected: str, found: str) -> AuditError:
    return AuditError(
        f"Audit log '{path}', record {number}",
        expected=expected,
        found=found,
        fix="The log was changed or truncated outside the platform. Restore it from a backup.",
    )


def _model_of(facts: Mapping[str, Any]) -> str | None:
    model = facts.get("model")
    return model if isinstance(model, str) else None


def _json_values(record: AuditRecord) -> dict[str, Any]:
    return {
        "sequence": record.sequence,
        "at": record.at.isoformat(),
        "kind": record.kind,
        "actor": record.actor,
        "facts": dict(record.facts),
        "previous": record.previous,
        "digest": record.digest,
    }


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
