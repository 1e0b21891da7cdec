"""Counts of the predictions that a log writer answered, wrote and dropped; they survive the end of its process.

A killed service cannot say what it lost. So each writer keeps three numbers in a small shared file, which the operating
system has from the moment that they change, and locks it for as long as it lives. A file without a lock is one whose
writer has ended: predictions that it answered, and neither wrote nor dropped, are lost.
"""

import fcntl
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".counts"

_BYTES = 24
"""Three whole numbers of eight bytes: answered, written (or left out by a log that keeps a share), dropped."""


@dataclass(frozen=True)
class AnswerCounts:
    """Rows since the start of one writer; ``ended`` says that its process is gone."""

    answered: int
    written: int
    dropped: int
    ended: bool

    @property
    def unwritten(self) -> int:
        """Rows that wait in the memory of the writer; they are lost when it has ended."""
        return max(0, self.answered - self.written - self.dropped)


class AnswerCounter:
    """The counts of one writer in a new file at ``path``, of one thread at a time. Raises OSError without space."""

    def __init__(self, path: Path) -> None:
        self._path = path
        hidden = path.with_name(f".{path.name}.tmp")
        self._descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Without reserved space, a full disk would end the process at its first number.
            os.posix_fallocate(self._descriptor, 0, _BYTES)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._map = mmap.mmap(self._descriptor, _BYTES)
            # Readers see the file only after it is locked.
            hidden.rename(path)
        except OSError:
            os.close(self._descriptor)
            hidden.unlink(missing_ok=True)
            raise
        self._numbers = memoryview(self._map).cast("q")

    def answer(self, rows: int) -> None:
        """Add to the answered rows; a request calls it, so it does no more."""
        self._numbers[0] += rows

    def settle(self, written: int, dropped: int) -> None:
        """Add to the rows that were written, and to those that were dropped."""
        self._numbers[1] += written
        self._numbers[2] += dropped

    def close(self) -> None:
        """Give up the lock: the writer has ended. A file that says that all rows were written is removed."""
        answered, written, _ = self._numbers.tolist()
        if answered == written:
            # A model that is loaded for a few requests, again and again, would leave a file each time.
            self._path.unlink(missing_ok=True)
        self._numbers.release()
        self._map.close()
        os.close(self._descriptor)


def read_counts(path: Path) -> AnswerCounts | None:
    """Return the counts in the file at ``path``; None when it is gone or has no counts."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        ended = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            ended = False
        data = os.pread(descriptor, _BYTES, 0)
    finally:
        os.close(descriptor)
    if len(data) != _BYTES:
        return None
    answered, written, dropped = memoryview(data).cast("q").tolist()
    return AnswerCounts(answered, written, dropped, ended)
