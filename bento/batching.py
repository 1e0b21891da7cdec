"""Scores requests that arrive together in one pass: the fixed cost of a pass is paid once for all of them.

A request never waits for others to come. The event loop reads all requests that have arrived, and the pass runs in its
next turn; so a batch holds one request while the service is idle, and more the busier it is.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from bento.predictor import Prediction
from ml_platform.serving.request_contract import ValidRequest

PredictTogether = Callable[[Sequence[tuple[ValidRequest, datetime]]], list[Prediction]]

MAX_ROWS = 256
"""Rows of a pass: it occupies the event loop for a few milliseconds at most."""


class _Waiting(NamedTuple):
    request: ValidRequest
    arrived_at: datetime
    answered: "asyncio.Future[Prediction]"


class Batcher:
    """Collects the requests of one turn of the event loop. Not safe to share between threads."""

    def __init__(self, predict_together: PredictTogether) -> None:
        self._predict_together = predict_together
        self._waiting: list[_Waiting] = []

    async def predict(self, request: ValidRequest, arrived_at: datetime) -> Prediction:
        """Return the predictions of ``request``; errors of the predictor pass through."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, arrived_at, loop.create_future())
        if not self._waiting:
            loop.call_soon(self._run)
        self._waiting.append(waiting)
        return await waiting.answered

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        batch: list[_Waiting] = []
        rows = 0
        for each in waiting:
            if batch and rows + len(each.request.rows) > MAX_ROWS:
                self._answer(batch)
                batch, rows = [], 0
            batch.append(each)
            rows += len(each.request.rows)
        self._answer(batch)

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            predictions = self._predict_together([(each.request, each.arrived_at) for each in batch])
        except Exception as error:
            if len(batch) > 1:
                # The request that caused the error must not fail the others.
                for each in batch:
                    self._answer([each])
            elif not batch[0].answered.done():
                batch[0].answered.set_exception(error)
            return
        for each, prediction in zip(batch, predictions, strict=True):
            # A client that went away cancelled its request.
            if not each.answered.done():
                each.answered.set_result(prediction)
