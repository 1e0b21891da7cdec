"""Answers requests of newline-delimited JSON: one row in each line, and its answer in the same line of the response.

Lines are answered in groups while others arrive. Those that wait are on disk above :data:`MEMORY_BYTES`. So a client
may send all before it reads the first answer, and neither rows nor answers fill the memory of the service.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import Any

import orjson

from ml_platform.serving.request_contract import FieldError, InvalidRequestError, answered_or_refused

MAX_BYTES = 256 * 2**20
"""Greatest size of the body of one stream."""

MAX_LINES = 1_000_000
"""Greatest number of its lines, blank ones included."""

MEMORY_BYTES = 4 * 2**20
STREAMS_AT_ONCE = 2
"""Streams that a service answers at once; others get 429."""

GROUP_ROWS = 256
"""Rows that are scored together: some milliseconds on a thread."""


Answer = dict[str, Any]
PredictRows = Callable[[Sequence[Any]], list[Answer]]


class ReceivedLines:
    """The body of a stream: its lines are taken while others arrive, in an event loop.

    Parts are written as they come, so that a client may send all before it reads an answer. Above :data:`MEMORY_BYTES`,
    the lines that wait to be taken are on disk.
    """

    def __init__(self, max_line_bytes: int, max_bytes: int = MAX_BYTES, max_lines: int = MAX_LINES) -> None:
        self._max_line_bytes, self._max_bytes, self._max_lines = max_line_bytes, max_bytes, max_lines
        self._size = self._lines = self._lines_taken = 0
        self._read_at = self._write_at = 0
        self._has_ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self._lock = Lock()
        self._file = SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - close() closes it

    def write(self, part: bytes) -> None:
        """Add ``part``. Raises :class:`InvalidRequestError` (413) beyond the greatest size or number of lines."""
        lines = part.count(b"\n")
        if self._size + len(part) > self._max_bytes or self._lines + lines > self._max_lines:
            expected = f"at most {self._max_bytes} bytes and {self._max_lines} lines"
            raise InvalidRequestError(
                413, "size", [FieldError("body", expected, "more", "Send several smaller requests.")]
            )
        with self._lock:
            self._file.seek(self._write_at)
            self._file.write(part)
            self._write_at = self._file.tell()
            self._size += len(part)
            self._lines += lines
        self._changed.set()

    def end(self, error: Exception | None = None) -> None:
        """End the lines; with ``error``, those that arrived whole are still taken before it is raised."""
        self._has_ended, self._error = True, error
        self._changed.set()

    async def groups(self, rows: int) -> AsyncIterator[list[bytes]]:
        """Yield groups of at most ``rows`` lines, at least one, and as many as have arrived by then.

        Blank lines are left out, and a line that is too long is cut. Raises the error that ended the lines.
        """
        while True:
            self._changed.clear()
            has_ended = self._has_ended
            if self._lines > self._lines_taken or has_ended:
                group = await asyncio.to_thread(self._take, rows, has_ended)
                if group:
                    yield group
                    continue
                if has_ended and self._error is not None:
                    raise self._error
                if has_ended:
                    return
            await self._changed.wait()

    @property
    def stored_bytes(self) -> int:
        """Bytes that are kept: those that were not taken, and those before them."""
        return self._write_at

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _take(self, rows: int, has_ended: bool) -> list[bytes]:
        """Return the next lines, of a body that has ended also one without an end."""
        takes_rest = has_ended and self._error is None
        with self._lock:
            self._file.seek(self._read_at)
            group: list[bytes] = []
            while len(group) < rows and (self._lines > self._lines_taken or takes_rest):
                line = self._file.readline(self._max_line_bytes + 1)
                if not line:
                    break
                if self._ends_line(line):
                    self._lines_taken += 1
                if line.strip():
                    group.append(line)
            self._read_at = self._file.tell()
            if self._read_at == self._write_at:
                # A client that reads its answers needs no more room than the lines under way.
                self._file.seek(0)
                self._file.truncate()
                self._read_at = self._write_at = 0
        return group

    def _ends_line(self, line: bytes) -> bool:
        """Return whether ``line`` has an end, up to which a cut one is read; the last one of a body may have none."""
        while line and not line.endswith(b"\n"):
            line = self._file.readline(self._max_line_bytes)
        return bool(line)


def answered_lines(lines: Sequence[bytes], first_line: int, max_line_bytes: int, predict: PredictRows) -> bytes:
    """Return the answers to ``lines``, a line for each; ``first_line`` (from 1) is the number of the first.

    ``predict`` answers rows, or raises :class:`InvalidRequestError` if one of them is wrong; the others are still
    answered. Other errors of ``predict`` pass through.
    """
    answers: list[Answer | None] = [None] * len(lines)
    rows: list[tuple[int, Any]] = []
    for place, line in enumerate(lines):
        try:
            if len(line.rstrip(b"\r\n")) > max_line_bytes:
                error = FieldError("line", f"at most {max_line_bytes} bytes", "more")
                raise InvalidRequestError(413, "size", [error])
            rows.append((place, _parsed(line)))
        except InvalidRequestError as error:
            answers[place] = _refusal(error, first_line + place)
    found = answered_or_refused(
        rows,
        lambda part: predict([row for _, row in part]),
        lambda row, error: _refusal(error, first_line + row[0]),
    )
    for (place, _), answer in zip(rows, found, strict=True):
        answers[place] = answer
    return b"".join(orjson.dumps(answer) + b"\n" for answer in answers)


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        found = f"{error.msg} (column {error.colno})"
        raise InvalidRequestError(400, "json", [FieldError("line", "JSON", found)]) from None


def _refusal(error: InvalidRequestError, line: int) -> Answer:
    return {**error.to_dict(), "line": line}
