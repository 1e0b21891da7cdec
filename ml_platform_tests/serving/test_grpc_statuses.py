"""The bridge before a gateway that answers as a test wants: statuses, trailers, deadlines, and what it sends."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from ml_platform.serving import grpc_bridge
from ml_platform.serving.bridge_settings import (
    ANSWER_SECONDS,
    BRIDGE_SOCKET,
    CALLS_AT_ONCE,
    MAX_MESSAGE_BYTES,
    REST_SOCKET,
)
from ml_platform.serving.gateway import MAX_BODY_BYTES
from ml_platform.serving.gateway_clusters import REQUESTS_AT_ONCE, REQUESTS_WAITING
from ml_platform.serving.grpc_bridge import PREFIX, running_bridge
from ml_platform.serving.open_inference import PREFIX as REST_PREFIX
from ml_platform.serving.serving_settings import MAX_TIMEOUT_SECONDS

METHOD = "/inference.GRPCInferenceService/"
ANSWER = json.dumps({"model_name": "toy", "model_version": "1", "outputs": []})


@dataclass
class FakeGateway:
    """A server of HTTP/1.1 that answers each request with ``status``, ``headers`` and ``body``, or never without."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ANSWER
    received: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
                await reader.readexactly(int(size[0].partition(":")[2]) if size else 0)
                self.received.append(head)
                if self.status is not None:
                    lines = [f"{name}: {value}" for name, value in self.headers.items()]
                    sent = [f"HTTP/1.1 {self.status} X", f"content-length: {len(self.body.encode())}", *lines]
                    writer.write(("\r\n".join(sent) + "\r\n\r\n" + self.body).encode())
        self.closed.set()
        writer.close()


Ask = Callable[[grpc.aio.Channel], Awaitable[Any]]


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeGateway, Ask], Any]:
    """A function that runs the bridge before a gateway, and returns the result of a function of a channel to it."""
    monkeypatch.chdir(tmp_path)

    def run(gateway: FakeGateway, ask: Ask) -> Any:
        async def main() -> Any:
            server = await asyncio.start_unix_server(gateway.serve, REST_SOCKET)
            async with server, running_bridge(), grpc.aio.insecure_channel(f"unix:{BRIDGE_SOCKET}") as channel:
                return await ask(channel)

        return asyncio.run(main())

    return run


def infer(channel: grpc.aio.Channel, **keywords: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="toy").SerializeToString()
    return channel.unary_unary(f"{METHOD}ModelInfer")(request, timeout=20, **keywords)


async def refused(channel: grpc.aio.Channel) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await infer(channel)
    return error.value.code().name, error.value.details(), dict(error.value.trailing_metadata())


@pytest.mark.parametrize(
    ("http_status", "expected"),
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (408, "DEADLINE_EXCEEDED"),
        (413, "RESOURCE_EXHAUSTED"),
        (422, "INVALID_ARGUMENT"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
        (302, "INTERNAL"),
    ],
)
def test_status_of_http_becomes_one_of_grpc(answered: Any, http_status: int, expected: str) -> None:
    body = json.dumps({"error": f"It is {http_status}; für Ünïcode too."})
    gateway = FakeGateway(http_status, {"retry-after": "7", "x-request-id": "r-1", "location": "http://x/"}, body)
    assert answered(gateway, refused) == (
        expected,
        f"It is {http_status}; für Ünïcode too.",
        {"retry-after": "7", "x-request-id": "r-1"},
    )
    assert len(gateway.received) == 1  # a prediction must not be logged twice


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"error": {"status": 503, "message": "starting"}}', "starting"),
        ("starting\n", "starting"),
        ('["starting"]', '["starting"]'),
        (json.dumps({"error": "x" * 100_000}), "x" * 1_000),
    ],
)
def test_text_of_every_form_of_error_is_kept_and_bounded(answered: Any, body: str, text: str) -> None:
    assert answered(FakeGateway(503, body=body), refused)[:2] == ("UNAVAILABLE", text)


