"""Where a run's record waits on disk while the tracking server is down.

Apart from the delivery, so that a training process only ever writes here: what it logged is on the disk before it goes
on, and outlives it.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ml_platform.registry.append_log import append_line, complete_lines

OPERATIONS_FILE = "operations.jsonl"
FILES_FOLDER = "files"
DEAD_LETTER_FOLDER = "dead_letters"
LOCAL_PREFIX = "queued-"

Operation = dict[str, Any]


class Outbox:
    """The queue in ``folder``: one entry per run, in the order in which they were opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, first: Operation, at: float) -> "OutboxEntry":
        """Return a new entry that begins with ``first`` and is held by this process until it is closed or dies."""
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
        """Return the names of all entries, oldest first, those that are still written to included."""
        return [path.name for path in self._entries()]

    def dead_letters(self) -> list[str]:
        """Return the names of the entries that the server would not take; they stay for someone to look at."""
        folder = self.folder / DEAD_LETTER_FOLDER
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def ready(self) -> Iterator["OutboxEntry"]:
        """Yield, and hold while they are used, the entries whose writer has closed them or is dead, oldest first."""
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
        """Return the id under which the run is known before it has one in MLflow."""
        return f"{LOCAL_PREFIX}{self.path.name}"

    def add(self, operation: Operation) -> None:
        """Append one operation and return when it is on the disk; files that it names are copied first.

        Raises ``OSError`` when the disk takes no more; the entry then holds what it held before.
        """
        stored = {**operation, "path": self._copy_file(Path(operation["path"]))} if "path" in operation else operation
        append_line(self.path / OPERATIONS_FILE, json.dumps(stored).encode() + b"\n")

    def operations(self) -> list[Operation]:
        """Return all operations with the paths of the copied files; a line torn by a crash is left out."""
        operations: list[Operation] = [json.loads(line) for line in complete_lines(self.path / OPERATIONS_FILE)]
        return [{**one, "path": str(self.path / one["path"])} if "path" in one else one for one in operations]

    def close(self) -> None:
        """Let go of the entry: from now on it may be delivered."""
        self.lock.release()

    def delete(self) -> None:
        """Remove the delivered entry."""
        shutil.rmtree(self.path)
        Path(self.lock.lock_file).unlink(missing_ok=True)

    def move_to_dead_letters(self, reason: str) -> None:
        """Set the entry aside with the reason, so that those behind it go on."""
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
    """Return whether ``error`` says that the server, or its database, cannot be reached; not that it refused."""
    import requests

    unreachable = (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.RetryError,
    )
    cause: BaseException | None = error
    while cause is not None:
        # A RetryError is what is left of answers like 503 that MLflow's client asked for again and again.
        if isinstance(cause, unreachable):
            return True
        response = cause.response if isinstance(cause, requests.exceptions.HTTPError) else None
        if response is not None and response.status_code in {502, 503, 504}:
            return True
        # MLflow turns an exhausted retry into an exception of its own, with the cause only as its context.
        cause = cause.__cause__ or cause.__context__
    return False
