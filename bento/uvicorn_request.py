"""Parts of a request in uvicorn beyond ASGI that the application uses, and how one answer becomes one write.

The callables that uvicorn passes to an application are methods of the request. With another server, or another release
of uvicorn whose requests look different, every function here does what ASGI alone allows.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]


def has_whole_body(receive: Callable[[], Awaitable[Message]]) -> bool:
    """Return whether the next call of ``receive`` returns the whole body at once; False if that is not known."""
    return getattr(getattr(receive, "__self__", None), "more_body", True) is False


def is_only_request(receive: Callable[[], Awaitable[Message]]) -> bool:
    """Return whether no other request of this process has arrived; False if that is not known."""
    protocol = getattr(getattr(getattr(receive, "__self__", None), "on_response", None), "__self__", None)
    requests = getattr(protocol, "tasks", None)
    return isinstance(requests, set) and len(requests) == 1


async def send_at_once(send: Callable[[Message], Awaitable[None]], start: Message, body: Message) -> None:
    """Send the head and the whole body of an answer.

    uvicorn writes each of them by a system call, and the client would wake up for the head alone.
    """
    request: Any = getattr(send, "__self__", None)
    transport = getattr(request, "transport", None)
    if not hasattr(transport, "writelines"):
        await send(start)
        await send(body)
        return
    joined = _JoinedWrites(transport)
    request.transport = joined
    try:
        await send(start)
        await send(body)
    finally:
        request.transport = transport
        joined.flush()


class _JoinedWrites:
    """A transport that keeps what is written until :meth:`flush`."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._parts = transport, list[bytes]()

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
