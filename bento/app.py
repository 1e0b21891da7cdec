"""The endpoint itself: a small ASGI application that BentoML's server runs instead of its own, five times as fast.

BentoML's limits do not reach here, so they are kept here: size of a body and time for it to arrive, requests at once,
counts and latencies, one answer for whatever goes wrong. Nothing that happens in a request ends the service.
"""

import asyncio
import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from bento.docs_page import docs_page
from bento.metrics import CONTENT_TYPE, Metrics
from bento.prediction_log import Answered, PredictionLog
from bento.predictor import Predictor
from bento.reasons import reasons_asked
from ml_platform.errors import PlatformError
from ml_platform.serving.contract import MAX_ROWS_WITH_REASONS, FieldError, RequestInvalid, ValidRequest

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("bento.app")

ROLE_HEADER = b"x-ml-platform-role"
ROLES = {b"stable": "stable", b"candidate": "candidate", b"shadow": "shadow"}
SHADOW_HOST = b"-shadow"
"""What the gateway appends to the host of a mirrored request."""

INLINE_ROWS = 20
"""Up to so many rows are predicted on the event loop; more, with reasons, or with features on a server: in a thread."""

JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(frozen=True)
class Limits:
    """What one service takes upon itself at most."""

    requests_at_once: int = 64
    body_seconds: float = 10.0
    answer_seconds: float = 30.0


@dataclass(frozen=True)
class Served:
    """Who answers: model, version, and where its predictions are logged (None: nowhere)."""

    model: str
    version: str
    log_folder: Path | None


