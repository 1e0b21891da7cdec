"""The ASGI application of the prediction endpoint; BentoML's server runs it in place of its own, five times as fast.

BentoML's limits do not apply to it, so it enforces its own: body size, time to receive a body, concurrent requests. It
also counts requests and latencies, and answers every error in one form. No error in a request ends the service, and no
error of its prediction log.
"""

import asyncio
import gc
import logging
import os
import re
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from bento.batching import Batcher
from bento.client_places import ClientPlaces
from bento.docs_page import docs_page
from bento.log_protection import LogProtection
from bento.metrics import CONTENT_TYPE, Metrics
from bento.prediction_id import PredictionIds, row_prediction_id
from bento.prediction_log import AnsweredRequest, PredictionLog
from bento.predictor import Prediction, Predictor
from bento.reasons import RequestedReasons, requested_reasons
from bento.recent_scores import RecentScores
from bento.row_stream import GROUP_ROWS, STREAMS_AT_ONCE, ReceivedLines, answered_lines
from bento.traces import RequestTraces
from bento.uvicorn_request import has_whole_body, is_only_request, send_at_once
from ml_platform.data.pii import shown_error
from ml_platform.data.pseudonyms import PseudonymKey, pseudonym_key
from ml_platform.errors import PlatformError
from ml_platform.serving.open_inference import PREFIX, inference_answer, model_metadata, read_inference
from ml_platform.serving.openapi import MAX_REQUEST_ID_LENGTH, openapi_document
from ml_platform.serving.openapi import NDJSON as NDJSON_TYPE
from ml_platform.serving.request_contract import (
    MAX_ROWS_WITH_REASONS,
    FieldError,
    InvalidRequestError,
    RequestContract,
    ValidRequest,
)

Result = TypeVar("Result")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("bento.app")

ROLE_HEADER = b"x-ml-platform-role"
ROLES = {b"stable": "stable", b"candidate": "candidate", b"shadow": "shadow"}
JSON_SIZE_HEADER = b"inference-header-content-length"
"""Header of a request of the Open Inference Protocol with binary tensors after its JSON."""

CLIENT_HEADER = b"x-ml-platform-client"
"""Header with the name of the client whose key the request has; the gateway sets it, and removes one from outside."""

CONCURRENCY_HEADER = b"x-ml-platform-client-concurrency"
"""Header with the number of requests that the client may have under way in all services together."""

MAX_SIZE_DIGITS = 12
"""Digits of that header; Python reads no number of thousands of digits, which a client may send."""

SHADOW_HOST = b"-shadow"
"""Suffix that the gateway appends to the host of a mirrored request."""

INLINE_ROWS = 20
"""Maximum number of rows that are predicted on the event loop.

A thread predicts larger requests, requests for reasons, and requests whose features are on a server.
"""

GC_THRESHOLD = 20_000
"""New objects between two collections of the youngest generation; a request makes hundreds, and nearly no cycle."""

JSON, NDJSON = b"application/json", NDJSON_TYPE.encode()
MAX_SHOWN_PATH = 100
"""Characters of a path or header that an error repeats."""

TEXT = b"text/plain; charset=utf-8"
_CLIENT = re.compile(rb"[a-z][a-z0-9_-]{0,62}")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_REQUEST_ID_LENGTH)


@dataclass(frozen=True)
class Limits:
    """Limits of one service: concurrent requests, and seconds to receive a body and to predict.

    ``pause_seconds`` is the longest pause between two parts of the body of a stream.
    """

    requests_at_once: int = 64
    body_seconds: float = 10.0
    pause_seconds: float = 30.0
    answer_seconds: float = 30.0


@dataclass(frozen=True)
class ServiceConfig:
    """Model and version of the service, and the folder of its prediction log (None: no log).

    ``log_key`` returns the key by which the log hashes values that identify a person. ``log_share`` is the share of the
    requests that the log keeps. ``client_places`` is the file by which all services count the requests under way of
    each client; without one, this service counts alone.
    """

    model: str
    version: str
    log_folder: Path | None
    log_key: Callable[[], PseudonymKey] | None = None
    log_share: float = 1.0
    client_places: Path | None = None


