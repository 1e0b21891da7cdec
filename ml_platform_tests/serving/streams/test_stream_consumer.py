"""The consumer of one stream: a real NATS server, and a gateway whose answers the request chooses."""

import asyncio
import json
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from ml_platform.serving.certificates import self_signed_pair
from ml_platform.serving.processes import free_port
from ml_platform.serving.serving_settings import ServingSettings
from ml_platform.serving.streams.gateway_client import GatewayClient, Outcome
from ml_platform.serving.streams.message_stream import StreamAwayError, StreamError
from ml_platform.serving.streams.nats_stream import NatsMessage, NatsStream
from ml_platform.serving.streams.stream_consumer import StreamConsumer
from ml_platform_tests.nats_server import running_nats

SECONDS = 60.0
FIRST_ID = "00000000-0000-7000-8000-000000000000"


class Gateway:
    """Answers each request by its first row: ``status`` once, or ``always``; ``size`` makes a long answer.

    A row with ``ends`` ends the service, and with it all requests that it has.
    """

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.ends = 0
        self.keys: set[str | None] = set()
        self.at_once, self.most_at_once, self.pause = 0, 0, threading.Event()
        self._lock = threading.Lock()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = gateway.answer(self.headers["x-request-id"], self.headers["x-api-key"], body)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.send_header("x-prediction-id", FIRST_ID)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request_id: str, key: str | None, body: bytes) -> tuple[int, bytes]:
        with self._lock:
            self.received[request_id] += 1
            self.keys.add(key)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.ends += b'"ends"' in body
            ends = self.ends - (b'"ends"' in body)
        self.pause.wait(0.02)
        with self._lock:
            self.at_once -= 1
            if self.ends > ends:
                return 503, b'{"error": {"status": 503, "reason": "interrupted", "message": "ended"}}'
        try:
            rows = json.loads(body)["rows"]
        except (ValueError, TypeError, KeyError):
            return 400, b'{"error": {"status": 400, "reason": "json", "message": "no JSON"}}'
        status = rows[0].get("always") or (rows[0].get("status", 200) if self.received[request_id] == 1 else 200)
        if status != 200:
            return status, json.dumps({"error": {"status": status, "reason": "test", "message": "no"}}).encode()
        predictions = [{"score": each.get("x", 0), "pad": "y" * each.get("size", 0)} for each in rows]
        return 200, json.dumps({"predictions": predictions, "request_id": request_id}).encode()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_nats(tmp_path_factory.mktemp("nats")) as address:
        yield address


def stream(server: str, **settings: Any) -> NatsStream:
    subjects = {"requests": "flights.requests", "results": "answers.flights", "dead_letters": "refused.flights"}
    values = {"server": server, "consumer": "toy", "ack_seconds": 1, "timeout_seconds": 0.9, **subjects, **settings}
    return NatsStream.model_validate(values)


@asynccontextmanager
async def jetstream(server: str) -> AsyncIterator[JetStreamContext]:
    """A connection to empty streams of the subjects."""
    client: Client = await nats.connect(server)
    context = client.jetstream()
    for name in ("flights", "answers", "refused"):
        with suppress(NotFoundError):
            await context.delete_stream(name)
        await context.add_stream(name=name, subjects=[f"{name}.>"], duplicate_window=120)
    try:
        yield context
    finally:
        await client.close()


@asynccontextmanager
async def consuming(stream: NatsStream, gateway: Gateway, key: str | None = None) -> AsyncIterator[StreamConsumer]:
    def client() -> GatewayClient:
        return GatewayClient(gateway.url, "toy", connections=stream.in_flight, timeout_seconds=5, key=key)

    consumer, stopping = StreamConsumer("toy", stream, client), asyncio.Event()
    task = asyncio.create_task(consumer.run(stopping))
    try:
        yield consumer
    finally:
        stopping.set()
        await asyncio.wait_for(task, SECONDS)


async def reached(condition: Callable[[], Awaitable[Any]]) -> Any:
    async def poll() -> Any:
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found

    return await asyncio.wait_for(poll(), SECONDS)


