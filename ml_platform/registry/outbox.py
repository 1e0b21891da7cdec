"""The outbox: a queue on disk for the records of runs while the tracking server is down.

A training process only writes here. Each operation is on disk before the process continues, so it survives a kill.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ml_platform.registry.append_log import append_line, complete_lines

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

OPERATIONS_FILE = "operations.jsonl"
FILES_FOLDER = "files"
DEAD_LETTER_FOLDER = "dead_letters"
LOCAL_PREFIX = "queued-"

Operation = dict[str, Any]


class Outbox:
    """The queue in ``folder``: one entry per run, in the order of their creation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, first: Operation, at: float) -> "OutboxEntry":
        """Return a new entry with the operation ``first``; this process locks it until it closes the entry or dies."""
        name = f"{int(at * 1e6):020d}-{uuid.uuid4().hex[:12]}"
        staging = self.folder / f".{name}"
        (staging / FILES_FOLDER).mkdir(parents=True)
        lock = FileLock(self.folder / f"{name}.lock")
        lock.acquire()
        staging.replace(self.folder / name)
        entry = OutboxEntry(self.folder / name, lock)
        entry.add(first)
        return entry

    def pending(self) -> list[str]:
        """Return the names of all entries, oldest first, also of those with an active writer."""
        return [path.name for path in self._entries()]

    def dead_letters(self) -> list[str]:
        """Return the names of the entries that the server rejected; they are kept for inspection."""
        folder = self.folder / DEAD_LETTER_FOLDER
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def ready(self) -> Iterator["OutboxEntry"]:
        """Yield the entries whose writer has closed them or is dead, oldest first, each locked while it is in use."""
        for path in self._entries():
            lock = FileLock(self.folder / f"{path.name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            entry = OutboxEntry(path, lock)
            try:
                # Another process may have delivered it between the listing and the lock.
                if path.exists():
                    yield entry
            finally:
                entry.close()

    def _entries(self) -> list[Path]:
        if not self.folder.exists():
            return []
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and path.name[0].isdigit())


@dataclass
class OutboxEntry:
    """The queued operations of one run."""

    path: Path
    lock: FileLock

    @property
    def local_id(self) -> str:
        """Return the id of the run until it gets its MLflow id."""
        return f"{LOCAL_PREFIX}{self.path.name}"

    def add(self, operation: Operation) -> None:
        """Append one operation and return when it is on disk; a file that it names is copied first.

        Raises ``OSError``, and leaves the entry unchanged, when the disk is full.
        """
        stored = {**operation, "path": self._copy_file(Path(operation["path"]))} if "path" in operation else operation
        append_line(self.path / OPERATIONS_FILE, json.dumps(stored).encode() + b"\n")

    def operations(self) -> list[Operation]:
        """Return all operations with the paths of the copied files; an incomplete last line is left out."""
        operations: list[Operation] = [json.loads(line) for line in complete_lines(self.path / OPERATIONS_FILE)]
        return [{**one, "path": str(self.path / one["path"])} if "path" in one else one for one in operations]

    def close(self) -> None:
        """Release the lock, so that the entry can be delivered."""
        self.lock.release()

    def delete(self) -> None:
        """Remove the delivered entry."""
        shutil.rmtree(self.path)
        Path(self.lock.lock_file).unlink(missing_ok=True)

    def move_to_dead_letters(self, reason: str) -> None:
        """Move the entry to the dead letters with the reason, so that later entries can be delivered."""
        target = self.path.parent / DEAD_LETTER_FOLDER / self.path.name
        target.parent.mkdir(exist_ok=True)
        (self.path / "reason.txt").write_text(reason)
        self.path.replace(target)
        Path(self.lock.lock_file).unlink(missing_ok=True)

    def _copy_file(self, source: Path) -> str:
        copy_folder = self.path / FILES_FOLDER / uuid.uuid4().hex
        copy_folder.mkdir()
        if source.is_dir():
            shutil.copytree(source, copy_folder / source.name)
        else:
            shutil.copy2(source, copy_folder / source.name)
        return (copy_folder / source.name).relative_to(self.path).as_posix()


def is_connection_error(error: BaseException) -> bool:
    """Return whether ``error`` means that the server or its database cannot be reached; a rejection does not count."""
    import requests
    from sqlalchemy.exc import DBAPIError

    unreachable = (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.RetryError,
    )
    cause: BaseException | None = error
    while cause is not None:
        # MLflow's client raises RetryError after repeated responses such as 503.
        if isinstance(cause, unreachable):
            return True
        # A Postgres store without a tracking server before it. SQLite has no connection to lose.
        if isinstance(cause, DBAPIError) and _has_lost_connection(cause):
            return True
        response = cause.response if isinstance(cause, requests.exceptions.HTTPError) else None
        if response is not None and response.status_code in {502, 503, 504}:
            return True
        # MLflow wraps this error in its own exception, sometimes only as context.
        cause = cause.__cause__ or cause.__context__
    return False


def _has_lost_connection(error: "DBAPIError") -> bool:
    return error.connection_invalidated or (
        type(error.orig).__module__.startswith("psycopg") and "connection" in str(error.orig)
    )
