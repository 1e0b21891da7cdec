"""Answers the requests of all streams of a home: `python -m ml_platform.serving.streams.consumer_process PLAN`.

The process is one for all models, and each stream is a task of its own. It follows the streams in the state store, so a
rollout that declares another one takes effect within seconds.
"""

import asyncio
import json
import logging
import signal
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ml_platform.errors import PlatformError
from ml_platform.serving.streams.declared_streams import stored_streams
from ml_platform.serving.streams.gateway_client import GatewayClient
from ml_platform.serving.streams.kinds import DeclaredStream
from ml_platform.serving.streams.message_stream import MessageStream, variable_value
from ml_platform.serving.streams.stream_consumer import StreamConsumer
from ml_platform.serving.streams.stream_status import StreamStatus, write_stream_status
from ml_platform.state.store import StateStore

logger = logging.getLogger("streams")

PASS_INTERVAL_SECONDS = 1.0
STOP_SECONDS = 20.0
"""Longest time for the requests in flight after the signal to stop; the others are delivered again."""

_STREAM: TypeAdapter[MessageStream] = TypeAdapter(DeclaredStream)


class StreamPlan(BaseModel):
    """Folder, store and gateway of the home whose streams the process consumes."""

    model_config = ConfigDict(extra="forbid")

    run: Path = Field(description="Folder of the status file.")
    log: Path = Field(description="Log file of the process.")
    state: str = Field(description="SQLite file of the state store, or `$` and the variable with its address.")
    gateway: str = Field(description="Address of the gateway.")
    certificate: Path | None = Field(default=None, description="PEM file of its certificate; None: no TLS.")


class StreamConsumers:
    """The consumers of all declared streams; each pass starts and ends those that a rollout changed."""

    def __init__(self, plan: StreamPlan, stopping: asyncio.Event) -> None:
        self.plan = plan
        self.stopping = stopping
        self._state = StateStore.at(plan.state)
        self._running: dict[tuple[str, str], _Running] = {}
        self._wrong: dict[tuple[str, str], StreamStatus] = {}

    async def run(self) -> None:
        """Run passes until ``stopping`` is set, then answer the requests in flight."""
        while not self.stopping.is_set():
            try:
                await self.step()
            except (OSError, PlatformError) as error:
                logger.warning("this pass failed, the next one retries: %s", error)
            try:
                await asyncio.wait_for(self.stopping.wait(), PASS_INTERVAL_SECONDS)
            except TimeoutError:
                continue
        await _end(list(self._running.values()))

    async def step(self) -> None:
        """Run one pass, and write the status of each stream."""
        stored = await asyncio.to_thread(stored_streams, self._state)
        declared = {
            (model, json.dumps(each, sort_keys=True)): each for model, streams in stored.items() for each in streams
        }
        ended = [self._running.pop(key) for key in list(self._running) if key not in declared]
        await _end(ended)
        for key, settings in declared.items():
            if key not in self._running:
                self._start(key, settings)
        status: dict[str, list[StreamStatus]] = {}
        for key in declared:
            found = self._running[key].consumer.status if key in self._running else self._wrong[key]
            status.setdefault(key[0], []).append(found)
        write_stream_status(self.plan.run, status)

    def _start(self, key: tuple[str, str], settings: dict[str, Any]) -> None:
        model = key[0]
        try:
            stream = _STREAM.validate_python(settings)
        except (ValidationError, ImportError, PlatformError) as error:
            # Of a class of a team's own, the code may be another one than at the rollout.
            problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            self._wrong[key] = StreamStatus(stream=str(settings.get("requests")), state="away", problem=problem)
            return
        consumer = StreamConsumer(model, stream, lambda: self._client(model, stream))
        stopping = asyncio.Event()
        self._running[key] = _Running(consumer, stopping, asyncio.create_task(consumer.run(stopping)))
        logger.info("%s: consumes %s", model, stream.describe)

    def _client(self, model: str, stream: MessageStream) -> GatewayClient:
        return GatewayClient(
            self.plan.gateway,
            model,
            connections=stream.in_flight,
            timeout_seconds=stream.timeout_seconds,
            key=variable_value(stream.key, "the API key for the gateway") if stream.key else None,
            certificate=self.plan.certificate,
        )


class _Running:
    def __init__(self, consumer: StreamConsumer, stopping: asyncio.Event, task: "asyncio.Task[None]") -> None:
        self.consumer, self.stopping, self.task = consumer, stopping, task


async def _end(running: list[_Running]) -> None:
    """End the consumers after the requests in flight; those that are not answered in time are delivered again."""
    for each in running:
        each.stopping.set()
    tasks = [each.task for each in running]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _serve(plan: StreamPlan) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await StreamConsumers(plan, stopping).run()


def _main(arguments: list[str]) -> None:
    plan = StreamPlan.model_validate_json(arguments[0])
    handler = RotatingFileHandler(plan.log, maxBytes=2**24, backupCount=2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
    asyncio.run(_serve(plan))


if __name__ == "__main__":
    _main(sys.argv[1:])