async def messages(context: JetStreamContext, name: str, count: int) -> list[tuple[str | None, Any]]:
    """Return the id and the content of the ``count`` messages of a stream, once there are as many."""

    async def enough() -> bool:
        return (await context.stream_info(name)).state.messages >= count

    await reached(enough)
    stored = (await context.stream_info(name)).state.messages
    found = [await context.get_msg(name, seq) for seq in range(1, stored + 1)]
    return [((each.headers or {}).get("Nats-Msg-Id"), json.loads(each.data or b"")) for each in found]


async def confirmed(context: JetStreamContext, count: int) -> None:
    """Wait until the first ``count`` requests are confirmed."""

    async def done() -> bool:
        with suppress(NotFoundError):  # the consumer is made when it begins
            floor = (await context.consumer_info("flights", "toy")).ack_floor
            return floor is not None and floor.stream_seq >= count
        return False

    await reached(done)


async def send(context: JetStreamContext, request_id: str | None, value: Any) -> None:
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    await context.publish(
        "flights.requests", payload, headers=None if request_id is None else {"Nats-Msg-Id": request_id}
    )


def test_row_and_rows_are_answered_with_their_ids(server: str, gateway: Gateway) -> None:
    async def scenario() -> None:
        async with jetstream(server) as context, consuming(stream(server), gateway, key="secret"):
            await send(context, "one", {"x": 1})
            await send(context, None, {"rows": [{"x": 2}, {"x": 3}]})
            found = dict(await messages(context, "answers", 2))
        assert found == {
            "toy/one": {
                "predictions": [{"score": 1, "pad": "", "prediction_id": FIRST_ID}],
                "request_id": "one",
            },
            # Without an id of the sender, the place in the stream is the id.
            "toy/flights-2": {
                "predictions": [
                    {"score": 2, "pad": "", "prediction_id": FIRST_ID},
                    {"score": 3, "pad": "", "prediction_id": FIRST_ID[:-1] + "1"},
                ],
                "request_id": "flights-2",
            },
        }

    asyncio.run(scenario())
    assert gateway.keys == {"secret"}


def test_refused_requests_go_to_the_dead_letters_with_their_error_and_block_nothing(
    server: str, gateway: Gateway
) -> None:
    async def scenario() -> None:
        async with jetstream(server) as context, consuming(stream(server, in_flight=1), gateway) as consumer:
            await send(context, "wrong", {"always": 422})
            await send(context, "no-json", b"\xff no JSON")
            await send(context, "i" * 201, {"x": 1})
            await send(context, "large", {"size": 2**20})
            await send(context, "good", {"x": 7})
            answers = await messages(context, "answers", 1)
            letters = dict(await messages(context, "refused", 4))
            await confirmed(context, 5)
            assert (consumer.status.answered, consumer.status.refused, consumer.status.problem) == (1, 4, None)
        assert [name for name, _ in answers] == ["toy/good"]
        assert letters["toy/wrong"] == {
            "request_id": "wrong",
            "status": 422,
            "error": {"status": 422, "reason": "test", "message": "no"},
            "request": '{"always": 422}',
        }
        assert (letters["toy/no-json"]["status"], letters["toy/no-json"]["request_base64"]) == (400, "/yBubyBKU09O")
        assert letters["toy/" + "i" * 201]["error"]["reason"] == "request_id"
        assert letters["toy/large"]["error"]["reason"] == "answer_too_large"

    asyncio.run(scenario())


def test_request_is_asked_again_when_the_status_says_nothing_about_it(server: str, gateway: Gateway) -> None:
    statuses = (401, 404, 429, 503)

    async def scenario() -> None:
        async with jetstream(server) as context, consuming(stream(server), gateway) as consumer:
            for status in statuses:
                await send(context, str(status), {"status": status})
            found = [name for name, _ in await messages(context, "answers", 4)]
            assert sorted(map(str, found)) == [f"toy/{status}" for status in statuses]
            await confirmed(context, 4)
            assert (await context.stream_info("refused")).state.messages == 0
            assert (consumer.status.put_back, consumer.status.state) == (4, "consuming")

    asyncio.run(scenario())
    assert gateway.received == {str(status): 2 for status in statuses}


def test_request_on_which_the_service_always_fails_is_refused_after_its_attempts(server: str, gateway: Gateway) -> None:
    async def scenario() -> None:
        async with jetstream(server) as context, consuming(stream(server, attempts=2), gateway):
            await send(context, "poison", {"always": 500})
            await send(context, "hangs", {"always": 504})
            await send(context, "good", {"x": 1})
            assert [name for name, _ in await messages(context, "answers", 1)] == ["toy/good"]
            letters = await messages(context, "refused", 2)
            assert {name: each["status"] for name, each in letters} == {"toy/poison": 500, "toy/hangs": 504}

    asyncio.run(scenario())
    assert gateway.received == {"poison": 2, "hangs": 2, "good": 1}


