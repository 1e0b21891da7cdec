"""Checks of a home: version, access, databases, audit log, desired states, and tables. They only read."""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ml_platform.console.doctor.declarations import read_declarations
from ml_platform.console.doctor.finding import NO_HOME, Finding, Subject, capped, failed, ok, warning
from ml_platform.errors import PlatformError
from resources.home_version import HOME_VERSION, stored_version

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake
    from ml_platform.state.store import StateStore

DATABASE_SECONDS = 3.0
"""Time limit for the check of all databases of a home; the finding counts the unchecked ones."""

LAKE_SECONDS = 3.0
"""Time limit for the check of all tables of a home; the finding counts the unchecked ones."""

BUSY_SECONDS = 0.5
"""Time that a check waits for a writer to release a database."""

STEPS_PER_CLOCK_READING = 100_000
"""Number of SQLite instructions between two readings of the clock."""

WAL_FORMAT = 2
"""Value of bytes 18 and 19 of an SQLite file in WAL mode (write-ahead log)."""

MLFLOW_TABLES = {"alembic_version", "experiments", "runs", "registered_models", "model_versions"}

RESTORE = "Restore the file from a backup."


def home_version(subject: Subject) -> Finding:
    """Check that this code works on the version of the home."""
    try:
        version = stored_version(subject.home)
    except PlatformError as error:
        return failed(f"{error.found} at {subject.home.root}", error.fix)
    if version is None:
        return ok(f"no home yet at {subject.home.root}; the first command creates it")
    if version < HOME_VERSION:
        return warning(
            f"version {version} at {subject.home.root}; this release needs version {HOME_VERSION}",
            "Stop the platform, back up the home, and run `ml-platform status`, which migrates it.",
        )
    return ok(f"version {version} at {subject.home.root}")


def access(subject: Subject) -> Finding:
    """Check that the home can be written, and that no other user of the machine can read or change it."""
    root = subject.home.root
    folder = next(each for each in (root, *root.parents) if each.exists())
    folders = [root, *(each for each in root.iterdir() if each.is_dir())] if root.is_dir() else [folder]
    inaccessible = [
        str(each) for each in folders if not each.is_dir() or not os.access(each, os.R_OK | os.W_OK | os.X_OK)
    ]
    if inaccessible:
        return failed(
            f"cannot be written: {capped(inaccessible)}",
            "Give this user access (chown, chmod), or set ML_PLATFORM_HOME to another folder.",
        )
    if not root.is_dir():
        return ok(f"{folder} can be written")
    rights = root.stat().st_mode
    reachable = is_reachable_by_others(root)
    if reachable and rights & stat.S_IWOTH:
        return failed("every user of this machine can change the home", f"Run `chmod 700 {root}`.")
    if reachable and rights & stat.S_IROTH:
        return warning("every user of this machine can read the home", f"Run `chmod 700 {root}`.")
    return ok("this user can write, other users have no access")


