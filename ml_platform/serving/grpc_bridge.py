"""Answers gRPC calls of the Open Inference Protocol by the REST form: `python -m ml_platform.serving.grpc_bridge`.

It runs in the gateway's folder and listens on a Unix socket there. Each call becomes a request to the gateway with the
client's metadata as headers, so keys, weights, shadows, limits and logs are those of every request.

A new bridge takes the name of the socket from an earlier one, which then ends when it has answered its calls.
"""

import asyncio
import json
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ml_platform.data.names import FULL_NAME
from ml_platform.serving.bridge_settings import (
    ANSWER_SECONDS,
    BRIDGE_SOCKET,
    BYTES_AT_ONCE,
    CALLS_AT_ONCE,
    MAX_MESSAGE_BYTES,
    REST_SOCKET,
)
from ml_platform.serving.grpc_reflection import (
    HEALTH_METHOD,
    HEALTH_SERVICE,
    MAX_QUESTIONS,
    PACKAGES,
    REFLECTION_METHOD,
    REFLECTION_SERVICES,
    reflection_answer,
)
from ml_platform.serving.grpc_status import GrpcStatus, grpc_status
from ml_platform.serving.inference_forms import InvalidMessageError, infer_response, metadata_response, rest_request
from ml_platform.serving.inference_messages import SERVICE, message
from ml_platform.serving.marked_processes import BRIDGE, RUN_VARIABLE, process_name, processes_of, signal_process

if TYPE_CHECKING:
    import aiohttp
    import grpc

logger = logging.getLogger("grpc_bridge")

PREFIX = "/v2"
"""Start of the paths of the REST form."""

STOP_SECONDS = 30
"""Longest wait for the calls under way when the bridge ends."""

IDLE_SECONDS = 30
"""Time after which a connection to the gateway without a request is closed."""

CONNECTION_SECONDS, RETIRE_SECONDS = 3, 6
"""Age at which the gateway opens another connection, to the bridge that has the socket then; and time for all to do so.

A server that ends at once fails the calls that arrive in that moment.
"""

MAX_NAME = 200
"""Characters of a model's name; a longer one is of no model."""

MAX_TEXT = 1_000
"""Characters of an error's text; it is sent as a header, whose size is limited."""

TRAILERS = ("x-request-id", "x-prediction-id", "retry-after", "deprecation", "sunset", "link")
"""Headers of the REST form's answer that a call has as trailers."""

_OWN_HEADERS = re.compile(
    r"grpc-.*|.*-bin|x-forwarded-.*|x-envoy-.*|content-.*|inference-header-.*|accept-encoding|host|connection|te|trailer"
    r"|transfer-encoding|upgrade|keep-alive|expect|proxy-.*|user-agent"
)
"""Metadata that say something about the call itself, not about the request of the REST form."""

_VERSION = re.compile(r"[0-9A-Za-z_-]{1,64}")


