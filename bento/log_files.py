"""Appends lines to the files of a folder so that a failed write leaves no part of a line and stops no later one.

A file takes no more lines once it is full or old, so that its reader can delete it while the writer runs. A file whose
last change is longer ago than the age limit is complete. All names end with ``.jsonl``. None occurs twice, also when
the clock goes back. A writer whose file was deleted begins a new one.

Durability: each append reaches the operating system at once, so a killed process loses nothing that was appended. A
file is synced to the disk (fsync) only when it is closed; a power failure can lose the lines of the open file.

Only the owner can read the files (mode 600) and the folders made here (mode 700).
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

from ml_platform.data.atomic import sync_directory

logger = logging.getLogger("bento.log_files")


@dataclass
class _OpenFile:
    path: Path
    descriptor: int
    opened_at: float
    lines: int = 0
    rows: int = 0


class LogFiles:
    """The files of one writer in ``folder``; their names begin with ``prefix``. Not safe to share between threads.

    ``first_line`` returns the first line of a file from the name of its writer and number, which no other file has. A
    file is full at ``max_file_bytes``; only a single longer line makes it larger. It is old after ``max_file_seconds``,
    and :meth:`close_old` then closes it. ``unconfirmed_rows`` counts the rows of files that the disk did not confirm
    when they were closed: they may be lost.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        *,
        max_file_bytes: int,
        max_file_seconds: float,
        first_line: Callable[[str], bytes] = lambda _: b"",
    ) -> None:
        self.folder, self.prefix = folder, prefix
        self.max_file_bytes, self.max_file_seconds = max_file_bytes, max_file_seconds
        self.unconfirmed_rows = 0
        self._first_line = first_line
        # The time alone is not enough: a restarted container has the same process id and maybe an earlier clock.
        self._writer = secrets.token_hex(6)
        self._file_count = 0
        self._file: _OpenFile | None = None

    @property
    def seconds_until_old(self) -> float | None:
        """Seconds until the open file is old; None when no file is open."""
        if self._file is None:
            return None
        return max(0.0, self._file.opened_at + self.max_file_seconds - time.monotonic())

    def append(self, lines: Sequence[bytes], rows: Sequence[int] | None = None) -> tuple[int, OSError | None]:
        """Append ``lines``, each with its newline; return how many are in the files, and the error that stopped it.

        ``rows`` are the rows in each line, one without. The lines before the error are complete in the files, and no
        part of the others is. A file that cannot grow is closed, and a new one takes the rest. The call ends when a new
        file takes no line; the next call tries again.
        """
        appended = 0
        rows_in = [1] * len(lines) if rows is None else rows
        try:
            while appended < len(lines):
                self.close_old()
                file, size = self._writable_file()
                count = _fitting(lines[appended:], self.max_file_bytes - size)
                if not count and file.lines:
                    self.close()
                    continue
                count = max(count, 1)
                written, error = self._write(file, size, lines[appended : appended + count])
                is_new = not file.lines
                file.lines += written
                file.rows += sum(rows_in[appended : appended + written])
                appended += written
                if error is not None:
                    self.close()
                    if is_new and not written:
                        return appended, error
        except OSError as error:
            return appended, error
        return appended, None

    def close_old(self) -> None:
        """Close the open file if it is old."""
        if self.seconds_until_old == 0.0:
            self.close()

    def close(self) -> None:
        """Sync and close the open file, and delete it when it is empty. An error of the disk is logged, not raised."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            try:
                if not file.lines:
                    file.path.unlink(missing_ok=True)
                    return
                os.fsync(file.descriptor)
                sync_directory(self.folder)
            finally:
                os.close(file.descriptor)
        except OSError as error:
            self.unconfirmed_rows += file.rows
            logger.error("the disk did not confirm %d rows of %s: %s", file.rows, file.path.name, error)

    def _writable_file(self) -> tuple[_OpenFile, int]:
        """Return the open file, or a new one, with its size."""
        if self._file is not None:
            size = self._size_if_listed(self._file)
            if size is not None:
                return self._file, size
            self._abandon(self._file)
        make_private_folder(self.folder)
        self._file_count += 1
        opened = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        writer = f"{self._writer}-{self._file_count:05d}"
        path = self.folder / f"{self.prefix}-{opened}-{writer}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = _OpenFile(path, descriptor, time.monotonic())
        first_line = self._first_line(writer)
        if first_line:
            _, error = self._write(self._file, 0, [first_line])
            if error is not None:
                self.close()
                raise error
        return self._file, len(first_line)

    def _size_if_listed(self, file: _OpenFile) -> int | None:
        """Return the size of ``file``; None when it was deleted or cannot be reached, so that no reader finds it."""
        try:
            state = os.fstat(file.descriptor)
        except OSError:
            return None
        return state.st_size if state.st_nlink else None

    def _write(self, file: _OpenFile, size: int, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Write ``lines`` after the first ``size`` bytes; return how many are complete, and the error that stopped."""
        data, written = memoryview(b"".join(lines)), 0
        try:
            while written < len(data):
                written += os.write(file.descriptor, data[written:])
        except OSError as error:
            ends = list(accumulate(map(len, lines)))
            complete = sum(end <= written for end in ends)
            self._cut(file, size + (ends[complete - 1] if complete else 0))
            return complete, error
        return len(lines), None

    def _cut(self, file: _OpenFile, size: int) -> None:
        """Remove the part of a line after ``size`` bytes, or leave the file for ever when that fails too."""
        try:
            os.ftruncate(file.descriptor, size)
        except OSError:
            # A reader waits for the end of the last line, and later lines go to the next file.
            self._abandon(file)

    def _abandon(self, file: _OpenFile) -> None:
        self._file = None
        try:
            os.close(file.descriptor)
        except OSError as error:
            logger.error("cannot close %s: %s", file.path.name, error)


def _fitting(lines: Sequence[bytes], size: int) -> int:
    """Return how many of ``lines``, from the first, fit into ``size`` bytes."""
    return sum(end <= size for end in accumulate(map(len, lines)))


def make_private_folder(folder: Path) -> None:
    """Make ``folder`` and the missing folders above it for the owner alone; existing folders keep their mode."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
