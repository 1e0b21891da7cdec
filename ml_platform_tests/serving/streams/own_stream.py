"""A stream of a team's own, in the memory of the process."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ml_platform.serving.streams.message_stream import Backlog, MessageStream, StreamConnection


class MemoryMessage:
    def __init__(self, place: int, payload: bytes, waiting: dict[int, bytes]) -> None:
        self.id, self.payload, self.attempt = str(place), payload, 1
        self._place, self._waiting = place, waiting

    async def confirm(self) -> None:
        del self._waiting[self._place]

    async def put_back(self, delay_seconds: float) -> None:
        """Keep the message among those that wait."""


class MemoryConnection:
    max_bytes = 1_000_000

    def __init__(self, waiting: dict[int, bytes], published: dict[str, bytes]) -> None:
        self._waiting, self._published = waiting, published

    async def pull(self, limit: int) -> Sequence[MemoryMessage]:
        return [MemoryMessage(place, self._waiting[place], self._waiting) for place in list(self._waiting)[:limit]]

    async def publish(self, subject: str, payload: bytes, message_id: str) -> None:
        self._published.setdefault(f"{subject} {message_id}", payload)

    async def backlog(self) -> Backlog:
        return Backlog(len(self._waiting), None)

    async def close(self) -> None:
        """Nothing is open."""


class MemoryStream(MessageStream):
    """Requests from a dictionary of the class."""

    bus: str = Field(description="Name of the dictionary.")
    waiting: ClassVar[dict[str, dict[int, bytes]]] = {}
    published: ClassVar[dict[str, bytes]] = {}

    async def connect(self, model: str) -> StreamConnection:
        return MemoryConnection(self.waiting[self.bus], self.published)
