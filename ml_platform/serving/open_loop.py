"""Sends requests at planned times, whether or not earlier ones are answered, and measures each from its planned time.

A client that waits for an answer before the next request sends fewer of them while the server is slow, so that slow
times are counted too rarely ("coordinated omission", G. Tene, How NOT to Measure Latency, 2013).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import numpy.typing as npt

ANSWER_SECONDS = 5.0
"""Time after which a request without an answer is an error."""

MAX_CONNECTIONS = 256
"""Open connections; further requests wait, and their wait counts."""


@dataclass(frozen=True)
class LoadMeasurement:
    """Time of each answered request (ms), and the error of each other one."""

    latencies_ms: npt.NDArray[np.float64]
    errors: list[str]


def arrivals(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Return the times of requests (seconds from 0, ascending) that arrive at random: a Poisson process.

    The number of requests is ``rate`` times ``seconds``, rounded; given their number, the times of a Poisson process
    are independent and uniform.
    """
    return np.sort(np.random.default_rng(seed).uniform(0, seconds, round(rate * seconds)))


def send(port: int, path: str, bodies: Sequence[bytes], times: Sequence[float]) -> LoadMeasurement:
    """Send one request to ``path`` of the local ``port`` at each of ``times`` (seconds from now).

    ``bodies`` are JSON, and are used in turn.
    """
    return asyncio.run(_Client(port, path, bodies).send(times))


class _Client:
    def __init__(self, port: int, path: str, bodies: Sequence[bytes]) -> None:
        self._port = port
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        self._messages = [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(self, times: Sequence[float]) -> LoadMeasurement:
        loop = asyncio.get_running_loop()
        start = loop.time()
        requests = []
        for at, message in zip(times, cycle(self._messages), strict=False):
            wait = start + at - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            requests.append(asyncio.create_task(self._request(message, start + at)))
        found = await asyncio.gather(*requests)
        for _, writer in self._idle:
            writer.close()
        return LoadMeasurement(
            np.array([each for each in found if isinstance(each, float)]),
            [each for each in found if isinstance(each, str)],
        )

    async def _request(self, message: bytes, planned: float) -> float | str:
        """Return the time of the request in milliseconds, or its error."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(max(planned, loop.time()) + ANSWER_SECONDS):
                status = await self._exchange(message)
        except TimeoutError:
            return f"no answer within {ANSWER_SECONDS:g} s"
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            return f"{type(error).__name__}: {error}"[:100]
        return (loop.time() - planned) * 1000 if status == 200 else f"status {status}"

    async def _exchange(self, message: bytes) -> int:
        async with self._places:
            while self._idle and self._idle[-1][0].at_eof():
                self._idle.pop()[1].close()
            connection = self._idle.pop() if self._idle else None
            reader, writer = connection or await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(message)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_content_length(head))
            except BaseException:
                writer.close()
                raise
            self._idle.append((reader, writer))
            return int(head.split(b" ", 2)[1])


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
