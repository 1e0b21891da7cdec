"""Writes the prediction log: blocks of predicted rows. Its own thread writes, so no request waits for the disk.

A record, as :mod:`ml_platform.data.log_block` reads it back from a block, has these fields:

- ``prediction_id``: id of this prediction, from :mod:`bento.prediction_id`
- ``request_id``: id of the request; the client may choose it, and stable, candidate and shadow share it
- ``row``, ``model``, ``version``
- ``role``: ``stable``, ``candidate`` or ``shadow``
- ``predict_at``, ``as_of``, ``logged_at``: times in UTC
- ``watermarks``: view → time up to which its facts were known
- ``ages``: view → age of its facts in minutes, null where no fact was used
- ``request``: the fields as received, except those that :mod:`bento.log_protection` hides
- ``features``: the values that the model used, with the same exceptions
- ``client``: name of the client whose key the gateway accepted, else null; :mod:`bento.app` says why it is no proof
- ``latency_ms``: milliseconds from the whole body of the request to its answer; of a request of lines, for its group
- ``score``
- ``label``: the answer of a task with two classes, else null
- ``details``: further fields of the answer with the answer as ``label``; absent for a task without them
- ``weight``: number of requests for which this one stands in a log that keeps a share; absent: 1

:mod:`bento.log_files` says when a file is complete and when its lines are on the disk.
"""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from bento.log_files import LogFiles, make_private_folder
from bento.log_protection import UNPROTECTED, LogProtection
from bento.log_sampling import is_kept
from bento.predictor import Prediction
from ml_platform.data.answer_counts import SUFFIX, AnswerCounter
from ml_platform.data.instants import microseconds_of
from ml_platform.data.log_block import Block, Layout, pack_block
from ml_platform.data.traces import trace_parent
from ml_platform.features.served_features import BlockColumns
from ml_platform.features.view import INSTANT

logger = logging.getLogger("bento.prediction_log")

_ROWS_AT_ONCE = 2_000
"""Rows above which waiting requests are written at once; about as many become lines in memory together."""


class AnsweredRequest(NamedTuple):
    """An answered request with everything that the log writes about it; ``prediction_id`` is that of its first row."""

    prediction_id: str
    request_id: str
    role: str
    answered_at: datetime
    rows: list[dict[str, Any]]
    prediction: Prediction
    client: str | None = None
    latency_ms: float | None = None
    traceparent: bytes = b""


@dataclass(frozen=True)
class LogStatus:
    """State of a prediction log since the start of its service.

    ``failing`` means that the last write failed, for ``error``; the next write tries again. ``dropped_rows`` were
    answered and not logged. ``unconfirmed_rows`` were logged, but the disk failed when their file was closed.
    """

    state: Literal["writing", "failing", "closed"]
    written_rows: int
    dropped_rows: int
    unconfirmed_rows: int
    pending_rows: int
    error: str | None
    failing_since: datetime | None


def blocks_of(
    answered: Sequence[AnsweredRequest], protection: LogProtection = UNPROTECTED, weight: float = 1.0
) -> Iterator[Block]:
    """Yield blocks with the predictions of ``answered``, in order; a block ends where the read facts change."""
    group: list[AnsweredRequest] = []
    for each in answered:
        if group and each.prediction.served.watermarks != group[0].prediction.served.watermarks:
            yield _block(group, protection, weight)
            group = []
        group.append(each)
    if group:
        yield _block(group, protection, weight)


def layout_of(
    model: str, version: str, columns: BlockColumns, writer: str, protection: LogProtection = UNPROTECTED
) -> Layout:
    """Return the layout of the blocks of a service with features in ``columns``."""
    features = [(name, _kind(columns.dtypes[name])) for name in columns.feature_names]
    return Layout(writer, model, version, columns.view_names, protection.kinds(features))


def _block(answered: Sequence[AnsweredRequest], protection: LogProtection, weight: float) -> Block:
    predictions = [each.prediction for each in answered]
    served = [each.served for each in predictions]
    columns = served[0].columns
    places = columns.feature_places
    texts = {
        position: [text for each in served for text in each.text(int(place))]
        for position, place in enumerate(places)
        if columns.dtypes[columns.names[place]] == pl.String
    }
    numbers = np.concatenate([each.block for each in served])[:, places]
    protection.hide(columns, served, numbers, texts)
    return Block(
        ids=[each.prediction_id for each in answered],
        request_ids=[each.request_id for each in answered],
        roles=[each.role for each in answered],
        answered_at=[microseconds_of(each.answered_at) for each in answered],
        row_counts=[len(each.rows) for each in answered],
        clients=[each.client for each in answered],
        latencies_ms=[each.latency_ms for each in answered],
        trace_ids=[None if (trace := trace_parent(each.traceparent)) is None else trace.trace_id for each in answered],
        watermarks=served[0].watermarks,
        requests=protection.requests([row for each in answered for row in each.rows]),
        scores=[score for each in predictions for score in each.scores],
        labels=[label for each in predictions for label in each.labels],
        details=[
            detail
            for each in predictions
            for detail in (each.details or [None] * len(each.scores))  # type: ignore[list-item]
        ],
        predict_at=np.concatenate([each.predict_at for each in predictions]),
        as_of=np.concatenate([each.as_of_microseconds for each in served]),
        ages=np.concatenate([each.ages_minutes for each in served]),
        numbers=numbers,
        texts=texts,
        weight=weight,
    )