@pytest.mark.parametrize("body", ["", "{}", '{"model_name": "toy"}', "[]"])
def test_answer_that_is_none_of_the_protocol_is_internal_and_shows_nothing(answered: Any, body: str) -> None:
    assert answered(FakeGateway(200, body=body), refused)[:2] == (
        "INTERNAL",
        "The bridge failed; its log has the cause.",
    )


def test_metadata_become_headers_and_those_of_the_call_do_not(answered: Any) -> None:
    sent = {
        "x-api-key": "k",
        "x-user": "17",
        "x-request-id": "r-1",
        "x-forwarded-for": "1.2.3.4",
        "inference-header-content-length": "3",
        "content-encoding": "gzip",
        "trace-bin": b"\x00",
    }
    gateway = FakeGateway()
    answered(gateway, lambda channel: infer(channel, metadata=list(sent.items())))
    (head,) = gateway.received
    request_line, *lines = head.strip().splitlines()
    assert request_line == "POST /v2/models/toy/infer HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert headers.pop("content-length") == str(len('{"inputs":[]}'))
    assert headers == {
        "host": "localhost",
        "content-type": "application/json",
        "x-api-key": "k",
        "x-user": "17",
        "x-request-id": "r-1",
    }


def test_request_ends_with_the_deadline_of_the_call(answered: Any) -> None:
    gateway = FakeGateway(status=None)

    async def ask(channel: grpc.aio.Channel) -> str:
        request = service_pb2.ModelInferRequest(model_name="toy").SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(f"{METHOD}ModelInfer")(request, timeout=0.5)
        # Nobody waits for the answer, so the request to the gateway ends too.
        await asyncio.wait_for(gateway.closed.wait(), 20)
        return error.value.code().name

    assert answered(gateway, ask) == "DEADLINE_EXCEEDED"
    assert len(gateway.received) == 1


def test_large_messages_are_under_way_up_to_a_bound(answered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_bridge, "BYTES_AT_ONCE", 1_000_000)
    gateway = FakeGateway(status=None)
    request = service_pb2.ModelInferRequest(model_name="toy", raw_input_contents=[b"x" * 400_000])
    request.inputs.add(name="large", datatype="BYTES", shape=[1])
    content = request.SerializeToString()

    async def ask(channel: grpc.aio.Channel) -> tuple[str, str]:
        method = channel.unary_unary(f"{METHOD}ModelInfer")
        waiting = [asyncio.ensure_future(method(content, timeout=60)) for _ in range(2)]
        while len(gateway.received) < len(waiting):
            await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await method(content, timeout=60)
        # A small one is still answered.
        await channel.unary_unary(f"{METHOD}ServerLive")(b"", timeout=20)
        for each in waiting:
            each.cancel()
        return error.value.code().name, error.value.details()

    assert answered(gateway, ask) == ("UNAVAILABLE", "Too many large messages are under way.")


def test_gateway_that_is_gone_is_unavailable(answered: Any) -> None:
    async def ask(channel: grpc.aio.Channel) -> Any:
        Path(REST_SOCKET).unlink()
        return await refused(channel)

    assert answered(FakeGateway(), ask) == ("UNAVAILABLE", "The gateway does not answer.", {"retry-after": "1"})


def test_model_that_starts_is_not_ready_and_an_unknown_one_is_not_found(answered: Any) -> None:
    async def ready(channel: grpc.aio.Channel) -> bool | str:
        request = service_pb2.ModelReadyRequest(name="toy").SerializeToString()
        try:
            answer = await channel.unary_unary(f"{METHOD}ModelReady")(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return bool(service_pb2.ModelReadyResponse.FromString(answer).ready)

    found = [answered(FakeGateway(status), ready) for status in (200, 503, 404)]
    assert found == [True, False, "NOT_FOUND"]


def test_bounds_are_those_of_the_gateway() -> None:
    assert PREFIX == REST_PREFIX
    assert MAX_MESSAGE_BYTES == MAX_BODY_BYTES
    # The gateway answers first, so a client gets its status.
    assert ANSWER_SECONDS > MAX_TIMEOUT_SECONDS
    # A slow model leaves calls for others.
    assert CALLS_AT_ONCE >= 2 * (REQUESTS_AT_ONCE + REQUESTS_WAITING)