def test_request_that_ends_its_service_is_refused_and_takes_no_other_one_along(server: str, gateway: Gateway) -> None:
    async def scenario() -> None:
        async with jetstream(server) as context:
            for number in range(5):
                await send(context, f"{number}", {"x": number})
            await send(context, "poison", {"ends": True})
            async with consuming(stream(server, attempts=2, in_flight=6), gateway):
                answers = await messages(context, "answers", 5)
                ((name, letter),) = await messages(context, "refused", 1)
                await send(context, "later", {"x": 9})
                await messages(context, "answers", 6)
        assert {name for name, _ in answers} == {f"toy/{number}" for number in range(5)}
        assert (name, letter["status"], letter["error"]["reason"]) == ("toy/poison", 503, "interrupted")

    asyncio.run(scenario())
    assert (gateway.received["poison"], gateway.received["later"]) == (2, 1)
    # All were in the service when it ended first; each was sent once more.
    assert {gateway.received[f"{number}"] for number in range(5)} <= {1, 2}


def test_deliveries_without_an_answer_are_no_failures_of_a_request(server: str, gateway: Gateway) -> None:
    statuses = iter([503, 429, 503, 500])

    def answer(request_id: str, key: str | None, body: bytes) -> tuple[int, bytes]:
        return next(statuses, 200), b'{"predictions": []}'

    gateway.answer = answer  # type: ignore[method-assign]

    async def scenario() -> None:
        async with jetstream(server) as context, consuming(stream(server, attempts=2), gateway):
            await send(context, "one", {"x": 1})
            assert [name for name, _ in await messages(context, "answers", 1)] == ["toy/one"]
            assert (await context.stream_info("refused")).state.messages == 0

    asyncio.run(scenario())


def test_answer_appears_once_when_its_request_is_delivered_again(
    server: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm, lost = NatsMessage.confirm, Counter[str]()

    async def lose_the_first(self: NatsMessage) -> None:
        lost[self.id] += 1
        if lost[self.id] > 1:
            await confirm(self)

    monkeypatch.setattr(NatsMessage, "confirm", lose_the_first)

    async def scenario() -> None:
        async with jetstream(server) as context, consuming(stream(server), gateway):
            await send(context, "one", {"x": 1})
            await send(context, "wrong", {"always": 422})
            await confirmed(context, 2)
            assert len(await messages(context, "answers", 1)) == 1
            assert len(await messages(context, "refused", 1)) == 1

    asyncio.run(scenario())
    assert gateway.received == {"one": 2, "wrong": 2}


def test_no_more_requests_are_asked_at_once_than_declared(server: str, gateway: Gateway) -> None:
    async def scenario() -> None:
        async with jetstream(server) as context:
            for number in range(40):
                await send(context, str(number), {"x": number})
            async with consuming(stream(server, in_flight=3), gateway):
                await messages(context, "answers", 40)

    asyncio.run(scenario())
    assert gateway.most_at_once == 3


def test_gateway_that_is_away_is_named_and_loses_no_request(server: str, gateway: Gateway) -> None:
    async def scenario() -> None:
        async with jetstream(server) as context:
            await send(context, "one", {"x": 1})
            address = f"http://127.0.0.1:{free_port()}"

            def client() -> GatewayClient:
                return GatewayClient(address, "toy", connections=4, timeout_seconds=5)

            consumer, stopping = StreamConsumer("toy", stream(server), client), asyncio.Event()
            task = asyncio.create_task(consumer.run(stopping))

            async def waits() -> bool:
                return consumer.status.state == "waiting"

            await reached(waits)
            assert "the gateway does not answer" in str(consumer.status.problem)
            assert consumer.status.text.startswith("flights.requests of nats://127.0.0.1")
            address = gateway.url
            assert [name for name, _ in await messages(context, "answers", 1)] == ["toy/one"]
            stopping.set()
            await task

    asyncio.run(scenario())


def test_only_the_certificate_of_the_gateway_is_trusted(tmp_path: Path, gateway: Gateway) -> None:
    pairs = [self_signed_pair(tmp_path / name, ["gateway.example"], datetime.now(UTC)) for name in ("own", "other")]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pairs[0])
    gateway.server.socket = context.wrap_socket(gateway.server.socket, server_side=True)
    address = gateway.url.replace("http://", "https://")

    async def outcome(certificate: Path) -> Outcome:
        client = GatewayClient(address, "toy", connections=1, timeout_seconds=20, certificate=certificate)
        found = await client.ask("one", b'{"x": 1}')
        await client.close()
        return found

    assert asyncio.run(outcome(pairs[0][0])).kind == "answered"
    refused = asyncio.run(outcome(pairs[1][0]))
    assert (refused.kind, "certificate verify failed" in refused.reason) == ("busy", True)


