"""Append-only files of lines: a line is stored completely or not at all, even when the writer is killed.

The audit log and the outbox use it.
"""

import os
from pathlib import Path


def append_line(path: Path, line: bytes) -> None:
    """Append ``line`` (with its newline) and return when it is on disk.

    When the disk is full, ``OSError`` is raised and the file keeps its previous content.
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
    """Return all lines with their newlines; a last line without newline is left out, because a crash cut it off."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def truncate_partial_line(path: Path) -> None:
    """Remove an incomplete last line, which a crash left; the caller must hold the lock of the file."""
    complete_bytes = sum(len(line) for line in complete_lines(path))
    if path.exists() and complete_bytes < path.stat().st_size:
        os.truncate(path, complete_bytes)
