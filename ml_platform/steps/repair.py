"""`ml-platform repair`: rebuilds what can be derived from other records, and says what cannot.

- A Delta log is derived from the catalog, and the catalog of a lost state store from the Delta logs.
- MLflow's aliases are derived from the audit log; a lost audit log is read from its copy beside the store.
- Rows, models and bentos are not derived here: the assets make them again, or a backup restores them.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from ml_platform.data.delta_log import DeltaLogError
from ml_platform.data.lake_adoption import adopt_delta_tables
from ml_platform.errors import PlatformError
from ml_platform.registry.audit import HEAD_ROW, AuditError
from ml_platform.registry.champion_history import CHAMPION_KIND
from ml_platform.registry.promotion import reconcile
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.state.schema import audit_head, audit_records, metadata
from ml_platform.state.sqlite_file import StateStoreError
from ml_platform.state.store import StateStore
from ml_platform.steps.packaging import roll_out_champion
from ml_platform.steps.platform_stores import PlatformStores
from resources.home import Home
from resources.state_location import state_at, state_location

ROWS_PER_INSERT = 500


@dataclass(frozen=True)
class Repair:
    """One item that was repaired, or could not be; ``text`` says what was done or what remains to do."""

    subject: str
    repaired: bool
    text: str


def repair_state_store(home: Home) -> list[Repair]:
    """Rebuild the state store of ``home`` if it is missing or unreadable; a readable store is not changed.

    The rows of a damaged database that are readable are kept; the file itself is moved aside, never deleted.
    """
    state = state_at(state_location(home))
    damaged = _move_aside(home, state)
    if state.path is None or (damaged is None and state.path.exists()):
        return []
    state.migrate()
    repairs = [Repair("State store", True, "created again")]
    if damaged is not None:
        repairs.append(Repair("State store", True, f"moved the damaged file to {damaged.name}"))
        repairs += _copied_rows(home, damaged, state)
    return repairs


def repair_home(stores: PlatformStores) -> list[Repair]:
    """Repair everything else that is derived: catalog, audit log, Delta logs, aliases and unreadable desired states."""
    return [
        *_missing_tables(stores),
        *_lost_audit_log(stores),
        *_delta_logs(stores),
        *_aliases(stores),
        *_unreadable_desired_states(stores),
    ]


def _move_aside(home: Home, state: StateStore) -> Path | None:
    if state.path is None or not state.path.exists():
        return None
    with contextlib.closing(sqlite3.connect(state.path, timeout=30)) as connection:
        try:
            if connection.execute("PRAGMA quick_check").fetchone() == ("ok",):
                return None
        except sqlite3.DatabaseError:
            pass
    state.close()
    aside = home.root / f"{state.path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    for suffix in ("", "-wal", "-shm"):
        part = state.path.with_name(f"{state.path.name}{suffix}")
        if part.exists():
            part.replace(aside.with_name(f"{aside.name}{suffix}"))
    return aside


def _copied_rows(home: Home, damaged: Path, state: StateStore) -> Iterator[Repair]:
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(damaged))}?mode=ro", uri=True)) as source:
        source.row_factory = sqlite3.Row
        for table in metadata.sorted_tables:
            if table in (audit_records, audit_head):
                continue
            rows, complete = _readable_rows(source, table)
            copied = _insert(state, table, rows)
            lost = "" if complete and copied == len(rows) else "; the rest cannot be read"
            if rows or lost:
                yield Repair(f"State store, table {table.name}", not lost, f"copied {copied} rows{lost}")
        yield from _copied_audit_log(home, source, state)


def _copied_audit_log(home: Home, source: sqlite3.Connection, state: StateStore) -> Iterator[Repair]:
    """Copy the audit log if all of it is readable, or if there is no other copy of it in the home."""
    records, complete = _readable_rows(source, audit_records)
    records.sort(key=lambda record: str(record["sequence"]).zfill(20))
    heads, _ = _readable_rows(source, audit_head)
    whole = complete and bool(heads) and heads[0]["sequence"] == len(records)
    if not records or (not whole and home.audit_log.exists()):
        return
    copied = _insert(state, audit_records, records)
    end = heads[0] if whole else records[-1]
    with state.write() as connection:
        # The head of a new log exists, and triggers let it only move forward.
        connection.execute(
            sa.update(audit_head)
            .where(audit_head.c.id == HEAD_ROW)
            .values(sequence=end["sequence"], digest=end["digest"])
        )
    text = f"copied {copied} records"
    if not whole:
        text += "; later ones may be lost. Compare it with an anchor: ml-platform audit verify --anchor FILE"
    yield Repair("Audit log", whole and copied == len(records), text)


def _readable_rows(source: sqlite3.Connection, table: sa.Table) -> tuple[list[dict[str, object]], bool]:
    """Return the rows of ``table`` before its first unreadable page, and whether these are all."""
    rows: list[dict[str, object]] = []
    try:
        # Rows that were read before the error stay in the list.
        rows.extend(map(dict, source.execute(f"SELECT * FROM {table.name}")))
    except sqlite3.DatabaseError:
        return rows, False
    return rows, True


def _insert(state: StateStore, table: sa.Table, rows: list[dict[str, object]]) -> int:
    """Insert ``rows`` and return how many were accepted; one bad row does not keep out the others."""
    chunks = [rows[start : start + ROWS_PER_INSERT] for start in range(0, len(rows), ROWS_PER_INSERT)]
    return sum(
        _insert_at_once(state, table, chunk) or sum(_insert_at_once(state, table, [row]) for row in chunk)
        for chunk in chunks
    )


def _insert_at_once(state: StateStore, table: sa.Table, rows: list[dict[str, object]]) -> int:
    try:
        with state.write() as connection:
            connection.execute(sa.insert(table), rows)
    except (StateStoreError, sa.exc.SQLAlchemyError):
        return 0
    return len(rows)


def _missing_tables(stores: PlatformStores) -> Iterator[Repair]:
    if stores.lake.files.local is None:
        return
    report = adopt_delta_tables(stores.lake)
    for table in report.tables:
        yield Repair(f"Table '{table}'", True, "added to the catalog from its Delta log")
    for table, reason in report.failed.items():
        yield Repair(f"Table '{table}'", False, reason)


def _lost_audit_log(stores: PlatformStores) -> Iterator[Repair]:
    copy = stores.home.audit_log
    if stores.audit.head().sequence or not copy.exists():
        return
    try:
        count = stores.audit.import_jsonl(copy)
    except AuditError as error:
        yield Repair("Audit log", False, str(error))
    else:
        yield Repair("Audit log", True, f"read {count} records from its copy {copy.name}")


def _delta_logs(stores: PlatformStores) -> Iterator[Repair]:
    lake = stores.lake
    for table in lake.catalog.tables():
        try:
            if lake.shows_current_version(table):
                continue
            lake.republish(table)
        except DeltaLogError:
            lake.rewrite_delta_log(table)
        yield Repair(f"Delta log of '{table}'", True, "written again from the catalog")


def _aliases(stores: PlatformStores) -> Iterator[Repair]:
    for model in stores.audit.models(CHAMPION_KIND):
        try:
            changed = reconcile(stores.registry, stores.audit, model)
        except PlatformError as error:
            yield Repair(f"Champion of '{model}'", False, str(error))
        else:
            if changed:
                yield Repair(f"Champion of '{model}'", True, "set MLflow's aliases to the audit log")


def _unreadable_desired_states(stores: PlatformStores) -> Iterator[Repair]:
    for model in all_desired_states(stores.state).unreadable:
        try:
            state = roll_out_champion(model, stores, by="ml-platform repair", at=datetime.now(UTC))
        except PlatformError as error:
            yield Repair(f"Desired state of '{model}'", False, str(error))
        else:
            version = state.stable.version if state.stable else "none"
            yield Repair(f"Desired state of '{model}'", True, f"the champion, version {version}, is stable again")