def is_reachable_by_others(folder: Path) -> bool:
    """Return whether every user of the machine may enter ``folder`` and all its parents."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def databases(subject: Subject) -> Finding:
    """Check every SQLite database of the home with ``PRAGMA quick_check``, for :data:`DATABASE_SECONDS` at most."""
    if not subject.has_home:
        return NO_HOME
    deadline = time.monotonic() + DATABASE_SECONDS
    files = sorted(subject.home.root.rglob("*.db"), key=lambda file: len(file.parts))
    if not files:
        return ok("no SQLite database yet")
    broken, unchecked = [], 0
    for file in files:
        if time.monotonic() > deadline or _needs_recovery(file):
            unchecked += 1
            continue
        try:
            with _opened(file) as connection:
                connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_CLOCK_READING)
                (first,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and _is_inconclusive(error):
                unchecked += 1
                continue
            first = str(error)
        if first != "ok":
            broken.append(f"{file.relative_to(subject.home.root)}: {first}")
    if broken:
        return failed(f"{len(broken)} of {len(files)} SQLite databases are damaged: {capped(broken)}", RESTORE)
    note = f"; {unchecked} in use or not checked within {DATABASE_SECONDS:g} s" if unchecked else ""
    return ok(f"{len(files) - unchecked} SQLite databases are intact{note}")


def tracking_store(subject: Subject) -> Finding:
    """Check that MLflow's database opens and has its tables."""
    file = subject.home.mlflow / "mlflow.db"
    if not file.exists():
        return ok("no MLflow database yet")
    if _needs_recovery(file):
        return warning(f"{file} needs recovery after a crash", "Start MLflow once: `ml-platform up`.")
    try:
        with _opened(file) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            absent = sorted(MLFLOW_TABLES - names)
            if absent:
                return failed(f"{file} has no tables {', '.join(absent)}", RESTORE)
            (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
            (versions,) = connection.execute("SELECT count(*) FROM model_versions").fetchone()
    except sqlite3.Error as error:
        return ok("MLflow's database is in use") if _is_inconclusive(error) else failed(f"{file}: {error}", RESTORE)
    return ok(f"MLflow's database has {runs} runs and {versions} model versions")


def audit_log(subject: Subject) -> Finding:
    """Check the chain of digests in the audit log."""
    from ml_platform.registry.audit import AuditLog

    with opened_state(subject) as state:
        if state is None:
            return ok("no record yet")
        try:
            records = AuditLog(state).verify()
        except PlatformError as error:
            return failed(f"{error.subject}: expected {error.expected}, found {error.found}", error.fix)
    return ok(f"the chain of {records} records is unbroken" if records else "no record yet")


def desired_states(subject: Subject) -> Finding:
    """Check that each desired state can be read, and that the bentos which it names exist."""
    from ml_platform.serving.desired_state import all_desired_states

    with opened_state(subject) as state:
        if state is None:
            return ok("no rollout yet")
        try:
            stored = all_desired_states(state)
        except PlatformError as error:
            return failed(f"{error.subject}: expected {error.expected}, found {error.found}", error.fix)
    problems = [f"{model}: {error.found}" for model, error in stored.unreadable.items()]
    problems += [
        f"{model}: version {each.version} has no bento at {subject.home.bentos / each.bento}"
        for model, desired in stored.readable.items()
        for each in sorted(desired.served_versions, key=lambda each: each.version)
        if not (subject.home.bentos / each.bento / "bento.yaml").is_file()
    ]
    models = len(stored.readable) + len(stored.unreadable)
    if problems:
        return failed(
            capped(problems), "Materialize bento and rollout of the model again, or restore the home from a backup."
        )
    return ok(f"{models} readable, all bentos exist" if models else "no rollout yet")


def streams(subject: Subject) -> Finding:
    """Check that the streams whose requests the endpoints answer are consumed, while the platform runs."""
    from ml_platform.serving.streams.declared_streams import stored_streams
    from ml_platform.serving.streams.stream_status import read_stream_status

    with opened_state(subject) as state:
        declared = stored_streams(state) if state is not None else {}
    count = sum(map(len, declared.values()))
    if not declared:
        return ok("no model answers a stream")
    if not (subject.home.run / "status.json").exists():
        return ok(f"{count} declared; the platform does not run")
    found = read_stream_status(subject.home.run, subject.now.timestamp())
    if found is None:
        return warning(
            f"{count} declared, and their consumer does not run",
            f"Read its log: {subject.home.logs / 'streams.log'}.",
        )
    problems = [f"{model}: {each.text}" for model, each_of in found.items() for each in each_of if each.problem]
    if problems:
        return warning(capped(problems), "Correct the cause; the consumer tries again by itself.")
    return ok(f"{count} consumed")


def undeclared(subject: Subject) -> Finding:
    """Check that everything that the home serves and stores has a declaration."""
    from ml_platform.steps.orphans import DeclaredNames, orphans

    with opened_state(subject) as state:
        if state is None:
            return NO_HOME
        found = read_declarations(subject) if (subject.repository / "pyproject.toml").is_file() else ""
        if isinstance(found, str) or found.not_loaded:
            return ok("not checked: not all domains can be read")
        names = found.names
        declared = DeclaredNames(set(names["Dataset"]), set(names["FeatureView"]), set(names["Model"]))
        lines = [str(each) for each in orphans(state, declared)]
    if lines:
        return warning("\n".join(lines), "Declare it again, or run the verb; `--dry-run` shows what it would do.")
    return ok("all models, datasets and tables of the home have a declaration")


@contextmanager
def opened_state(subject: Subject) -> "Iterator[StateStore | None]":
    """Open the state store of the home; None when there is none yet. Nothing is created or migrated."""
    from ml_platform.state.store import StateStore
    from resources.state_location import state_location

    location = state_location(subject.home)
    state = StateStore(url=location) if "://" in location else StateStore(path=Path(location))
    try:
        yield state if state.exists else None
    finally:
        state.close()


def lake_tables(subject: Subject) -> Finding:
    """Check that each table has its files in their recorded sizes, and that its Delta log shows its current version.

    Reads do not need the Delta log, so a wrong log is a warning. `ml-platform verify` also compares the content.
    """
    deadline = time.monotonic() + LAKE_SECONDS
    with opened_state(subject) as state:
        if state is None:
            return ok("no table yet")
        from ml_platform.data.lake import Lake
        from resources.profile import locations

        found = locations(subject.home)
        lake = Lake(found.lake, state, found.lake_options or None)
        tables = lake.catalog.tables()
        broken, outdated, unchecked = [], [], 0
        for table in tables:
            if time.monotonic() > deadline:
                unchecked += 1
            elif problem := _problem_of_files(lake, table):
                broken.append(f"{table}: {problem}")
            elif problem := _problem_of_delta_log(lake, table):
                outdated.append(f"{table}: {problem}")
    if broken:
        return failed(
            f"{len(broken)} of {len(tables)} tables cannot be read: {capped(broken)}",
            "Materialize the partitions again, or restore the home from a backup. `ml-platform verify` lists all.",
        )
    if outdated:
        return warning(
            f"other tools cannot read {len(outdated)} of {len(tables)} tables: {capped(outdated)}",
            "Write the Delta logs again from the catalog: `ml-platform repair`.",
        )
    note = f"; {unchecked} not checked within {LAKE_SECONDS:g} s" if unchecked else ""
    return ok(f"{len(tables) - unchecked} tables can be read{note}" if tables else "no table yet")


def _problem_of_files(lake: "Lake", table: str) -> str:
    """Return the first damage of the files of the current version, or an empty string."""
    damaged = lake.damaged_files(table)
    if not damaged:
        return ""
    more = f", and {len(damaged) - 1} more files" if len(damaged) > 1 else ""
    return f"{damaged[0].path}: {damaged[0].found}{more}"


def _problem_of_delta_log(lake: "Lake", table: str) -> str:
    from ml_platform.data.delta_log import DeltaLogError

    try:
        return "" if lake.shows_current_version(table) else "its Delta log lists other files"
    except DeltaLogError as error:
        return " ".join(error.found.split())[:120]


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open ``file`` for reading and create no file beside it.

    SQLite would create a missing write-ahead log, so a database in WAL mode without one is opened as immutable.
    """
    with file.open("rb") as opened:
        header = opened.read(20)
    immutable = header[18:20] == bytes([WAL_FORMAT] * 2) and not _write_ahead_log(file).exists()
    address = f"file:{quote(str(file))}?mode=ro{'&immutable=1' if immutable else ''}"
    with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as connection:
        yield connection


def _is_inconclusive(error: sqlite3.Error) -> bool:
    """Return whether ``error`` is a timeout, an active writer, or a crashed change that the next writer rolls back."""
    return any(text in str(error) for text in ("interrupted", "locked", "readonly"))


def _write_ahead_log(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _needs_recovery(file: Path) -> bool:
    """Return whether ``file`` has a write-ahead log without index, which reading it would create."""
    return _write_ahead_log(file).exists() and not file.with_name(f"{file.name}-shm").exists()
