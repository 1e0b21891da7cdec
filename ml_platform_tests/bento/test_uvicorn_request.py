"""The application uses parts of uvicorn beyond ASGI: an answer is one write, and a request alone is scored at once."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from bento.uvicorn_request import has_whole_body, is_only_request, send_at_once
from ml_platform_tests.polling import until

REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n"


class Recorder:
    """An application that answers the body, and records what it saw of each request and all that was written."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []
        self.writes: list[bytes] = []
        self.release = threading.Event()
        self.waiting = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.seen.append((has_whole_body(receive), is_only_request(receive)))
        body = (await receive())["body"]
        if body == b"wait":
            self.waiting.set()
            await asyncio.to_thread(self.release.wait, 30)
        request = send.__self__
        request.transport = _Recording(request.transport, self.writes)
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
        await send_at_once(send, head, {"type": "http.response.body", "body": body})


class _Recording:
    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport, self._writes = transport, writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Serve ``app`` with uvicorn in a thread; yield its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def read_answer(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < 4:
        data += connection.recv(65536)
    return data.partition(b"\r\n\r\n")[2]


def test_answer_is_written_at_once_and_the_connection_goes_on() -> None:
    recorder = Recorder()
    with served(recorder) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        for body in (b"one.", b"two."):
            connection.sendall(REQUEST + body)
            assert read_answer(connection) == body
        # Both requests in one packet: the second begins when the first is answered.
        connection.sendall(REQUEST + b"six." + REQUEST + b"ten.")
        data = b""
        while data.count(b"HTTP/1.1 200 OK") < 2 or not data.endswith(b"ten."):
            data += connection.recv(65536)
    assert [write.startswith(b"HTTP/1.1 200 OK\r\n") for write in recorder.writes] == [True] * 4
    assert [write[-4:] for write in recorder.writes] == [b"one.", b"two.", b"six.", b"ten."]


def test_connection_that_the_client_ends_gets_its_whole_answer() -> None:
    recorder = Recorder()
    with served(recorder) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"last")
        assert read_answer(connection) == b"last"
        assert connection.recv(1) == b""


def test_body_that_is_on_its_way_is_not_whole() -> None:
    recorder = Recorder()
    with served(recorder) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(REQUEST)
        until(lambda: recorder.seen)
        connection.sendall(b"late")
        assert read_answer(connection) == b"late"
    assert [is_whole for is_whole, _ in recorder.seen] == [False]


def test_request_beside_another_is_not_alone() -> None:
    recorder = Recorder()
    with served(recorder) as port, socket.create_connection(("127.0.0.1", port)) as first:
        first.sendall(REQUEST + b"wait")
        assert recorder.waiting.wait(30)
        with socket.create_connection(("127.0.0.1", port)) as second:
            second.sendall(REQUEST + b"next")
            assert read_answer(second) == b"next"
        recorder.release.set()
        assert read_answer(first) == b"wait"
    assert [is_only for _, is_only in recorder.seen] == [True, False]


def test_another_server_gets_two_messages() -> None:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    head, body = {"type": "http.response.start"}, {"type": "http.response.body"}
    asyncio.run(send_at_once(send, head, body))
    assert messages == [head, body]
    assert (has_whole_body(receive), is_only_request(receive)) == (False, False)
