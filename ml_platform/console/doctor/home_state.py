"""Checks of a home: version, access, databases, audit log, desired states, and tables. They only read."""

import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from ml_platform.console.doctor.finding import NO_HOME, Finding, Subject, capped, failed, ok, warning
from ml_platform.errors import PlatformError
from resources.home_version import HOME_VERSION, OLD_DESIRED_STATE_FILE, stored_version

DATABASE_SECONDS = 3.0
"""How long all databases of a home are checked; those that are left are counted."""

LAKE_SECONDS = 3.0
"""How long the tables of a home are checked; those that are left are counted."""

BUSY_SECONDS = 0.5
"""How long a check waits for a writer to release a database."""

STEPS_PER_READING = 100_000
"""Instructions of SQLite between two readings of the clock."""

PARQUET_MAGIC = b"PAR1"
WAL_FORMAT = 2
"""Value of bytes 18 and 19 of an SQLite file that is written with a write-ahead log."""

MLFLOW_TABLES = {"alembic_version", "experiments", "runs", "registered_models", "model_versions"}

RESTORE = "Restore the file from a backup."


def home_version(subject: Subject) -> Finding:
    """Check the stamp of the home against the version of this code."""
    try:
        version = stored_version(subject.home)
    except PlatformError as error:
        return failed(f"{error.found} at {subject.home.root}", error.fix)
    if version is None:
        return ok(f"no home yet at {subject.home.root}; the first command creates it")
    if version < HOME_VERSION:
        return warning(
            f"version {version} at {subject.home.root}; this release works on version {HOME_VERSION}",
            "Stop the platform, back the home up, and run `ml-platform status`: the next command migrates it.",
        )
    return ok(f"version {version} at {subject.home.root}")


