"""Answers requests of newline-delimited JSON: one row in each line, and its answer in the same line of the response.

The body is received whole, on disk above :data:`MEMORY_BYTES`, and then answered in groups of rows. So a client may
send all before it reads the first answer, and neither rows nor answers fill the memory of the service.
"""

from collections.abc import Callable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
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
    """The body of a stream, written in parts and then read line by line."""

    def __init__(self, max_line_bytes: int, max_bytes: int = MAX_BYTES, max_lines: int = MAX_LINES) -> None:
        self._max_line_bytes, self._max_bytes, self._max_lines = max_line_bytes, max_bytes, max_lines
        self._size = self._lines = 0
        self._file = SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - close() closes it

    def write(self, part: bytes) -> None:
        """Add ``part``. Raises :class:`InvalidRequestError` (413) beyond the greatest size or number of lines."""
        self._size += len(part)
        self._lines += part.count(b"\n")
        if self._size > self._max_bytes or self._lines > self._max_lines:
            expected = f"at most {self._max_bytes} bytes and {self._max_lines} lines"
            raise InvalidRequestError(
                413, "size", [FieldError("body", expected, "more", "Send several smaller requests.")]
            )
        self._file.write(part)

    def groups(self, rows: int) -> Iterator[list[bytes]]:
        """Yield the lines in groups of ``rows``, without blank ones; a line that is too long is cut."""
        self._file.seek(0)
        group: list[bytes] = []
        while line := self._file.readline(self._max_line_bytes + 1):
            if not line.endswith(b"\n"):
                self._skip_line()
            if line.strip():
                group.append(line)
            if len(group) == rows:
                yield group
                group = []
        if group:
            yield group

    def close(self) -> None:
        self._file.close()

    def _skip_line(self) -> None:
        while (rest := self._file.readline(self._max_line_bytes)) and not rest.endswith(b"\n"):
            pass


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