class HttpError(Exception):
    """Ends a request with an HTTP status; ``reason`` is the label under which the error is counted.

    ``detail`` names the part of the request that is wrong, if one is.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        headers: list[tuple[bytes, bytes]] | None = None,
        detail: FieldError | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers, self.detail = status, reason, headers or [], detail


class Response(NamedTuple):
    """A response; ``headers`` are those beyond content type, content length and request id."""

    status: int
    content_type: bytes
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()


class StreamedResponse(NamedTuple):
    """A response of newline-delimited JSON whose ``parts`` are computed while it is sent; ``close`` ends it.

    ``client_left`` is done once the client has closed the connection.
    """

    parts: AsyncIterator[bytes]
    client_left: "asyncio.Task[None]"
    close: Callable[[], None]


class PredictApp:
    """ASGI application with ``POST /v1/<model>/predict`` and the pages about it."""

    def __init__(self, config: ServiceConfig, load: Callable[[], Predictor], limits: Limits | None = None) -> None:
        """Create the application of ``config``; ``load`` is called when the server starts, before it is ready."""
        self.config = config
        self.limits = limits or Limits()
        self.metrics = Metrics(config.model, config.version)
        self.recent_scores = RecentScores()
        self.in_flight = 0
        self._streams = 0
        self._clients = ClientPlaces(config.client_places)
        self.ready = False
        self._load = load
        self._predictor: Predictor | None = None
        self._batcher = Batcher(lambda requests: self.predictor.predict_together(requests))
        self._log: PredictionLog | None = None
        self._traces: RequestTraces | None = None
        self._ids = PredictionIds()
        self._path = f"/v1/{config.model}/predict"
        self._infer_paths = [
            f"{PREFIX}/models/{config.model}/infer",
            f"{PREFIX}/models/{config.model}/versions/{config.version}/infer",
        ]
        self._deprecation: list[tuple[bytes, bytes]] = []
        self._model = orjson.dumps({"name": config.model, "version": config.version})
        self._pages: dict[str, Callable[[], Response | Awaitable[Response]]] = {
            "/healthz": self._health,
            "/livez": lambda: Response(200, TEXT, b"ok\n"),
            "/readyz": self._readiness,
            "/metrics": self._metrics_page,
            "/recent_scores": lambda: Response(200, JSON, self.recent_scores.page()),
            "/openapi.json": self._openapi_page,
            # The gateway forwards only paths below the model's own path.
            f"/v1/{config.model}/openapi.json": self._openapi_page,
            f"/v1/{config.model}/": self._docs_page,
            "/": self._docs_page,
            **self._open_inference_pages(),
        }

    @property
    def predictor(self) -> Predictor:
        if self._predictor is None:
            raise HttpError(503, "starting", "The service is still starting.")
        return self._predictor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._refuse_websocket(scope, receive, send)

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
        """Load the model and predict example rows, so that the first real request is as fast as later ones."""
        # Switch threads ten times as often as by default, so that the log's thread does not delay requests.
        sys.setswitchinterval(0.0005)
        self._ids = PredictionIds()  # here, because a process that was forked after __init__ would repeat ids
        self._predictor = self._load()
        self._warm_up(self._predictor)
        deprecated = self._predictor.contract.deprecated
        self._deprecation = deprecated.headers if deprecated else []
        self._traces = RequestTraces(self.config.model, self.config.version)
        if self.config.log_folder is not None:
            self._log = PredictionLog(
                self.config.log_folder,
                self.config.model,
                self.config.version,
                protection=self._protection(self._predictor.contract),
                share=self.config.log_share,
                on_handled=self._observe,
            )
        # Loaded objects stay for the whole life of the service: no collection has to look at them again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self.ready = True

    def _protection(self, contract: RequestContract) -> LogProtection:
        """Return what hides the PII of the log; raises PseudonymKeyError without the key that it needs."""
        if not LogProtection.needs_key(contract):
            return LogProtection(contract)
        return LogProtection(
            contract, pseudonym_key(None, {}) if self.config.log_key is None else self.config.log_key()
        )

    def _observe(self, answered: Sequence[AnsweredRequest]) -> None:
        self.metrics.observe(answered)
        self.recent_scores.observe(answered)
        if self._traces is not None:
            self._traces.observe(answered)

    def stop(self) -> None:
        """Write out the prediction log. The server calls it after all requests in flight are answered."""
        self.ready = False
        if self._log is not None:
            self._log.close()
        if self._traces is not None:
            self._traces.close()

    async def _refuse_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.metrics.count_error("websocket")
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1003})
            return
        detail = FieldError("header.upgrade", "no upgrade", "websocket", f"Send POST {self._path}.")
        error = _error(400, "websocket", "The service does not speak WebSocket.", detail)
        body = _error_bytes(error, _new_request_id(), "")
        headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
        await send({"type": "websocket.http.response.start", "status": 400, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = dict(scope["headers"]), scope["path"]
        received_id = headers.get(b"x-request-id", b"")
        is_valid = b"x-request-id" in headers and _REQUEST_ID.fullmatch(received_id) is not None
        request_id = received_id.decode() if is_valid else _new_request_id()
        try:
            if not is_valid and b"x-request-id" in headers:
                raise _wrong_request_id(received_id)
            response = await self._respond(scope, headers, receive, request_id)
            if isinstance(response, StreamedResponse):
                await self._send_parts(response, request_id, send)
                return
        except InvalidRequestError as error:
            self.metrics.count_error(error.reason)
            response = Response(error.status, JSON, _error_bytes(error.to_dict(), request_id, path))
        except HttpError as error:
            self.metrics.count_error(error.reason)
            body = _error_bytes(_error(error.status, error.reason, str(error), error.detail), request_id, path)
            response = Response(error.status, JSON, body, error.headers)
        except PlatformError as error:
            # A person can fix this from outside, for example by publishing a feature view. Its text names files.
            self.metrics.count_error("unavailable")
            logger.error("request %s: %s", request_id, error)
            message = "The service cannot answer now, for example because of its features; its log has the cause."
            retry = [(b"retry-after", b"1")]
            response = Response(503, JSON, _error_bytes(_error(503, "unavailable", message), request_id, path), retry)
        except Exception as error:
            self.metrics.count_error("bug")
            self._log_bug(error, request_id)
            failure = _error(500, "bug", "The service failed; its log has the cause under the request id.")
            response = Response(500, JSON, _error_bytes(failure, request_id, path))
        response_headers = [
            (b"content-type", response.content_type),
            (b"content-length", str(len(response.body)).encode()),
            (b"x-request-id", request_id.encode()),
            *response.headers,
            *(self._deprecation if path == self._path or path in self._infer_paths else ()),
        ]
        await send_at_once(
            send,
            {"type": "http.response.start", "status": response.status, "headers": response_headers},
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body},
        )

    def _log_bug(self, error: Exception, request_id: str) -> None:
        contract = None if self._predictor is None else self._predictor.contract
        hidden = {} if contract is None else {**contract.pii_fields, **contract.pii_features}
        if hidden:
            # The message of custom code may quote any value of the request.
            logger.error("request %s failed: %s", request_id, shown_error(error, hidden))
        else:
            logger.exception("request %s failed", request_id)

    async def _send_parts(self, response: StreamedResponse, request_id: str, send: Send) -> None:
        """Send the answers of a stream. An error after the first of them ends it with a line that says so."""
        headers = [(b"content-type", NDJSON), (b"x-request-id", request_id.encode()), *self._deprecation]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for part in response.parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                if response.client_left.done():
                    break
        except Exception as error:
            line = orjson.dumps({**self._stream_error(error, request_id), "request_id": request_id}) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
        finally:
            response.close()
        await send({"type": "http.response.body", "body": b""})

    def _stream_error(self, error: Exception, request_id: str) -> dict[str, Any]:
        if isinstance(error, InvalidRequestError):
            self.metrics.count_error(error.reason)
            return error.to_dict()
        if isinstance(error, HttpError):
            self.metrics.count_error(error.reason)
            return _error(error.status, error.reason, str(error), error.detail)
        self.metrics.count_error("unavailable")
        self._log_bug(error, request_id)
        message = "The service cannot answer the rows from here on; its log has the cause under the request id."
        return _error(503, "unavailable", message)

    async def _respond(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, request_id: str
    ) -> Response | StreamedResponse:
        path, method = scope["path"], scope["method"]
        if path != self._path and path not in self._infer_paths:
            page = self._pages.get(path)
            if page is None:
                shown = path[:MAX_SHOWN_PATH]
                raise HttpError(
                    404,
                    "path",
                    f"There is no {shown}; predictions are at POST {self._path}.",
                    detail=FieldError("path", self._path, shown, f"Send predictions to POST {self._path}."),
                )
            if method not in ("GET", "HEAD"):
                raise _wrong_method(path, method, "GET, HEAD")
            found = page()
            return found if isinstance(found, Response) else await found
        if method != "POST":
            raise _wrong_method(path, method, "POST")
        is_stream = path == self._path and _media_type(headers) == NDJSON
        if JSON_SIZE_HEADER not in headers or path == self._path:
            _require_uncompressed(headers)
            if not is_stream:
                _require_json(headers)
        reasons = requested_reasons(scope.get("query_string", b""))
        if is_stream:
            return await self._stream(headers, receive, request_id, reasons)
        # A slow body must not take the place of a request that is complete.
        body = await self._body(headers, receive)
        if self.in_flight >= self.limits.requests_at_once:
            raise HttpError(429, "overload", "Too many requests at once.", [(b"retry-after", b"1")])
        client = self._take_place(headers)
        is_alone = is_only_request(receive)
        self.in_flight += 1
        try:
            if path != self._path:
                return await self._infer(body, headers, request_id, is_alone)
            return await self._predict(body, headers, request_id, reasons, is_alone)
        finally:
            self.in_flight -= 1
            self._clients.release(client)

    def _take_place(self, headers: dict[bytes, bytes]) -> bytes:
        """Take a place of the client of a request, and return the client to release it for; raises HttpError (429).

        The copy of a request for a shadow takes none: the request has its own.
        """
        client = headers.get(CLIENT_HEADER, b"") if _role(headers) != "shadow" else b""
        if not self._clients.take(client, headers.get(CONCURRENCY_HEADER, b"")):
            raise _too_many_of_client(headers[CONCURRENCY_HEADER])
        return client

    async def _predict(
        self,
        body: bytes,
        headers: dict[bytes, bytes],
        request_id: str,
        reasons: RequestedReasons | None,
        is_alone: bool,
    ) -> Response:
        predictions, prediction_id = await self._answers(body, headers, request_id, reasons, is_alone)
        response = orjson.dumps(
            {"predictions": predictions, "model": orjson.Fragment(self._model), "request_id": request_id}
        )
        return Response(200, JSON, response, [(b"x-prediction-id", prediction_id.encode())])

    async def _stream(
        self, headers: dict[bytes, bytes], receive: Receive, request_id: str, reasons: RequestedReasons | None
    ) -> StreamedResponse:
        """Return the answers to the lines of a stream, which are computed while lines arrive and answers are sent.

        Raises the error of a request that has one before its first answer.
        """
        if self._streams >= STREAMS_AT_ONCE:
            raise HttpError(429, "overload", "Too many streams at once.", [(b"retry-after", b"1")])
        self.predictor.require_features()
        client = self._take_place(headers)
        self._streams += 1
        lines = ReceivedLines(self.predictor.contract.max_bytes)
        receiving = asyncio.create_task(self._receive_lines(lines, receive))

        def close() -> None:
            receiving.cancel()
            self._streams -= 1
            self._clients.release(client)
            lines.close()

        answers = self._stream_answers(lines, headers, request_id, reasons)
        try:
            first = await anext(answers, b"")
        except BaseException:
            close()
            raise
        return StreamedResponse(_after(first, answers), receiving, close)

    async def _receive_lines(self, lines: ReceivedLines, receive: Receive) -> None:
        """Receive the body into ``lines``, and return once the client has closed the connection."""
        try:
            more = True
            while more:
                message = await self._receive_with_timeout(receive, self.limits.pause_seconds)
                lines.write(message.get("body", b""))
                more = message.get("more_body", False)
            lines.end()
        except Exception as error:
            lines.end(error)
            if isinstance(error, HttpError) and error.reason == "gone":
                return
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _stream_answers(
        self, lines: ReceivedLines, headers: dict[bytes, bytes], request_id: str, reasons: RequestedReasons | None
    ) -> AsyncGenerator[bytes, None]:
        limit = self.predictor.contract.max_bytes
        rows = min(MAX_ROWS_WITH_REASONS if reasons else GROUP_ROWS, self.predictor.contract.max_rows)
        number = 1
        async for group in lines.groups(rows):
            answered: list[AnsweredRequest] = []

            def predict(rows: Sequence[Any], answered: list[AnsweredRequest] = answered) -> list[dict[str, Any]]:
                return self._stream_rows(rows, answered, headers, request_id, reasons)

            answers = await self._with_timeout(answered_lines, group, number, limit, predict)
            number += len(group)
            for each in answered:
                self.metrics.rows.inc(len(each.rows))
                if self._log is not None:
                    self._log.put(each)
            yield answers

    def _stream_rows(
        self,
        rows: Sequence[Any],
        answered: list[AnsweredRequest],
        headers: dict[bytes, bytes],
        request_id: str,
        reasons: RequestedReasons | None,
    ) -> list[dict[str, Any]]:
        """Return the answers of ``rows``, and add what the log writes about them to ``answered``."""
        started, predictor, now = time.perf_counter(), self.predictor, datetime.now(UTC)
        request = predictor.contract.validate(orjson.dumps({"rows": rows}))
        prediction = predictor.predict(request, now)
        answers = predictor.answers(prediction, reasons)
        first = self._ids.next()
        answered.append(_answered(first, request_id, headers, now, request, prediction, started))
        return [{"prediction_id": row_prediction_id(first, row), **answer} for row, answer in enumerate(answers)]

    async def _infer(self, body: bytes, headers: dict[bytes, bytes], request_id: str, is_alone: bool) -> Response:
        """Answer a request of the Open Inference Protocol."""
        size = headers.get(JSON_SIZE_HEADER, b"")
        is_size = size.isdigit() and len(size) <= MAX_SIZE_DIGITS
        request = read_inference(body, self.predictor.contract, int(size) if is_size else None)
        predictions, prediction_id = await self._answers(request.body, headers, request_id, None, is_alone)
        answer = inference_answer(predictions, request, self.config.model, self.config.version)
        return Response(200, JSON, orjson.dumps(answer), [(b"x-prediction-id", prediction_id.encode())])

    async def _answers(
        self,
        body: bytes,
        headers: dict[bytes, bytes],
        request_id: str,
        reasons: RequestedReasons | None,
        is_alone: bool,
    ) -> tuple[list[dict[str, Any]], str]:
        """Return the answer of each row of ``body``, and the id of the first prediction.

        A request that ``is_alone`` is scored at once; others wait for those that have arrived beside them.
        """
        started = time.perf_counter()
        predictor = self.predictor
        now = datetime.now(UTC)
        request = predictor.contract.validate(body, MAX_ROWS_WITH_REASONS if reasons else None)
        if len(request.rows) <= INLINE_ROWS and not reasons and not predictor.store.remote:
            prediction = predictor.predict(request, now) if is_alone else await self._batcher.predict(request, now)
        else:
            prediction = await self._with_timeout(predictor.predict, request, now)
        if reasons:
            predictions = await self._with_timeout(predictor.answers, prediction, reasons)
        else:
            predictions = prediction.answers()
        prediction_id = self._ids.next()
        if self._log is not None:
            self._log.put(_answered(prediction_id, request_id, headers, now, request, prediction, started))
        self.metrics.rows.inc(len(predictions))
        self.metrics.latency.observe(time.perf_counter() - started)
        return predictions, prediction_id

    async def _with_timeout(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return await asyncio.wait_for(asyncio.to_thread(function, *arguments), self.limits.answer_seconds)
        except TimeoutError:
            raise HttpError(503, "timeout", f"No answer within {self.limits.answer_seconds:g} s.") from None

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self.predictor.contract.max_bytes
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        # A timer for a body that is there would cost as much as reading it.
        message = await (receive() if has_whole_body(receive) else self._receive_with_timeout(receive))
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if message["type"] == "http.disconnect":
                raise _gone()
            return body
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await self._receive_with_timeout(receive)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
        return b"".join(parts)

    async def _receive_with_timeout(self, receive: Receive, seconds: float | None = None) -> MutableMapping[str, Any]:
        seconds = self.limits.body_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError:
            raise HttpError(408, "slow", f"The body did not arrive within {seconds:g} s.") from None
        if message["type"] == "http.disconnect":
            raise _gone()
        return message

    def _warm_up(self, predictor: Predictor) -> None:
        example = {field.name: field.example for field in predictor.contract.fields}
        for rows in (1, 2):  # one row and several rows take different code paths
            request: ValidRequest = predictor.contract.validate(
                orjson.dumps({"rows": [example] * min(rows, predictor.contract.max_rows)})
            )
            predictor.predict(request, datetime.now(UTC))

    def _open_inference_pages(self) -> dict[str, Callable[[], Response | Awaitable[Response]]]:
        """Return the pages of the Open Inference Protocol: its server, its health, and this model."""
        server = orjson.dumps({"name": "ml_platform", "version": self.config.version, "extensions": []})

        def metadata() -> Response:
            return Response(200, JSON, orjson.dumps(model_metadata(self.predictor.contract, self.config.version)))

        pages: dict[str, Callable[[], Response | Awaitable[Response]]] = {
            PREFIX: lambda: Response(200, JSON, server),
            f"{PREFIX}/health/live": lambda: Response(200, JSON, b"{}"),
            f"{PREFIX}/health/ready": self._readiness,
        }
        for path in (f"{PREFIX}/models/{self.config.model}",
                     f"{PREFIX}/models/{self.config.model}/versions/{self.config.version}"):  # fmt: skip
            pages |= {path: metadata, f"{path}/ready": self._readiness}
        return pages

    async def _readiness(self) -> Response:
        """Return 503 without online features.

        It returns 200 also while the prediction log fails: a full disk must not take every service out of rotation.
        """
        if not self.ready:
            return Response(503, TEXT, b"starting or stopping\n")
        try:
            if self.predictor.store.remote:
                await self._with_timeout(self.predictor.require_features)
            else:
                self.predictor.require_features()
        except PlatformError as error:
            logger.error("not ready: %s", error)
            return Response(503, TEXT, b"no online features; the log of the service has the cause\n")
        status = None if self._log is None else self._log.status()
        if status is None or status.state == "writing":
            return Response(200, TEXT, b"ready\n")
        problem = f"ready; prediction_log {status.state}: {status.error}; {status.dropped_rows} rows dropped\n"
        return Response(200, TEXT, problem.encode())

    def _health(self) -> Response:
        """Return 200 with the state of the service and of its prediction log; null: it writes none."""
        log = None if self._log is None else asdict(self._log.status())
        degraded = log is not None and log["state"] == "failing"
        state = "starting or stopping" if not self.ready else "degraded" if degraded else "ok"
        return Response(200, JSON, orjson.dumps({"status": state, "prediction_log": log}))

    def _metrics_page(self) -> Response:
        self.metrics.in_flight.set(self.in_flight)
        if self._log is not None:
            self.metrics.set_log_status(self._log.status())
        return Response(200, CONTENT_TYPE, self.metrics.page())

    def _openapi_page(self) -> Response:
        document = openapi_document(self.predictor.contract, self.config.version, self.predictor.task)
        return Response(200, JSON, orjson.dumps(document))

    def _docs_page(self) -> Response:
        page = docs_page(self.predictor.contract, self.config.version)
        return Response(200, b"text/html; charset=utf-8", page.encode())


def _too_large(limit: int) -> InvalidRequestError:
    error = FieldError("body", f"at most {limit} bytes", "more", "Send several smaller requests.")
    return InvalidRequestError(413, "size", [error])


def _error(status: int, reason: str, message: str, detail: FieldError | None = None) -> dict[str, Any]:
    details = [] if detail is None else [asdict(detail)]
    return {"error": {"status": status, "reason": reason, "message": message, "details": details}}


def _error_bytes(error: dict[str, Any], request_id: str, path: str) -> bytes:
    if path.startswith(PREFIX):
        # The Open Inference Protocol wants a text.
        error = {"error": error["error"]["message"], "details": error["error"]["details"]}
    return orjson.dumps({**error, "request_id": request_id})


def _wrong_request_id(received: bytes) -> HttpError:
    expected = f"1 to {MAX_REQUEST_ID_LENGTH} printable ASCII characters without spaces"
    wrong_length = not 0 < len(received) <= MAX_REQUEST_ID_LENGTH
    found = f"{len(received)} bytes" if wrong_length else "other characters"
    detail = FieldError("header.x-request-id", expected, found, "Send such an id, or no header: the service makes one.")
    return HttpError(400, "request_id", f"header.x-request-id: expected {expected}, found {found}.", detail=detail)


def _wrong_method(path: str, method: str, allowed: str) -> HttpError:
    detail = FieldError("method", allowed, method[:MAX_SHOWN_PATH], f"Send {allowed.partition(',')[0]}.")
    return HttpError(405, "method", f"{path} takes {allowed}.", [(b"allow", allowed.encode())], detail)


def _gone() -> HttpError:
    return HttpError(400, "gone", "The client closed the connection.")


def _too_many_of_client(limit: bytes) -> HttpError:
    detail = FieldError(
        "header.x-api-key",
        f"at most {limit.decode()} requests of the client under way",
        "more",
        "Wait for an answer before the next request.",
    )
    message = "The client has too many requests under way."
    return HttpError(429, "concurrency", message, [(b"retry-after", b"1")], detail)


async def _after(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for each in others:
        yield each


def _new_request_id() -> str:
    return os.urandom(16).hex()


def _media_type(headers: dict[bytes, bytes]) -> bytes:
    return headers.get(b"content-type", JSON).partition(b";")[0].strip().lower()


def _require_uncompressed(headers: dict[bytes, bytes]) -> None:
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        message = "Send the body as it is, not compressed."
        detail = FieldError("header.content-encoding", "identity", _shown(encoding), message)
        raise HttpError(415, "encoding", message, [(b"accept-encoding", b"identity")], detail)


def _require_json(headers: dict[bytes, bytes]) -> None:
    if _media_type(headers) != JSON:
        kind = headers[b"content-type"]
        message = "Send JSON with the header content-type: application/json."
        detail = FieldError("header.content-type", "application/json", _shown(kind), message)
        raise HttpError(415, "content_type", message, [(b"accept-post", JSON)], detail)


def _shown(header: bytes) -> str:
    return header[:MAX_SHOWN_PATH].decode("latin-1")


def _answered(
    prediction_id: str,
    request_id: str,
    headers: dict[bytes, bytes],
    now: datetime,
    request: ValidRequest,
    prediction: Prediction,
    started: float,
) -> AnsweredRequest:
    """Return what the log writes about a request that was answered just now; ``started`` is by `time.perf_counter`."""
    latency_ms = round((time.perf_counter() - started) * 1000, 3)
    role, client = _role(headers), _client(headers)
    trace = headers.get(b"traceparent", b"")
    return AnsweredRequest(prediction_id, request_id, role, now, request.rows, prediction, client, latency_ms, trace)


def _client(headers: dict[bytes, bytes]) -> str | None:
    """Return the name of the client for the log; None without one.

    The gateway removes the header of its own clients' requests and sets it for a valid key. A process of this machine
    that asks the service directly may name any client, so the log reports it and nothing is granted by it.
    """
    name = headers.get(CLIENT_HEADER, b"")
    return name.decode() if _CLIENT.fullmatch(name) else None


def _role(headers: dict[bytes, bytes]) -> str:
    host = headers.get(b"host", b"")
    if host.partition(b":")[0].endswith(SHADOW_HOST) or host.endswith(SHADOW_HOST):
        return "shadow"
    return ROLES.get(headers.get(ROLE_HEADER, b"stable"), "stable")
