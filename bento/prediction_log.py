"""Writes the prediction log: one JSON line per predicted row. Its own thread writes, so no request waits for the disk.

Fields of a line:

- ``request_id``, ``row``, ``model``, ``version``
- ``role``: ``stable``, ``candidate`` or ``shadow``
- ``predict_at``, ``as_of``, ``logged_at``: ISO 8601 in UTC
- ``watermarks``: view → time up to which its facts were known
- ``ages``: view → age of its facts in minutes, null where no fact was used
- ``request``: the fields as received
- ``features``: the values that the model used
- ``score``, ``label``

Files are only appended to; after the last line that fits, the next file begins.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson

from bento.predictor import Prediction
from ml_platform.features.view import PREDICT_AT

logger = logging.getLogger("bento.prediction_log")


@dataclass(frozen=True)
class AnsweredRequest:
    """An answered request with everything that the log writes about it."""

    request_id: str
    role: str
    answered_at: datetime
    rows: list[dict[str, Any]]
    prediction: Prediction


def log_lines(model: str, version: str, answered: AnsweredRequest) -> list[bytes]:
    """Return the lines of the log for ``answered``, one per row, each with its newline."""
    prediction = answered.prediction
    served = prediction.served
    shared = {
        "request_id": answered.request_id,
        "model": model,
        "version": version,
        "role": answered.role,
        "logged_at": answered.answered_at,
        "watermarks": served.watermarks,
    }
    fields_by_row = zip(
        answered.rows,
        prediction.rows[PREDICT_AT].to_list(),
        served.as_of.to_list(),
        served.age_records(),
        served.records(),
        prediction.scores,
        prediction.labels,
        strict=True,
    )
    return [
        orjson.dumps(
            {
                **shared,
                "row": row,
                "predict_at": predict_at,
                "as_of": as_of,
                "ages": ages,
                "request": request,
                "features": features,
                "score": score,
                "label": label,
            },
            option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY,
        )
        for row, (request, predict_at, as_of, ages, features, score, label) in enumerate(fields_by_row)
    ]


class PredictionLog:
    """Writes answered requests to ``folder``; no request waits, and rows beyond ``max_pending_rows`` are dropped.

    Requests that were answered within ``batch_seconds`` are written together; a killed service loses only these.
    ``on_written`` is called after each written request. ``dropped_rows`` counts the lost rows.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        version: str,
        *,
        max_pending_rows: int = 100_000,
        max_file_bytes: int = 64 * 2**20,
        batch_seconds: float = 0.2,
        on_written: Callable[[AnsweredRequest], None] | None = None,
    ) -> None:
        self.folder, self.model, self.version = folder, model, version
        self.max_pending_rows, self.max_file_bytes = max_pending_rows, max_file_bytes
        self.batch_seconds = batch_seconds
        self.dropped_rows = 0
        self.written_rows = 0
        self._on_written = on_written
        self._pending: deque[AnsweredRequest] = deque()
        self._pending_rows = 0
        self._condition = threading.Condition()
        self._closing = False
        self._file: IO[bytes] | None = None
        self._file_count = 0
        self._thread = threading.Thread(target=self._write_all, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, answered: AnsweredRequest) -> None:
        """Queue ``answered``, or count its rows as dropped when too many rows wait. Returns at once."""
        rows = len(answered.rows)
        with self._condition:
            if self._closing or self._pending_rows + rows > self.max_pending_rows:
                self.dropped_rows += rows
                return
            first = not self._pending
            self._pending.append(answered)
            self._pending_rows += rows
            if first or self._pending_rows > self.max_pending_rows / 2:
                self._condition.notify()

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write the queued rows and end the thread; rows unwritten after the timeout count as dropped."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self.dropped_rows += self._pending_rows

    def _write_all(self) -> None:
        while True:
            with self._condition:
                while not self._pending and not self._closing:
                    self._condition.wait()
                if not self._pending:
                    break
                # Write in batches: a thread that wakes for each request would compete with the next ones.
                self._condition.wait_for(self._is_urgent, timeout=self.batch_seconds)
                batch = list(self._pending)
                self._pending.clear()
            for answered in batch:
                self._write(answered)
                with self._condition:
                    self._pending_rows -= len(answered.rows)
            if self._file is not None:
                self._file.flush()
        if self._file is not None:
            self._file.close()

    def _is_urgent(self) -> bool:
        return self._closing or self._pending_rows > self.max_pending_rows / 2

    def _write(self, answered: AnsweredRequest) -> None:
        try:
            data = b"".join(log_lines(self.model, self.version, answered))
            file = self._open_file()
            file.write(data)
            self.written_rows += len(answered.rows)
            if file.tell() >= self.max_file_bytes:
                file.close()
                self._file = None
            if self._on_written is not None:
                self._on_written(answered)
        except Exception:
            # A full disk must not end the thread: the service continues, and a metric counts the lost rows.
            self.dropped_rows += len(answered.rows)
            logger.exception("request %s was answered but not logged", answered.request_id)

    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file_count += 1
            # The process id separates two services of one version; the time separates the runs of one service.
            started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            path = self.folder / f"{self.version}-{started}-{os.getpid()}-{self._file_count:05d}.jsonl"
            self._file = path.open("ab")
        return self._file