class Refused(Exception):  # noqa: N818
    """Ends a request with a status of its own."""

    def __init__(
        self, status: int, reason: str, message: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or []


class PredictApp:
    """``POST /v1/<model>/predict`` and the pages beside it, as an ASGI application."""

    def __init__(self, served: Served, load: Callable[[], Predictor], limits: Limits | None = None) -> None:
        """Make the application of ``served``; ``load`` is called when the server starts, before it is ready."""
        self.served = served
        self.limits = limits or Limits()
        self.metrics = Metrics(served.model, served.version)
        self.in_flight = 0
        self.ready = False
        self._load = load
        self._predictor: Predictor | None = None
        self._log: PredictionLog | None = None
        self._path = f"/v1/{served.model}/predict"
        self._model = orjson.dumps({"name": served.model, "version": served.version})
        self._pages: dict[str, Callable[[], tuple[int, bytes, bytes]]] = {
            "/healthz": lambda: (200, b"text/plain", b"ok\n"),
            "/livez": lambda: (200, b"text/plain", b"ok\n"),
            "/readyz": self._readiness,
            "/metrics": self._metrics_page,
            "/openapi.json": self._openapi_page,
            # The gateway hands on what lies under the model's own path.
            f"/v1/{served.model}/openapi.json": self._openapi_page,
            f"/v1/{served.model}/": self._docs_page,
            "/": self._docs_page,
        }

    @property
    def predictor(self) -> Predictor:
        if self._predictor is None:
            raise Refused(503, "starting", "The service is still starting.")
        return self._predictor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self.start()
        except Exception as error:
            logger.exception("the service cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def start(self) -> None:
        """Load the model and answer one made-up request, so that the first real one is as fast as the next."""
        # The log's thread hands the interpreter back ten times sooner than by default: requests come first.
        sys.setswitchinterval(0.0005)
        self._predictor = self._load()
        self._warm_up(self._predictor)
        if self.served.log_folder is not None:
            self._log = PredictionLog(
                self.served.log_folder, self.served.model, self.served.version, on_written=self.metrics.tell
            )
        self.ready = True

    def stop(self) -> None:
        """Write out the prediction log. The server calls it when the requests under way are answered."""
        self.ready = False
        if self._log is not None:
            self._log.close()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        extra: list[tuple[bytes, bytes]] = []
        try:
            status, kind, body = await self._answer(scope, headers, receive, request_id)
        except RequestInvalid as error:
            self.metrics.refuse(error.reason)
            status, kind, body = error.status, JSON, _error_body(error.to_dict(), request_id)
        except Refused as error:
            self.metrics.refuse(error.reason)
            status, kind, extra = error.status, JSON, error.headers
            body = _error_body(_told(error.status, error.reason, str(error)), request_id)
        except PlatformError as error:
            # What a person can mend from outside, like a feature view that was never published.
            self.metrics.refuse("unavailable")
            logger.error("request %s: %s", request_id, error)
            status, kind, body = 503, JSON, _error_body(_told(503, "unavailable", str(error)), request_id)
        except Exception:
            self.metrics.refuse("bug")
            logger.exception("request %s failed", request_id)
            told = _told(500, "bug", "The service failed; its log tells why under the request id.")
            status, kind, body = 500, JSON, _error_body(told, request_id)
        length = str(len(body)).encode()
        sent = [
            (b"content-type", kind),
            (b"content-length", length),
            (b"x-request-id", request_id.encode()),
            *extra,
        ]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, request_id: str
    ) -> tuple[int, bytes, bytes]:
        path, method = scope["path"], scope["method"]
        if path != self._path:
            page = self._pages.get(path)
            if page is None:
                raise Refused(404, "path", f"There is no {path}; predictions are at POST {self._path}.")
            if method not in ("GET", "HEAD"):
                raise Refused(405, "method", f"{path} takes GET.", [(b"allow", b"GET, HEAD")])
            return page()
        if method != "POST":
            raise Refused(405, "method", f"{path} takes POST.", [(b"allow", b"POST")])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(
                415, "encoding", "Send the body as it is, not compressed.", [(b"accept-encoding", b"identity")]
            )
        if self.in_flight >= self.limits.requests_at_once:
            raise Refused(429, "overload", "Too many requests at once.", [(b"retry-after", b"1")])
        self.in_flight += 1
        try:
            most = reasons_asked(scope.get("query_string", b""))
            body = await self._body(headers, receive)
            return 200, JSON, await self._predict(body, headers, request_id, most)
        finally:
            self.in_flight -= 1

    async def _predict(self, body: bytes, headers: dict[bytes, bytes], request_id: str, most: int) -> bytes:
        started = time.perf_counter()
        predictor = self.predictor
        now = datetime.now(UTC)
        request = predictor.contract.validate(body, MAX_ROWS_WITH_REASONS if most else None)
        if len(request.rows) <= INLINE_ROWS and not most and not predictor.store.remote:
            prediction = predictor.predict(request, now)
        else:
            prediction = await self._within_answer_time(predictor.predict, request, now)
        told: list[dict[str, Any]] = [
            {"score": score, "label": label} for score, label in zip(prediction.scores, prediction.labels, strict=True)
        ]
        if most:
            found = await self._within_answer_time(predictor.reasons, prediction, most)
            told = [{**answer, "reasons": why} for answer, why in zip(told, found, strict=True)]
        answer = orjson.dumps({"predictions": told, "model": orjson.Fragment(self._model), "request_id": request_id})
        if self._log is not None:
            self._log.put(Answered(request_id, _role(headers), now, request.rows, prediction))
        self.metrics.rows.inc(len(told))
        self.metrics.latency.observe(time.perf_counter() - started)
        return answer

    async def _within_answer_time(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.wait_for(asyncio.to_thread(work, *arguments), self.limits.answer_seconds)
        except TimeoutError:
            raise Refused(503, "timeout", f"No answer within {self.limits.answer_seconds:g} s.") from None

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self.predictor.contract.max_bytes
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        message = await self._within_time(receive)
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await self._within_time(receive)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise _too_large(most)
        return b"".join(parts)

    async def _within_time(self, receive: Receive) -> MutableMapping[str, Any]:
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                message = await receive()
        except TimeoutError:
            raise Refused(408, "slow", f"The body did not arrive within {self.limits.body_seconds:g} s.") from None
        if message["type"] == "http.disconnect":
            raise Refused(400, "gone", "The client went away.")
        return message

    def _warm_up(self, predictor: Predictor) -> None:
        example: dict[str, Any] = {}
        for field in predictor.contract.fields:
            plain = {"string": "", "int": 0, "float": 0.0, "bool": False, "datetime": "2020-01-01T00:00:00Z"}[
                field.type
            ]
            example[field.name] = field.examples[0] if field.examples else plain
        for rows in (1, 2):  # one row and several take different paths
            request: ValidRequest = predictor.contract.validate(
                orjson.dumps({"rows": [example] * min(rows, predictor.contract.max_rows)})
            )
            predictor.predict(request, datetime.now(UTC))

    def _readiness(self) -> tuple[int, bytes, bytes]:
        return (200, b"text/plain", b"ready\n") if self.ready else (503, b"text/plain", b"starting or stopping\n")

    def _metrics_page(self) -> tuple[int, bytes, bytes]:
        self.metrics.in_flight.set(self.in_flight)
        self.metrics.dropped.set(0 if self._log is None else self._log.dropped_rows)
        return 200, CONTENT_TYPE, self.metrics.page()

    def _openapi_page(self) -> tuple[int, bytes, bytes]:
        return 200, JSON, orjson.dumps(self.predictor.contract.openapi(self.served.version))

    def _docs_page(self) -> tuple[int, bytes, bytes]:
        return 200, b"text/html; charset=utf-8", docs_page(self.predictor.contract, self.served.version).encode()


def _too_large(most: int) -> RequestInvalid:
    found = FieldError("body", f"at most {most} bytes", "more", "Send several smaller requests.")
    return RequestInvalid(413, "size", [found])


def _told(status: int, reason: str, message: str) -> dict[str, Any]:
    return {"error": {"status": status, "reason": reason, "message": message, "details": []}}


def _error_body(told: dict[str, Any], request_id: str) -> bytes:
    return orjson.dumps({**told, "request_id": request_id})


def _role(headers: dict[bytes, bytes]) -> str:
    host = headers.get(b"host", b"")
    if host.partition(b":")[0].endswith(SHADOW_HOST) or host.endswith(SHADOW_HOST):
        return "shadow"
    return ROLES.get(headers.get(ROLE_HEADER, b"stable"), "stable")
