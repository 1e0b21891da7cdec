"""Names the store behind an error of SQLite or of the file system: a damaged, locked or full database, a full disk.

The state store translates its own errors. Errors of the databases of MLflow and Dagster, and of files, reach the border
of a command unchanged. There this module gives them a subject and a fix.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from ml_platform.errors import PlatformError, listed
from resources.home import Home

BUSY_SECONDS = 0.5
"""Time for which the search for a damaged database waits for a writer."""

STEPS_AT_ONCE = 2_000_000
"""SQLite instructions after which the check of one database ends without a result."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class StorageError(PlatformError):
    """Raised in place of an error of SQLite or of the file system."""


def storage_error(error: BaseException, home: Home) -> StorageError | None:
    """Return the error to show in place of ``error``, or None when its cause is no store of ``home``."""
    for cause in _causes(error):
        if isinstance(cause, sqlite3.Error):
            return _database_error(cause, home)
        if isinstance(cause, OSError) and cause.errno in FULL_DISK | READ_ONLY:
            return _file_error(cause, home)
    return None


def damaged_database(file: Path) -> str | None:
    """Return how the SQLite file is damaged, or None; a database that is in use or large counts as undamaged."""
    address = f"file:{quote(str(file.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as connection:
            connection.set_progress_handler(lambda: 1, STEPS_AT_ONCE)
            (first,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error) if _says_damage(str(error)) else None
    return None if first == "ok" else " ".join(str(first).split())


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _database_error(error: sqlite3.Error, home: Home) -> StorageError | None:
    text = str(error)
    if _says_damage(text):
        found = {file: damage for file in _databases(home) if (damage := damaged_database(file))}
        names = [file.relative_to(home.root).as_posix() for file in found]
        return StorageError(
            f"Database {listed(names)} of {home.root}" if names else f"A database of {home.root}",
            expected="a readable database",
            found=next(iter(found.values()), text),
            fix="Restore the home from its backup (`ml-platform restore`), or rebuild what can be rebuilt: "
            "`ml-platform repair`.",
        )
    if "locked" in text or "busy" in text:
        return StorageError(
            f"A database of {home.root}",
            expected="a free database",
            found=f"{text}: another process is writing",
            fix="Repeat the command when that process has finished.",
        )
    if "full" in text or "disk I/O error" in text:
        return StorageError(
            f"A database of {home.root}", expected="space for one more record", found=text, fix=_free_space()
        )
    if "readonly" in text or "unable to open" in text:
        return StorageError(
            f"A database of {home.root}",
            expected="a database that this user can open and write",
            found=text,
            fix="Make the home writable for this user.",
        )
    return None


def _file_error(error: OSError, home: Home) -> StorageError:
    subject = f"File {error.filename}" if error.filename else f"Platform home {home.root}"
    if error.errno in FULL_DISK:
        return StorageError(
            subject, expected="space for one more file", found=os.strerror(error.errno or 0), fix=_free_space()
        )
    return StorageError(
        subject,
        expected="a file that this user can read and write",
        found=os.strerror(error.errno or 0),
        fix="Give this user access, or set ML_PLATFORM_HOME to another folder.",
    )


def _databases(home: Home) -> list[Path]:
    folders = (home.root, home.mlflow, *(each for each in (home.dagster, home.models) if each.is_dir()))
    found = {file for folder in folders for file in folder.glob("*.db")}
    found.update(home.dagster.rglob("*.db") if home.dagster.is_dir() else ())
    return sorted(found)


def _says_damage(text: str) -> bool:
    return "malformed" in text or "not a database" in text or "unsupported file format" in text


def _free_space() -> str:
    return "Free disk space (`ml-platform clean --dry-run` shows how), and repeat the command."
