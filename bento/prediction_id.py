"""Makes the ids of predictions: UUIDs of version 7 (RFC 9562) that end with the row of the request.

A client chooses its request id and may send the same one twice, so that id identifies no prediction. The 128 bits:

- 48: milliseconds since 1970, never less than in the id before, also when the clock goes back
- 4: version 7
- 12: number of the request in this millisecond
- 2: variant
- 38: random number of the process, which separates services and restarts of one service
- 24: row of the request, so the last six digits of an id are its row
"""

import secrets
import threading
import time
from collections.abc import Callable

_ROW_DIGITS = 6
_COUNTS_PER_MILLISECOND = 2**12


def _unix_milliseconds() -> int:
    return time.time_ns() // 1_000_000


class PredictionIds:
    """Ids of the predictions of one process. Create it in the process that predicts: a fork would repeat its ids."""

    def __init__(self, clock: Callable[[], int] = _unix_milliseconds) -> None:
        """``clock`` returns the milliseconds since 1970."""
        self._clock = clock
        self._millisecond, self._count = 0, 0
        process = f"{2 << 38 | secrets.randbits(38):010x}"
        self._end = f"{process[:4]}-{process[4:]}{0:0{_ROW_DIGITS}x}"
        self._lock = threading.Lock()

    def next(self) -> str:
        """Return the id of the first row of a new request: 36 characters, greater than every id before it."""
        with self._lock:
            self._count += 1
            now = self._clock()
            if now > self._millisecond:
                self._millisecond, self._count = now, 0
            elif self._count == _COUNTS_PER_MILLISECOND:
                self._millisecond, self._count = self._millisecond + 1, 0
            time_digits = f"{self._millisecond:012x}"
            return f"{time_digits[:8]}-{time_digits[8:]}-7{self._count:03x}-{self._end}"


def row_prediction_id(first_row_id: str, row: int) -> str:
    """Return the id of the prediction of ``row`` (from 0) in the request whose first row has ``first_row_id``.

    Raises ValueError for a row of more than six hexadecimal digits; the gateway accepts no body with so many rows.
    """
    digits = f"{row:0{_ROW_DIGITS}x}"
    if len(digits) != _ROW_DIGITS:
        raise ValueError(f"row {row} has no prediction id: expected a row below {16**_ROW_DIGITS}")
    return first_row_id[:-_ROW_DIGITS] + digits