class CallError(Exception):
    """Ends a call with a status of gRPC, a text, and trailers."""

    def __init__(self, status: GrpcStatus, text: str, trailers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.trailers = status, dict(trailers or {})


@dataclass(frozen=True)
class Call:
    """The metadata of a call as headers, and the seconds until its deadline; ``trailers`` are those of its answer."""

    headers: list[tuple[str, str]]
    seconds: float
    trailers: dict[str, str] = field(default_factory=dict)


Method = Callable[[Any, Call], Awaitable[Any]]


class Bridge:
    """The methods of the protocol, each answered by requests of ``session`` to the gateway."""

    def __init__(self, session: "aiohttp.ClientSession") -> None:
        self._session = session
        self._bytes = 0
        self.methods: dict[str, Method] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }
        self.health_methods = {HEALTH_METHOD: self.health_check}

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count a message of ``size`` bytes as under way; raises :class:`CallError` beyond :data:`BYTES_AT_ONCE`."""
        if self._bytes + size > BYTES_AT_ONCE:
            raise CallError(GrpcStatus.UNAVAILABLE, "Too many large messages are under way.", {"retry-after": "1"})
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    async def server_live(self, request: Any, call: Call) -> Any:
        """Return that the server lives, since it answers."""
        return message("ServerLiveResponse")(live=True)

    async def server_ready(self, request: Any, call: Call) -> Any:
        """Return whether the gateway is ready."""
        return message("ServerReadyResponse")(ready=await self._is_ready(f"{PREFIX}/health/ready", call))

    async def health_check(self, request: Any, call: Call) -> Any:
        """Return whether the gateway, or the model that the call names as service, can answer; else NOT_FOUND."""
        from grpc_health.v1.health_pb2 import HealthCheckResponse

        path = f"{PREFIX}/health" if request.service in ("", SERVICE) else _model_path(request.service, "")
        is_ready = await self._is_ready(f"{path}/ready", call)
        return HealthCheckResponse(status="SERVING" if is_ready else "NOT_SERVING")

    async def server_metadata(self, request: Any, call: Call) -> Any:
        """Return name, version and extensions of the gateway."""
        return message("ServerMetadataResponse")(**await self._answer("GET", PREFIX, call))

    async def model_ready(self, request: Any, call: Call) -> Any:
        """Return whether the model can answer; an unknown one is NOT_FOUND."""
        path = f"{_model_path(request.name, request.version)}/ready"
        return message("ModelReadyResponse")(ready=await self._is_ready(path, call))

    async def model_metadata(self, request: Any, call: Call) -> Any:
        """Return the tensors of the model."""
        return metadata_response(await self._answer("GET", _model_path(request.name, request.version), call))

    async def model_infer(self, request: Any, call: Call) -> Any:
        """Return the predictions, in raw form when the request has raw contents."""
        path = f"{_model_path(request.model_name, request.model_version)}/infer"
        body, headers = rest_request(request)
        answer = await self._answer("POST", path, call, body, headers)
        return infer_response(answer, raw=bool(request.raw_input_contents))

    async def _is_ready(self, path: str, call: Call) -> bool:
        status, body, headers = await self._send("GET", path, call)
        if status not in (200, 503):
            raise _call_error(status, body, headers)
        return status == 200

    async def _answer(
        self, method: str, path: str, call: Call, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        status, answer, received = await self._send(method, path, call, body, headers)
        if status != 200:
            raise _call_error(status, answer, received)
        call.trailers.update(_trailers(received))
        found: dict[str, Any] = json.loads(answer)
        return found

    async def _send(
        self, method: str, path: str, call: Call, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        import aiohttp
        from yarl import URL

        # The gateway answers requests to this host wherever it listens.
        url = URL(f"http://localhost{path}", encoded=True)
        timeout = aiohttp.ClientTimeout(total=call.seconds)
        sent = [*call.headers, *(headers or {}).items()]
        try:
            async with self._session.request(
                method, url, data=body or None, headers=sent, timeout=timeout, allow_redirects=False
            ) as answer:
                return answer.status, await answer.read(), answer.headers
        except TimeoutError:
            raise CallError(GrpcStatus.DEADLINE_EXCEEDED, "No answer before the deadline of the call.") from None
        except aiohttp.ClientError as error:
            logger.warning("the gateway did not answer: %s", error)
            raise CallError(GrpcStatus.UNAVAILABLE, "The gateway does not answer.", {"retry-after": "1"}) from None


def _model_path(name: str, version: str) -> str:
    """Return the path of the model; raises :class:`CallError` for a name or version that none can have."""
    if len(name) > MAX_NAME or not re.fullmatch(FULL_NAME, name):
        raise CallError(GrpcStatus.NOT_FOUND, f"There is no model '{name[:100]}'.")
    if not version:
        return f"{PREFIX}/models/{name}"
    if not _VERSION.fullmatch(version):
        raise CallError(GrpcStatus.NOT_FOUND, f"Model {name} has no version '{version[:100]}'.")
    return f"{PREFIX}/models/{name}/versions/{version}"


def _call_error(status: int, body: bytes, headers: Mapping[str, str]) -> CallError:
    try:
        error = json.loads(body)["error"]
        text = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace").strip()
    return CallError(grpc_status(status), text, _trailers(headers))


def _trailers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in TRAILERS if name in headers}


def _generic_handlers(bridge: Bridge) -> "list[grpc.GenericRpcHandler[Any, Any]]":
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest

    inference = {
        method: _handler(bridge, method, message(f"{method}Request"), answer)
        for method, answer in bridge.methods.items()
    }
    health = {
        method: _handler(bridge, method, HealthCheckRequest, answer) for method, answer in bridge.health_methods.items()
    }
    reflections = {
        service: {REFLECTION_METHOD: _reflection_handler(package)}
        for service, package in zip(REFLECTION_SERVICES, PACKAGES, strict=True)
    }
    services = {SERVICE: inference, HEALTH_SERVICE: health, **reflections}
    return [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]


def _reflection_handler(package: str) -> "grpc.RpcMethodHandler[Any, Any]":
    """Return the handler of the reflection service of ``package``."""
    import grpc
    from google.protobuf.message import DecodeError

    async def handle(questions: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        answered = 0
        async for question in questions:
            if answered == MAX_QUESTIONS or len(question) > MAX_TEXT:
                text = f"A call has at most {MAX_QUESTIONS} requests of at most {MAX_TEXT} bytes."
                await _abort(context, CallError(GrpcStatus.RESOURCE_EXHAUSTED, text))
            try:
                answer = reflection_answer(package, question)
            except DecodeError:
                await _abort(context, CallError(GrpcStatus.INVALID_ARGUMENT, "The message is no such request."))
            answered += 1
            yield answer

    return grpc.stream_stream_rpc_method_handler(handle)


def _handler(bridge: Bridge, method: str, request_type: Any, answer: Method) -> "grpc.RpcMethodHandler[Any, Any]":
    """Return the handler of ``method``, which ends each call with the ``answer`` to it or with a status."""
    import grpc
    from google.protobuf.message import DecodeError

    async def handle(received: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        call = _call(context)
        try:
            with bridge.holding(len(received)):
                response = await answer(request_type.FromString(received), call)
        except DecodeError:
            await _abort(context, CallError(GrpcStatus.INVALID_ARGUMENT, f"The message is no {method}Request."))
        except InvalidMessageError as error:
            await _abort(context, CallError(GrpcStatus.INVALID_ARGUMENT, str(error)))
        except CallError as error:
            await _abort(context, error)
        except Exception:
            logger.exception("%s failed", method)
            await _abort(context, CallError(GrpcStatus.INTERNAL, "The bridge failed; its log has the cause."))
        context.set_trailing_metadata(tuple(call.trailers.items()))
        return response

    # The handler reads the message itself: an error of a deserializer would be of unknown status.
    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialized)


def _serialized(response: Any) -> bytes:
    data: bytes = response.SerializeToString()
    return data


def _call(context: "grpc.aio.ServicerContext[Any, Any]") -> Call:
    metadata = [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]
    headers = [(name, value) for name, value in metadata if not _OWN_HEADERS.fullmatch(name)]
    left = context.time_remaining()
    return Call(headers, ANSWER_SECONDS if left is None else min(max(left, 0.001), ANSWER_SECONDS))


async def _abort(context: "grpc.aio.ServicerContext[Any, Any]", error: CallError) -> NoReturn:
    import grpc

    await context.abort(grpc.StatusCode[error.status.name], str(error)[:MAX_TEXT], tuple(error.trailers.items()))
    raise AssertionError("abort always raises")


@asynccontextmanager
async def running_bridge() -> AsyncIterator[None]:
    """Run the bridge in the working directory, which must be the gateway's folder, until the end of the block.

    The calls under way have :data:`STOP_SECONDS` to end.
    """
    import aiohttp
    import grpc

    connector = aiohttp.UnixConnector(REST_SOCKET, limit=CALLS_AT_ONCE, keepalive_timeout=IDLE_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("user-agent", "accept", "accept-encoding"),
        auto_decompress=False,
    ) as session:
        server = grpc.aio.server(
            handlers=_generic_handlers(Bridge(session)),
            maximum_concurrent_rpcs=CALLS_AT_ONCE,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", CALLS_AT_ONCE),
                ("grpc.max_connection_age_ms", CONNECTION_SECONDS * 1_000),
                ("grpc.max_connection_age_grace_ms", ANSWER_SECONDS * 1_000),
                # No compressed messages: a small one could become a huge one.
                ("grpc.compression_enabled_algorithms_bitset", 1),
            ],
        )
        # The socket gets its name when it answers, so calls reach an earlier bridge until then.
        new = Path(f"{BRIDGE_SOCKET}.new")
        server.add_insecure_port(f"unix:{new}")
        await server.start()
        new.rename(BRIDGE_SOCKET)
        try:
            yield
        finally:
            await server.stop(STOP_SECONDS)


def retire_earlier_bridges(run: Path) -> None:
    """Let the other bridges of ``run`` end when the gateway has left them and their calls are answered."""
    for process in processes_of(run):
        if process_name(process) == BRIDGE:
            signal_process(process, signal.SIGUSR1)


async def main() -> None:
    """Run the bridge in the working directory until SIGTERM or SIGINT, or for a while after SIGUSR1."""
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, loop.call_later, RETIRE_SECONDS, stopping.set)
    async with running_bridge():
        if run := os.environ.get(RUN_VARIABLE):
            retire_earlier_bridges(Path(run))
        await stopping.wait()


if __name__ == "__main__":
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncio.run(main())
