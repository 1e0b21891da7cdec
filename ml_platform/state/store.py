"""Connections, transactions and locks of the state store: SQLite in the home, or Postgres for several machines.

SQLite runs in WAL mode, so that readers see a consistent snapshot and never wait for a writer. Writers begin with
`BEGIN IMMEDIATE` and wait for each other, so that no transaction fails half way because of a lock.
"""

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from ml_platform.errors import PlatformError
from ml_platform.state.migrate import migrate, schema_revision
from ml_platform.state.process_identity import current_process, has_exited
from ml_platform.state.sqlite_file import BUSY_SECONDS, StateLockedError, StateStoreError, connect_sqlite

LOCK_SECONDS = 60.0
"""Time for which :meth:`StateStore.lock` waits by default."""

RESTART_SECONDS = 60.0
"""Time in which a Postgres server that answered before must accept a connection again."""

RECONNECT_PAUSE_SECONDS = 0.2

WRITER_LOCK = 4_711_402_913
"""Key of the advisory lock of write transactions in Postgres."""

SQLITE_FILE = "state.db"
LOCK_FOLDER = "locks"


class StateStore:
    """The store at ``url``: ``sqlite`` for the file ``path``, or any ``postgresql+psycopg://`` address.

    Creating the object opens nothing. One object serves all threads of a process, and is safe across a fork.
    """

    def __init__(self, *, path: Path | None = None, url: str = "", locks: Path | None = None) -> None:
        if (path is None) == (not url):
            raise ValueError("a state store needs either a path (SQLite) or a url (Postgres)")
        self.path = path
        self.url = url
        self._locks = locks or (path.parent / LOCK_FOLDER if path is not None else None)
        self._engine: Engine | None = None
        self._was_connected = False
        self._inode: tuple[int, int] | None = None
        self._opening = threading.Lock()
        self._local = threading.local()

    @classmethod
    def in_folder(cls, folder: Path) -> "StateStore":
        """Return the SQLite store in ``folder``, created or migrated to the current schema."""
        store = cls(path=folder / SQLITE_FILE)
        store.migrate()
        return store

    @classmethod
    def at(cls, location: str) -> "StateStore":
        """Return the store at ``location``: an SQLite file, or `$` and the variable with an address.

        A location in a file or a command line never contains a password.
        """
        if location.startswith("$"):
            return cls(url=os.environ[location.removeprefix("$")])
        return cls(path=Path(location))

    @property
    def location(self) -> str:
        """The path, or the address without its password."""
        return str(self.path) if self.path is not None else sa.make_url(self.url).render_as_string(hide_password=True)

    @property
    def exists(self) -> bool:
        """Whether the store was created."""
        return schema_revision(self) is not None

    def migrate(self) -> list[str]:
        """Create the store, or bring its schema to the current version; return the applied revisions, oldest first.

        Raises :class:`~ml_platform.state.migrate.StateVersionError` when a later release wrote the store.
        """
        return migrate(self)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction: all its queries see one snapshot. Within :meth:`write` it joins that transaction."""
        open_connection = self._open_connection()
        if open_connection is not None:
            yield open_connection
            return
        with self._transaction(write=False) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a write transaction, committed at the end of the body and rolled back when the body raises.

        A nested call joins the outer transaction, so functions that each record a fact compose to one transaction.
        """
        open_connection = self._open_connection()
        if open_connection is not None:
            if not self._local.writes:
                raise RuntimeError("a write transaction cannot begin inside a read transaction")
            yield open_connection
            return
        self._local.after_commit = []
        with self._transaction(write=True) as connection:
            yield connection
        for callback in self._local.after_commit:
            callback()

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after the current write transaction was committed; a rolled back one calls nothing."""
        if callback not in self._local.after_commit:
            self._local.after_commit.append(callback)

    @contextlib.contextmanager
    def lock(self, name: str, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the lock ``name`` for the body; it ends with the process. A thread that has it may take it again.

        Raises :class:`StateLockedError`, which names the holder, when another process has it for ``seconds``.
        """
        taken: set[str] = self._local.__dict__.setdefault("locks", set())
        if name in taken:
            yield
            return
        with self._file_lock(name, seconds) if self._locks is not None else self._advisory_lock(name, seconds):
            taken.add(name)
            try:
                yield
            finally:
                taken.discard(name)

    def close(self) -> None:
        """Close the connections of this process; the next transaction opens new ones."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, for migrations and backups."""
        with self._opening:
            if self._engine is not None and self.path is not None and self._inode != _inode(self.path):
                if not self.path.exists():
                    raise self._missing()
                # The file was replaced, for example by a restore.
                self._engine.dispose()
                self._engine = None
            if self._engine is None:
                self._engine = self._create_engine()
                self._inode = None if self.path is None else _inode(self.path)
            return self._engine

    def _open_connection(self) -> Connection | None:
        return getattr(self._local, "connection", None)

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            options: dict[str, Any] = {"state_write": write}
            if self.path is None and not write:
                # Otherwise each query of a Postgres transaction has its own snapshot.
                options["isolation_level"] = "REPEATABLE READ"
            with self.engine.connect().execution_options(**options) as connection, connection.begin():
                if self.path is None and write:
                    # As in SQLite, one writer at a time, because a writer decides on what it has read.
                    connection.execute(sa.text(f"SET LOCAL lock_timeout = '{BUSY_SECONDS:g}s'"))
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_LOCK)))
                self._local.connection, self._local.writes = connection, write
                try:
                    yield connection
                finally:
                    self._local.connection = None
        except exc.DBAPIError as error:
            raise self._translated(error) from error

    def _create_engine(self) -> Engine:
        if self.path is None:
            # The pre-ping replaces connections of before a restart of the server.
            engine = sa.create_engine(
                self.url, pool_pre_ping=True, connect_args={"application_name": current_process()[:63]}
            )
            event.listen(engine, "do_connect", self._connect_postgres)
        else:
            if not self.path.exists():
                raise self._missing()
            engine = sa.create_engine("sqlite://", creator=self._connect_sqlite, poolclass=sa.pool.QueuePool)
            event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "connect", _remember_process)
        event.listen(engine, "checkout", _reject_inherited_connection)
        return engine

    def _connect_postgres(self, dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        """Connect; a server that answered before and is restarting now gets :data:`RESTART_SECONDS`."""
        deadline, pause = time.monotonic() + RESTART_SECONDS, threading.Event()
        while True:
            try:
                connection = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError as error:
                if not self._was_connected or time.monotonic() > deadline or "authentication" in str(error):
                    raise
                pause.wait(RECONNECT_PAUSE_SECONDS)
            else:
                self._was_connected = True
                return connection

    def _connect_sqlite(self) -> sqlite3.Connection:
        assert self.path is not None
        return connect_sqlite(self.path, mode="rw")

    def _missing(self) -> StateStoreError:
        return StateStoreError(
            f"State store {self.location}",
            expected="the database of this home",
            found="no file: it was deleted or never created",
            fix="Restore the home from its backup (`ml-platform restore`), or rebuild what can be rebuilt: "
            "`ml-platform repair`.",
        )

    def _translated(self, error: exc.DBAPIError) -> PlatformError:
        text = " ".join(str(error.orig).split())
        subject = f"State store {self.location}"
        if self.path is None and (error.connection_invalidated or "connection" in text):
            return self._unreachable(subject, text)
        if "locked" in text or "busy" in text or "lock timeout" in text:
            return StateLockedError(
                subject,
                expected=f"a free database within {BUSY_SECONDS:g} s",
                found="another process that is writing",
                fix="Nothing was changed. Repeat the command when that process has finished.",
            )
        if "full" in text or "disk I/O error" in text or "No space" in text:
            return StateStoreError(
                subject,
                expected="space for one more record",
                found=text,
                fix="Nothing was changed. Free disk space (`ml-platform clean --dry-run` shows how), and repeat.",
            )
        if "malformed" in text or "not a database" in text:
            return StateStoreError(
                subject,
                expected="a readable database",
                found=text,
                fix="Restore the home from its backup (`ml-platform restore`), or rebuild what can be rebuilt: "
                "`ml-platform repair`.",
            )
        if "readonly" in text or "read-only" in text:
            return StateStoreError(
                subject, expected="a writable database", found=text, fix="Make the home writable for this user."
            )
        if "no such table" in text or "does not exist" in text:
            return StateStoreError(
                subject,
                expected="the schema of this release",
                found=text,
                fix="Run `ml-platform upgrade`, or restore the home from its backup.",
            )
        if "locking protocol" in text:
            return self._without_locks(text)
        return StateStoreError(subject, expected="a completed transaction", found=text, fix="Nothing was changed.")

    def _unreachable(self, subject: str, found: str) -> StateStoreError:
        if self._was_connected:
            return StateStoreError(
                subject,
                expected="a connection until the end of the transaction",
                found=found,
                fix="Postgres was restarted, or the network failed. Repeat the command: finished work is skipped.",
            )
        return StateStoreError(
            subject,
            expected="an answer of Postgres",
            found=found,
            fix="Start the server, or correct its address and password; `ml-platform doctor` tries all services.",
        )

    def _without_locks(self, found: str) -> StateStoreError:
        return StateStoreError(
            f"State store {self.location}",
            expected="a file system with locks and shared memory",
            found=found,
            fix="Set ML_PLATFORM_HOME to a local disk, or use a Postgres store.",
        )

    @contextlib.contextmanager
    def _file_lock(self, name: str, seconds: float) -> Iterator[None]:
        assert self._locks is not None
        self._locks.mkdir(parents=True, exist_ok=True)
        path = self._locks / f"{_lock_file_name(name)}.lock"
        holder_file = path.with_suffix(".holder")
        lock = FileLock(path, timeout=seconds)
        try:
            lock.acquire()
        except Timeout as error:
            holder = holder_file.read_text() if holder_file.exists() else "another process"
            raise self._lock_taken(name, seconds, holder) from error
        except (NotImplementedError, OSError) as error:
            raise self._without_locks(str(error)) from error
        try:
            holder_file.write_text(current_process())
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _advisory_lock(self, name: str, seconds: float) -> Iterator[None]:
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        deadline, pause = time.monotonic() + seconds, threading.Event()
        # A connection of its own: the lock ends with it, also when the process is killed.
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not self._scalar(connection, "SELECT pg_try_advisory_lock(:key)", key):
                if time.monotonic() > deadline:
                    raise self._lock_taken(name, seconds, self._advisory_holder(connection, key))
                pause.wait(0.05)
            try:
                yield
            finally:
                # It raises when the server was restarted meanwhile: the lock ended then, and the body lost it.
                self._scalar(connection, "SELECT pg_advisory_unlock(:key)", key)

    def _scalar(self, connection: Connection, query: str, key: int) -> Any:
        try:
            return connection.scalar(sa.text(query), {"key": key})
        except exc.DBAPIError as error:
            raise self._translated(error) from error

    def _advisory_holder(self, connection: Connection, key: int) -> str:
        query = sa.text(
            "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE l.locktype = 'advisory' AND l.granted AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
        )
        return str(connection.scalar(query, {"key": key}) or "another process")

    def _lock_taken(self, name: str, seconds: float, holder: str) -> StateLockedError:
        state = " (which has ended)" if has_exited(holder) else ""
        return StateLockedError(
            f"Lock '{name}' of {self.location}",
            expected=f"a free lock within {seconds:g} s",
            found=f"process {holder}{state}",
            fix="Nothing was changed. Wait for that process or stop it, and repeat the command.",
        )


def time_text(at: datetime) -> str:
    """Return ``at`` as the store writes it: ISO 8601 in UTC with microseconds, so that texts sort by time."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def now_text() -> str:
    """Return the time of now as the store writes it."""
    return time_text(datetime.now(UTC))


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("state_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _remember_process(_connection: Any, record: Any) -> None:
    record.info["pid"] = os.getpid()


def _reject_inherited_connection(_connection: Any, record: Any, proxy: Any) -> None:
    # A connection that was opened before a fork belongs to the parent process.
    if record.info["pid"] != os.getpid():
        record.dbapi_connection = proxy.dbapi_connection = None
        raise exc.DisconnectionError("the connection belongs to the parent process")


def _lock_file_name(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
