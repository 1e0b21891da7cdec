"""Answers the requests of one stream, each at least once, whatever ends in between.

The order holds the guarantee: take a request, ask the gateway, publish the answer under the id of the request, and only
then confirm the request. A consumer that is killed before the confirmation gets the request again; the stream drops the
second answer by its id.

A request may end or hang its service, and all requests in it then fail. So for a while after such a failure, requests
are sent one at a time: only the one that caused it fails again, until it is refused.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from ml_platform.errors import PlatformError
from ml_platform.serving.streams.gateway_client import GatewayClient, Outcome, dead_letter, too_large
from ml_platform.serving.streams.message_stream import MessageStream, StreamConnection, StreamMessage
from ml_platform.serving.streams.stream_status import StreamStatus

logger = logging.getLogger("streams")

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""Pause after a failure; each further one in a row doubles it."""

MAX_COUNTED = 10_000
"""Requests whose failures are counted."""

BACKLOG_SECONDS = 2.0
"""Time between two counts of what the stream holds."""


class StreamConsumer:
    """Answers the requests of ``stream`` with the endpoint of ``model``; ``client`` makes the connection to it."""

    def __init__(self, model: str, stream: MessageStream, client: Callable[[], GatewayClient]) -> None:
        self.model, self.stream = model, stream
        self.status = StreamStatus(stream=stream.describe, state="away", problem="connecting")
        self._client = client
        self._failures = 0
        self._failures_of = Counter[str]()
        self._to_send_alone = 0
        self._gateway_failed = False
        self._resume_at = 0.0
        self._counted_at = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until ``stopping`` is set; then the requests in flight are answered. No error ends it."""
        while not stopping.is_set():
            try:
                await self._consume(stopping)
            except Exception as error:  # a class of a team's own may raise anything
                self._note_failure("away", _cause(error))
                logger.warning("%s, stream %s: %s", self.model, self.stream.describe, _cause(error))
                if not isinstance(error, PlatformError):
                    logger.debug("the error", exc_info=error)
                await self._pause(stopping)

    async def _consume(self, stopping: asyncio.Event) -> None:
        """Answer requests over one connection until ``stopping`` is set, or until a connection fails."""
        self._gateway_failed = False
        client = self._client()
        try:
            connection = await self.stream.connect(self.model)
        except BaseException:
            await client.close()
            raise
        under_way: set[asyncio.Task[None]] = set()
        try:
            # After a failure, a new client reads the certificate again, which may have been renewed.
            while not (stopping.is_set() or self._gateway_failed):
                await self._count(connection)
                if time.monotonic() < self._resume_at:
                    await self._pause(stopping)
                    continue
                free = (1 if self._to_send_alone else self.stream.in_flight) - len(under_way)
                if free > 0:
                    under_way |= {
                        asyncio.create_task(self._answer(connection, client, each))
                        for each in await connection.pull(free)
                    }
                elif under_way:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                ended = {each for each in under_way if each.done()}
                under_way -= ended
                for each in ended:
                    each.result()  # raises what it raised
            await asyncio.gather(*under_way)
        finally:
            for each in under_way:
                each.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            self.status.in_flight = 0
            await client.close()
            with suppress(Exception):
                await connection.close()

    async def _answer(self, connection: StreamConnection, client: GatewayClient, message: StreamMessage) -> None:
        self.status.in_flight += 1
        try:
            outcome = await client.ask(message.id, message.payload)
            if outcome.kind == "answered" and len(outcome.body) > connection.max_bytes:
                outcome = too_large(outcome, connection.max_bytes)
            if outcome.kind == "busy" or outcome.hits_others:
                self._note_failure("waiting", outcome.reason, outcome.retry_seconds)
            if outcome.hits_others:
                self._to_send_alone = self.stream.in_flight
            if outcome.kind == "busy":
                self._gateway_failed |= outcome.status == 0
                await self._put_back(message)
            elif outcome.kind == "failed" and (failures := self._add_failure(message.id)) < self.stream.attempts:
                await self._put_back(message, min(FIRST_PAUSE_SECONDS * 2**failures, MAX_PAUSE_SECONDS))
            else:
                await self._publish(connection, message, outcome)
                await message.confirm()
        finally:
            self.status.in_flight -= 1

    def _add_failure(self, message_id: str) -> int:
        """Count one more failure of the service on a request, and return their number.

        Deliveries do not count: a request is also delivered again when nobody answered.
        """
        if len(self._failures_of) >= MAX_COUNTED:  # other consumers answered them
            self._failures_of.clear()
        self._failures_of[message_id] += 1
        return self._failures_of[message_id]

    async def _publish(self, connection: StreamConnection, message: StreamMessage, outcome: Outcome) -> None:
        """Publish the answer or the refused request. Both have one id, so a stream with both keeps the first."""
        message_id = f"{self.stream.consumer}/{message.id}"
        if outcome.kind == "answered":
            await connection.publish(self.stream.results, outcome.body, message_id)
            self.status.answered += 1
        else:
            letter = dead_letter(message.id, message.payload, outcome, connection.max_bytes)
            await connection.publish(self.stream.dead_letters, letter, message_id)
            self.status.refused += 1
            logger.info("%s: request %s is refused: %s", self.model, message.id, outcome.reason)
        self._failures = 0
        self._failures_of.pop(message.id, None)
        self._to_send_alone = max(0, self._to_send_alone - 1)
        self.status.state, self.status.problem = "consuming", None

    async def _put_back(self, message: StreamMessage, delay_seconds: float | None = None) -> None:
        self.status.put_back += 1
        await message.put_back(max(0.0, self._resume_at - time.monotonic()) if delay_seconds is None else delay_seconds)

    def _note_failure(
        self, state: Literal["away", "waiting"], problem: str, retry_seconds: float | None = None
    ) -> None:
        """Stop to take requests for a while: the time that was named, or a growing one."""
        now = time.monotonic()
        if now >= self._resume_at:  # all requests in flight fail together, which counts once
            growing = min(FIRST_PAUSE_SECONDS * 2**self._failures, MAX_PAUSE_SECONDS)
            self._failures = min(self._failures + 1, 10)
            self._resume_at = now + min(max(retry_seconds or 0.0, growing), MAX_PAUSE_SECONDS)
        self.status.state, self.status.problem = state, problem

    async def _pause(self, stopping: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), max(0.0, self._resume_at - time.monotonic()))

    async def _count(self, connection: StreamConnection) -> None:
        if time.monotonic() - self._counted_at < BACKLOG_SECONDS:
            return
        found = await connection.backlog()
        self._counted_at = time.monotonic()
        self.status.waiting, self.status.dead_letters = found.waiting, found.dead_letters
        if self.status.state == "away":
            self.status.state, self.status.problem = "consuming", None


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, PlatformError) else f"{type(error).__name__}: {error}"
