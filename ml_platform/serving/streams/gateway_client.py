"""Asks the gateway for the answer to one message, as any other client would, and says what follows from it."""

import base64
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from ml_platform.serving.gateway_access import KEY_HEADER
from ml_platform.serving.gateway_errors import INTERRUPTED
from ml_platform.serving.openapi import MAX_REQUEST_ID_LENGTH

if TYPE_CHECKING:
    import httpx

NOT_OF_THE_REQUEST = frozenset({401, 403, 404, 408, 425, 429})
"""Statuses below 500 that say nothing about the request: a key, an endpoint that is not there yet, an overload."""

HUNG = 504
FAILED = frozenset({500, HUNG})
"""Statuses of a service that fails or hangs, which the same request may cause again.

So may the 503 of a service that ended while it had the request, :data:`INTERRUPTED`.
"""

_REQUEST_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_REQUEST_ID_LENGTH}}}")
_MAX_ERROR_CHARACTERS = 2000


@dataclass(frozen=True)
class Outcome:
    """The result of a request.

    ``answered`` has the answer in ``body``, ``refused`` the error. ``failed`` is an error of the service on this
    request, and ``busy`` says that nobody answers now; ``retry_seconds`` is the time that the gateway named.
    ``status`` is 0 without an answer of the gateway. With ``hits_others``, requests at the same time may have failed
    because of this one, or this one because of them.
    """

    kind: Literal["answered", "refused", "failed", "busy"]
    body: bytes = b""
    status: int = 0
    reason: str = ""
    retry_seconds: float | None = None

    @property
    def hits_others(self) -> bool:
        return self.kind == "failed" and self.status != 500


class GatewayClient:
    """Sends requests for ``model`` to the gateway at ``url``; ``certificate`` is the PEM file that it shows."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        connections: int,
        timeout_seconds: float,
        key: str | None = None,
        certificate: Path | None = None,
    ) -> None:
        import httpx

        self._path = f"/v1/{model}/predict"
        headers = {"content-type": "application/json", **({KEY_HEADER: key} if key else {})}
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            verify=True if certificate is None else _trusting(certificate),
            trust_env=False,
        )

    async def ask(self, request_id: str, payload: bytes) -> Outcome:
        """Return what became of the request ``payload``, which has one row, or ``rows``."""
        import httpx

        if not _REQUEST_ID.fullmatch(request_id):
            message = f"The id of a request has 1 to {MAX_REQUEST_ID_LENGTH} visible ASCII characters."
            return Outcome("refused", _error(400, "request_id", message), 400, "request_id")
        try:
            answer = await self._client.post(
                self._path, content=request_body(payload), headers={"x-request-id": request_id}
            )
        except httpx.HTTPError as error:
            return Outcome("busy", reason=f"the gateway does not answer: {str(error) or type(error).__name__}")
        return _outcome(answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def request_body(payload: bytes) -> bytes:
    """Return the body of a request to the endpoint: a row becomes ``rows``, all else stays, for the service to judge.

    >>> request_body(b'{"carrier": "UA"}'), request_body(b'{"rows": []}'), request_body(b"no JSON")
    (b'{"rows":[{"carrier": "UA"}]}', b'{"rows": []}', b'no JSON')
    """
    try:
        given = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload
    is_row = isinstance(given, dict) and given.keys() != {"rows"}
    return b'{"rows":[' + payload + b"]}" if is_row else payload


def dead_letter(request_id: str, payload: bytes, outcome: Outcome, max_bytes: int) -> bytes:
    """Return the refused request with its error: JSON with ``request_id``, ``status``, ``error`` and ``request``.

    ``request`` is the text of the message; one that is no UTF-8 is in ``request_base64``. Of a request that would make
    more than ``max_bytes``, only the size is kept.
    """
    try:
        request = {"request": payload.decode()}
    except UnicodeDecodeError:
        request = {"request_base64": base64.b64encode(payload).decode()}
    head = {"request_id": request_id, "status": outcome.status, "error": _error_value(outcome.body)}
    letter = orjson.dumps({**head, **request})
    if len(letter) <= max_bytes:
        return letter
    return orjson.dumps({**head, "request_bytes": len(payload)})


def too_large(outcome: Outcome, max_bytes: int) -> Outcome:
    """Return the refusal in place of an answer that the stream does not accept."""
    message = f"The answer has {len(outcome.body)} bytes, and the stream accepts {max_bytes}. Send fewer rows at once."
    return Outcome("refused", _error(413, "answer_too_large", message), 413, "answer_too_large")


def _outcome(answer: "httpx.Response") -> Outcome:
    status = answer.status_code
    if status == 200:
        return Outcome("answered", _with_prediction_ids(answer), status)
    reason = f"status {status}"
    if status in FAILED:
        return Outcome("failed", answer.content, status, reason)
    if status == 503 and _error_reason(answer.content) == INTERRUPTED:
        return Outcome("failed", answer.content, status, "the service ended before it answered")
    if 400 <= status < 500 and status not in NOT_OF_THE_REQUEST:
        return Outcome("refused", answer.content, status, reason)
    return Outcome("busy", answer.content, status, reason, _retry_seconds(answer.headers.get("retry-after", "")))


def _with_prediction_ids(answer: "httpx.Response") -> bytes:
    """Return the answer of the endpoint with the ``prediction_id`` of each row, as the prediction log has them.

    A constant answer in place of a model is not logged and has none.
    """
    from bento.prediction_id import row_prediction_id

    first = answer.headers.get("x-prediction-id")
    if first is None:
        return answer.content
    value = answer.json()
    for row, prediction in enumerate(value["predictions"]):
        prediction["prediction_id"] = row_prediction_id(first, row)
    return orjson.dumps(value)


def _retry_seconds(header: str) -> float | None:
    return float(header) if header.isdecimal() and len(header) < 7 else None


def _error(status: int, reason: str, message: str) -> bytes:
    return orjson.dumps({"error": {"status": status, "reason": reason, "message": message}})


def _error_value(body: bytes) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")[:_MAX_ERROR_CHARACTERS]
    return value.get("error", value) if isinstance(value, dict) else value


def _error_reason(body: bytes) -> str | None:
    error = _error_value(body)
    return error.get("reason") if isinstance(error, dict) else None


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Return a context that accepts exactly this certificate, under whatever name the gateway is reached."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context