def access(subject: Subject) -> Finding:
    """Check that the home can be written, and that no other user of the machine can read or change it."""
    root = subject.home.root
    folder = next(each for each in (root, *root.parents) if each.exists())
    folders = [root, *(each for each in root.iterdir() if each.is_dir())] if root.is_dir() else [folder]
    closed = [str(each) for each in folders if not each.is_dir() or not os.access(each, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        return failed(
            f"cannot be written: {capped(closed)}",
            "Give this user the folder (chown, chmod), or set ML_PLATFORM_HOME to another one.",
        )
    if not root.is_dir():
        return ok(f"{folder} can be written")
    rights = root.stat().st_mode
    reachable = is_reachable_by_others(root)
    if reachable and rights & stat.S_IWOTH:
        return failed("every user of this machine can change the home", f"chmod 700 {root}")
    if reachable and rights & stat.S_IROTH:
        return warning("every user of this machine can read the home", f"chmod 700 {root}")
    return ok("can be written by this user, and is closed to other users")


def is_reachable_by_others(folder: Path) -> bool:
    """Return whether every user of the machine may enter ``folder`` and all folders above it."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def databases(subject: Subject) -> Finding:
    """Check every SQLite database of the home with ``PRAGMA quick_check``, for :data:`DATABASE_SECONDS` at most."""
    if not subject.has_home:
        return NO_HOME
    deadline = time.monotonic() + DATABASE_SECONDS
    files = sorted(subject.home.root.rglob("*.db"), key=lambda file: len(file.parts))
    broken, unchecked = [], 0
    for file in files:
        if time.monotonic() > deadline or _has_log_alone(file):
            unchecked += 1
            continue
        try:
            with _opened(file) as connection:
                connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_READING)
                (first,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and _cannot_tell(error):
                unchecked += 1
                continue
            first = str(error)
        if first != "ok":
            broken.append(f"{file.relative_to(subject.home.root)}: {first}")
    if broken:
        return failed(f"{len(broken)} of {len(files)} SQLite databases are damaged: {capped(broken)}", RESTORE)
    note = f"; {unchecked} in use or not checked within {DATABASE_SECONDS:g} s" if unchecked else ""
    return ok(f"{len(files) - unchecked} SQLite databases are sound{note}")


def tracking_store(subject: Subject) -> Finding:
    """Check that MLflow's database opens and has its tables."""
    file = subject.home.mlflow / "mlflow.db"
    if not file.exists():
        return ok("no MLflow database yet")
    if _has_log_alone(file):
        return warning(f"{file} waits for its recovery after a crash", "Start MLflow once: `ml-platform up`.")
    try:
        with _opened(file) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            absent = sorted(MLFLOW_TABLES - names)
            if absent:
                return failed(f"{file} lacks the tables {', '.join(absent)}", RESTORE)
            (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
            (versions,) = connection.execute("SELECT count(*) FROM model_versions").fetchone()
    except sqlite3.Error as error:
        return ok("MLflow's database is in use") if _cannot_tell(error) else failed(f"{file}: {error}", RESTORE)
    return ok(f"MLflow's database has {runs} runs and {versions} model versions")


def audit_log(subject: Subject) -> Finding:
    """Check the chain of digests of the audit log."""
    from ml_platform.registry.audit import AuditLog

    try:
        records = AuditLog(subject.home.audit_log).verify()
    except PlatformError as error:
        return failed(f"{error.subject}: expected {error.expected}, found {error.found}", error.fix)
    return ok(f"the chain of {records} records is unbroken" if records else "no decision is recorded yet")


def desired_states(subject: Subject) -> Finding:
    """Check that each desired state can be read, and that the bentos which it names are there."""
    from pydantic import ValidationError

    from ml_platform.serving.desired_state import DESIRED_STATE_FILE, DesiredState

    problems, models = [], 0
    names = (DESIRED_STATE_FILE, OLD_DESIRED_STATE_FILE)
    for file in sorted(file for name in names for file in subject.home.serving.glob(f"*/{name}")):
        models += 1
        model = file.parent.name
        try:
            state = DesiredState.model_validate(json.loads(file.read_bytes()))
        except (ValidationError, ValueError) as error:
            problems.append(f"{model}: {file.name} cannot be read ({' '.join(str(error).split())[:80]})")
            continue
        served = {each for each in (state.stable, state.candidate, state.shadow) if each is not None}
        problems += [
            f"{model}: the bento of version {each.version} is not at {each.bento}"
            for each in sorted(served, key=lambda each: each.version)
            if not (Path(each.bento) / "bento.yaml").is_file()
        ]
    if problems:
        return failed(
            capped(problems), "Materialize the model's bento and rollout again, or restore the file from a backup."
        )
    return ok(f"desired states can be read, bentos are there: {models}" if models else "no model is rolled out yet")


def lake_tables(subject: Subject) -> Finding:
    """Check that the latest version of each Delta table opens and that its files are whole."""
    deadline = time.monotonic() + LAKE_SECONDS
    tables = sorted(_tables(subject.home.lake))
    if not tables:
        return ok("no table in the lake yet")
    broken, unchecked = [], 0
    for table in tables:
        if time.monotonic() > deadline:
            unchecked += 1
            continue
        problem = _problem_of(table)
        if problem:
            broken.append(f"{table.relative_to(subject.home.lake).as_posix()}: {problem}")
    if broken:
        return failed(
            f"{len(broken)} of {len(tables)} tables cannot be read: {capped(broken)}",
            "Restore the table's folder from a backup, or delete it and materialize its asset again.",
        )
    note = f"; {unchecked} not checked within {LAKE_SECONDS:g} s" if unchecked else ""
    return ok(f"{len(tables) - unchecked} tables of the lake can be read{note}")


def _tables(lake: Path) -> Iterator[Path]:
    for folder, below, _ in os.walk(lake):
        if "_delta_log" in below:
            below.clear()
            yield Path(folder)


def _problem_of(table: Path) -> str:
    """Return what is wrong with the latest version of ``table``, empty where nothing is."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        uris = DeltaTable(str(table)).file_uris()
    except (DeltaError, OSError, ValueError) as error:
        return " ".join(str(error).split())[:120]
    for uri in uris:
        file = Path(uri)
        if not file.is_file():
            return f"{file.name} is absent"
        with file.open("rb") as opened:
            opened.seek(-min(len(PARQUET_MAGIC), file.stat().st_size), os.SEEK_END)
            if opened.read() != PARQUET_MAGIC:
                return f"{file.name} is cut off"
    return ""


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open ``file`` to read, and create nothing beside it.

    SQLite would create an absent write-ahead log, so a file that is written with one is then opened as immutable.
    """
    with file.open("rb") as opened:
        header = opened.read(20)
    immutable = header[18:20] == bytes([WAL_FORMAT] * 2) and not _log_of(file).exists()
    address = f"file:{quote(str(file))}?mode=ro{'&immutable=1' if immutable else ''}"
    with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as connection:
        yield connection


def _cannot_tell(error: sqlite3.Error) -> bool:
    """Whether the time is over, a writer is at work, or a crash left a change that the next writer takes back."""
    return any(text in str(error) for text in ("interrupted", "locked", "readonly"))


def _log_of(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _has_log_alone(file: Path) -> bool:
    """Whether a copied file waits for its recovery: reading it would create the index of its write-ahead log."""
    return _log_of(file).exists() and not file.with_name(f"{file.name}-shm").exists()