def test_server_that_is_away_is_named_and_its_requests_are_answered_when_it_is_back(
    tmp_path: Path, gateway: Gateway
) -> None:
    port = free_port()
    address = f"nats://127.0.0.1:{port}"

    async def scenario() -> None:
        with running_nats(tmp_path, port):
            async with jetstream(address) as context:
                await send(context, "one", {"x": 1})
        async with consuming(stream(address), gateway) as consumer:

            async def away() -> bool:
                return consumer.status.problem not in (None, "connecting")

            await reached(away)
            assert consumer.status.state == "away"
            assert "a NATS server that accepts the connection" in str(consumer.status.problem)
            with running_nats(tmp_path, port):

                async def consumes() -> bool:
                    return (consumer.status.state, consumer.status.answered) == ("consuming", 1)

                await reached(consumes)
            await reached(away)

    asyncio.run(scenario())
    assert gateway.received == {"one": 1}


def test_wrong_streams_are_refused_by_name(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with jetstream(server) as context:
            with pytest.raises(StreamError, match=r"Subject 'nowhere.requests'.*expected a JetStream stream with it"):
                await stream(server, requests="nowhere.requests").connect("toy")
            await context.update_stream(name="answers", subjects=["answers.>"], duplicate_window=0.5)
            with pytest.raises(StreamError, match=r"Stream 'answers'.*a duplicate window of at least ack_seconds, 1 s"):
                await stream(server).connect("toy")
            with pytest.raises(StreamError, match="Environment variable NATS_ADDRESS"):
                await stream("$NATS_ADDRESS").connect("toy")

    monkeypatch.delenv("NATS_ADDRESS", raising=False)
    asyncio.run(scenario())


def test_credentials_come_from_the_environment(
    tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_TOKEN", "t0ken")

    async def scenario() -> None:
        with running_nats(tmp_path, None, "--auth", "t0ken") as address:
            with pytest.raises(StreamAwayError, match="Authorization Violation"):
                await stream(address).connect("toy")
            client = await nats.connect(address, token="t0ken")
            for name in ("flights", "answers", "refused"):
                await client.jetstream().add_stream(name=name, subjects=[f"{name}.>"], duplicate_window=120)
            await (await stream(address, credentials={"token": "STREAM_TOKEN"}).connect("toy")).close()
            await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"results": "flights.requests"}, "results: 'flights.requests' is among the requests"),
        ({"requests": "flights.>", "dead_letters": "flights.refused"}, "dead_letters: .* is among the requests"),
        ({"server": "nats://user:secret@host:4222"}, "server\n.*should match pattern"),
        ({"credentials": {"token": "not a variable"}}, "credentials"),
        ({"timeout_seconds": 2}, "timeout_seconds: 2 is not below ack_seconds, 1"),
    ],
)
def test_declaration_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stream(**{"server": "nats://127.0.0.1:4222", **settings})


def test_two_streams_of_one_consumer_are_refused_and_a_bento_does_not_carry_streams() -> None:
    declared = stream("nats://127.0.0.1:4222", ack_seconds=60, timeout_seconds=11).model_dump()
    with pytest.raises(ValidationError, match="the consumer 'toy' is declared twice"):
        ServingSettings.model_validate({"streams": [declared, declared]})
    assert ServingSettings.model_validate({"streams": [declared]}).of_version == {}
    with pytest.raises(ValidationError, match="11, is not above that of the endpoint, 20"):
        ServingSettings.model_validate({"streams": [declared], "timeout_seconds": 20})
