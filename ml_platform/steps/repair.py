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

import sqlalchemy as sa

from ml_platform.data.delta_log import DeltaLogError
from ml_platform.data.lake_adoption import adopt_delta_tables
from ml_platform.errors import PlatformError
from ml_platform.registry.audit import AuditError
from ml_platform.registry.champion_history import CHAMPION_KIND
from ml_platform.registry.promotion import reconcile
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.state.schema import metadata
from ml_platform.state.sqlite_file import StateStoreError
from ml_platform.state.store import StateStore
from ml_platform.steps.packaging import roll_out_champion
from ml_platform.steps.platform_stores import PlatformStores
from resources.home import Home
from resources.state_location import state_at, state_location

ROWS_PER_INSERT = 500


@dataclass(frozen=True)
class Repair:
    """One thing that was repaired, or could not be; ``text`` says what was done or what remains to do."""

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
        repairs += _copied_rows(damaged, state)
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


def _copied_rows(damaged: Path, state: StateStore) -> Iterator[Repair]:
    with contextlib.closing(sqlite3.connect(f"file:{damaged}?mode=ro", uri=True)) as source:
        source.row_factory = sqlite3.Row
        for table in metadata.sorted_tables:
            rows: list[dict[str, object]] = []
            complete = True
            try:
                # Rows before an unreadable page stay in the list.
                rows.extend(map(dict, source.execute(f"SELECT * FROM {table.name}")))
            except sqlite3.DatabaseError:
                complete = False
            copied = _insert(state, table, rows)
            lost = "" if complete and copied == len(rows) else "; the rest cannot be read"
            if rows or lost:
                yield Repair(f"State store, table {table.name}", not lost, f"copied {copied} rows{lost}")


def _insert(state: StateStore, table: sa.Table, rows: list[dict[str, object]]) -> int:
    copied = 0
    for start in range(0, len(rows), ROWS_PER_INSERT):
        chunk = rows[start : start + ROWS_PER_INSERT]
        try:
            with state.write() as connection:
                connection.execute(sa.insert(table), chunk)
        except (StateStoreError, sa.exc.SQLAlchemyError):
            continue
        copied += len(chunk)
    return copied


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
            state = roll_out_champion(model, stores)
        except PlatformError as error:
            yield Repair(f"Desired state of '{model}'", False, str(error))
        else:
            version = state.stable.version if state.stable else "none"
            yield Repair(f"Desired state of '{model}'", True, f"the champion, version {version}, is stable again")