def _kind(dtype: pl.DataType) -> str:
    if dtype == pl.String:
        return "text"
    if dtype == INSTANT:
        return "instant"
    return "float" if dtype.is_float() else "bool" if dtype == pl.Boolean else "int"


class PredictionLog:
    """Writes answered requests to ``folder``; no request waits, and rows beyond ``max_pending_rows`` are dropped.

    Requests that were answered within ``batch_seconds`` are written together; a killed service loses only these, and
    :mod:`ml_platform.data.answer_counts` tells how many rows they had.
    ``protection`` hides values that identify a person. ``share`` of the requests is kept (:mod:`bento.log_sampling`);
    the others count as written, because nothing of them is lost.
    ``on_handled`` is called in the thread with the requests that were written or dropped there together.

    No error ends the thread. Rows that cannot be written are dropped and counted, and the next write tries again.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        version: str,
        *,
        max_pending_rows: int = 20_000,
        max_file_bytes: int = 64 * 2**20,
        max_file_seconds: float = 3600.0,
        batch_seconds: float = 0.2,
        protection: LogProtection = UNPROTECTED,
        share: float = 1.0,
        on_handled: Callable[[Sequence[AnsweredRequest]], None] | None = None,
    ) -> None:
        self.model, self.version = model, version
        self.max_pending_rows = max_pending_rows
        self.batch_seconds = batch_seconds
        self._on_handled = on_handled
        self._protection = protection
        self._share = share
        self._files = LogFiles(
            folder,
            version,
            max_file_bytes=max_file_bytes,
            max_file_seconds=max_file_seconds,
            first_line=lambda writer: layout_of(model, version, self._columns, writer, self._protection).to_line(),
        )
        self._counter = _counter(folder, version)
        self._urgent_rows = min(max_pending_rows / 2, _ROWS_AT_ONCE)
        self._columns: BlockColumns
        self._pending: deque[AnsweredRequest] = deque()
        # Their lock guards all that follows: the thread and the requests change the counts.
        lock = threading.RLock()
        self._condition, self._place = threading.Condition(lock), threading.Condition(lock)
        self._pending_rows = self._written_rows = self._dropped_rows = 0
        self._error: Exception | None = None
        self._failing_since: datetime | None = None
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def written_rows(self) -> int:
        """Rows that are in the files, or that a log which keeps a share leaves out."""
        return self.status().written_rows

    @property
    def dropped_rows(self) -> int:
        """Rows that were answered and are in no file."""
        return self.status().dropped_rows

    def put(self, answered: AnsweredRequest, *, wait_seconds: float = 0.0) -> None:
        """Queue ``answered``, or count its rows as dropped when too many rows wait for longer than ``wait_seconds``."""
        rows = len(answered.rows)
        with self._condition:
            if self._counter is not None:
                self._counter.answer(rows)
            if wait_seconds and not self._has_place(rows):
                self._place.wait_for(lambda: self._closing or self._has_place(rows), wait_seconds)
            if self._closing or not self._has_place(rows):
                self._dropped_rows += rows
                self._settle(0, rows)
                return
            first = not self._pending
            self._pending.append(answered)
            self._pending_rows += rows
            if first or self._is_urgent():
                self._condition.notify()

    def _has_place(self, rows: int) -> bool:
        return self._pending_rows + rows <= self.max_pending_rows

    def status(self) -> LogStatus:
        """Return the state and the counts of rows."""
        with self._condition:
            return LogStatus(
                state="closed" if self._closed else "writing" if self._error is None else "failing",
                written_rows=self._written_rows,
                dropped_rows=self._dropped_rows,
                unconfirmed_rows=self._files.unconfirmed_rows,
                pending_rows=self._pending_rows,
                error=_cause(self._error),
                failing_since=self._failing_since,
            )

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Write the queued rows and end the thread; rows unwritten after the timeout count as dropped."""
        with self._condition:
            self._closing = True
            self._condition.notify()
            self._place.notify_all()
        self._thread.join(timeout_seconds)
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._dropped_rows += self._pending_rows
            self._settle(0, self._pending_rows)
            self._pending.clear()
            self._pending_rows = 0
            if self._counter is not None:
                self._counter.close()
                self._counter = None

    def _write_all(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._write(batch)
            except Exception as error:
                self._count(batch, 0, error)
            if batch:
                self._report_handled(batch)
            self._files.close_old()
        self._files.close()

    def _next_batch(self) -> list[AnsweredRequest] | None:
        """Return the next requests; none of them when the open file is old, and None at the end."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._pending or self._closing, self._files.seconds_until_old):
                return []
            # Write in batches: a thread that wakes for each request would compete with the next ones.
            self._condition.wait_for(self._is_urgent, timeout=self.batch_seconds)
            batch, rows = [], 0
            while self._pending and rows < _ROWS_AT_ONCE:
                batch.append(self._pending.popleft())
                rows += len(batch[-1].rows)
            return batch or None

    def _is_urgent(self) -> bool:
        return self._closing or self._pending_rows > self._urgent_rows

    def _write(self, batch: list[AnsweredRequest]) -> None:
        if not batch:
            return
        # All requests of a service are answered from the same columns.
        self._columns = batch[0].prediction.served.columns
        kept = [each for each in batch if is_kept(each.request_id, each.rows, self._share)]
        lines, rows = self._lines(kept) if kept else ([], [])
        appended, error = self._files.append(lines, rows)
        left_out = sum(len(each.rows) for each in batch) - sum(len(each.rows) for each in kept)
        self._count(batch, sum(rows[:appended]) + left_out, error)

    def _lines(self, batch: Sequence[AnsweredRequest]) -> tuple[list[bytes], list[int]]:
        """Return the lines of the blocks of ``batch``, and the rows in each."""
        try:
            blocks = [(pack_block(block), len(block.scores)) for block in self._blocks(batch)]
        except Exception:
            if len(batch) == 1:
                logger.exception("request %s was answered but not logged", batch[0].request_id)
                return [], []
            # One request that fits no block must not cost the others theirs.
            parts = [self._lines([each]) for each in batch]
            return [line for lines, _ in parts for line in lines], [row for _, rows in parts for row in rows]
        return [line for line, _ in blocks], [rows for _, rows in blocks]

    def _blocks(self, batch: Sequence[AnsweredRequest]) -> Iterator[Block]:
        return blocks_of(batch, self._protection, 1.0 / self._share)

    def _count(self, batch: list[AnsweredRequest], written: int, error: Exception | None) -> None:
        """Count ``written`` rows of ``batch`` as written and its other rows as dropped."""
        if not batch:
            return
        rows = sum(len(answered.rows) for answered in batch)
        with self._condition:
            if self._closed:
                return  # close() counted them as dropped
            self._pending_rows -= rows
            self._place.notify_all()
            self._written_rows += written
            self._dropped_rows += rows - written
            self._settle(written, rows - written)
            before, dropped = self._error, self._dropped_rows
            self._error = error
            if error is None:
                self._failing_since = None
            elif before is None:
                self._failing_since = datetime.now(UTC)
        # Log only the changes: a full disk would fill a log on the same disk with one error per batch.
        if error is not None and _cause(error) != _cause(before):
            first = batch[0].request_id
            logger.error("the prediction log drops rows from request %s on: %s", first, error, exc_info=error)
        elif error is None and before is not None:
            logger.warning("the prediction log writes again; %d rows were dropped since the start", dropped)

    def _settle(self, written: int, dropped: int) -> None:
        if self._counter is not None:
            self._counter.settle(written, dropped)

    def _report_handled(self, batch: Sequence[AnsweredRequest]) -> None:
        if self._on_handled is None:
            return
        try:
            self._on_handled(batch)
        except Exception:
            logger.exception("requests from %s on were answered but are not in the metrics", batch[0].request_id)


def _counter(folder: Path, version: str) -> AnswerCounter | None:
    """Return a new counter in ``folder``; None when the disk takes none, since no error of the log ends the service."""
    try:
        make_private_folder(folder)
        return AnswerCounter(folder / f"{version}-{secrets.token_hex(8)}{SUFFIX}")
    except OSError as error:
        logger.info("rows that a kill of this service would lose cannot be counted: %s", _cause(error))
        return None


def _cause(error: Exception | None) -> str | None:
    """Return the cause of ``error`` without its path, which readers of the status need not know."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return None if error is None else type(error).__name__
