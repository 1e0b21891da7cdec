"""Opens the SQLite file of the state store, and the errors of the store."""

import sqlite3
import urllib.parse
from pathlib import Path

from ml_platform.errors import PlatformError

BUSY_SECONDS = 30.0
"""Time for which a transaction waits for other writers."""


class StateStoreError(PlatformError):
    """Raised when the store is missing, full, corrupt, read-only, or on a file system without locks."""


class StateLockedError(StateStoreError):
    """Raised when another process has the store or a lock for longer than the time to wait."""


def connect_sqlite(path: Path, *, mode: str) -> sqlite3.Connection:
    """Return a connection to the SQLite file ``path`` with the settings of the store; ``mode`` is rw, rwc or ro."""
    # A URI, because a plain path would create a missing file.
    address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    # FULL: a recorded decision survives a power failure.
    connection.execute("PRAGMA synchronous = FULL")
    return connection
