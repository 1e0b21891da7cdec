"""Append-only files of lines: a line is stored completely or not at all, even when the writer is killed.

The audit log and the outbox use it.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

TAIL_BYTES = 16_384


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


def extend_lines(path: Path, lines_after: Callable[[bytes | None], Iterable[bytes]]) -> None:
    """Append the lines that follow the last one of ``path``; ``lines_after`` gets that line, or None.

    An incomplete last line is removed first. The caller must hold the lock of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        last = _last_line(file)
        for line in lines_after(last):
            file.write(line)


def _last_line(file: BinaryIO) -> bytes | None:
    """Return the last complete line, found from the end, and cut off what follows it."""
    end = file.seek(0, os.SEEK_END)
    tail, start = b"", end
    while start > 0 and tail.count(b"\n") < 2:
        start = max(0, start - TAIL_BYTES)
        file.seek(start)
        tail = file.read(end - start)
    complete = tail.rfind(b"\n") + 1
    if complete < len(tail):
        file.truncate(start + complete)
    file.seek(0, os.SEEK_END)
    lines = tail[:complete].splitlines(keepends=True)
    return lines[-1] if lines else None
