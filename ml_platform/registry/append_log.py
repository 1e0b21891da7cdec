"""Lines that are in a file as a whole or not at all, however the writer ends.

Apart because the audit log and the outbox both live on it.
"""

import os
from pathlib import Path


def append_line(path: Path, line: bytes) -> None:
    """Append ``line`` (with its newline) and return when it is on the disk.

    A disk that is full in the middle of the line raises ``OSError`` and leaves the file as it was.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.truncate(path, size)
        raise


def complete_lines(path: Path) -> list[bytes]:
    """Return all lines with their newlines; one without was torn by a crash, never acknowledged, and is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def truncate_partial_line(path: Path) -> None:
    """Cut off a line that a crash has torn; only whoever holds the file's lock may do so."""
    complete_bytes = sum(len(line) for line in complete_lines(path))
    if path.exists() and complete_bytes < path.stat().st_size:
        os.truncate(path, complete_bytes)
