"""A state store that only reads, for notebooks and scripts that must not change a home."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import NoReturn

from sqlalchemy.engine import Connection

from ml_platform.state.sqlite_file import StateStoreError, connect_sqlite
from ml_platform.state.store import LOCK_SECONDS, StateStore


class ReadOnlyError(StateStoreError):
    """Raised when something tries to write through a read-only store."""


class ReadOnlyStateStore(StateStore):
    """The store at a path or address as :class:`StateStore`; every write, lock or migration raises."""

    def migrate(self) -> list[str]:
        """Raise :class:`ReadOnlyError`: the schema stays as it is."""
        self._refuse("a migration")

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Raise :class:`ReadOnlyError`."""
        self._refuse("a write")
        yield  # pragma: no cover

    @contextlib.contextmanager
    def lock(self, name: str, *, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Raise :class:`ReadOnlyError`, because a lock leaves a file in the home."""
        self._refuse(f"the lock '{name}'")
        yield  # pragma: no cover

    def _refuse(self, found: str) -> NoReturn:
        raise ReadOnlyError(
            f"State store {self.location}",
            expected="reads only",
            found=found,
            fix="Use the command line or the UI to change a home.",
        )

    def _connect_sqlite(self) -> sqlite3.Connection:
        assert self.path is not None
        # SQLite reads a file in WAL mode only beside its log. A connection that may write makes an absent log and
        # deletes it again; one that may not would leave it behind.
        alone = not self.path.with_name(f"{self.path.name}-wal").exists()
        if alone and not os.access(self.path.parent, os.W_OK):
            connection = connect_sqlite(self.path, mode="ro&immutable=1")
        else:
            connection = connect_sqlite(self.path, mode="rw" if alone else "ro")
        connection.execute("PRAGMA query_only = ON")
        return connection
