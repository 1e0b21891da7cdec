"""Renders the gateway's own error responses, in the same form as the error responses of the services.

A gRPC call gets the text of the error, and the status of gRPC that the bridge gives for the same status of HTTP.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_platform.serving.gateway_access import FOREIGN_MODEL, KEY_HEADER, REFUSAL_METADATA
from ml_platform.serving.grpc_status import GrpcStatus, grpc_status
from ml_platform.serving.openapi import MAX_REQUEST_ID_LENGTH

REQUEST_ID = f"%REQ(X-REQUEST-ID):{MAX_REQUEST_ID_LENGTH}%"
"""The id of the request as a client sent it, at most as long as an id may be."""

INTERRUPTED = "interrupted"
"""Reason of the 503 for a request whose service ended while it had the request."""

_BODY = "%LOCAL_REPLY_BODY%"
_INTERRUPTED = "The service ended before it answered."
_TIMEOUT = "The model did not answer in the time that it declares."
_KEY_HINT = "Send the key as x-api-key, or as authorization: Bearer."


def error_responses(max_body_bytes: int) -> list[dict[str, Any]]:
    """Return the mappers of Envoy's local replies; the first that matches a reply makes its body."""
    limit = f"at most {max_body_bytes} bytes"
    challenge = {"www-authenticate": 'Bearer realm="ml-platform"'}
    no_key = _detail(f"header.{KEY_HEADER}", "the API key of a client", "none", _KEY_HINT)
    wrong_key = _detail(
        f"header.{KEY_HEADER}", "a valid API key", "an unknown, malformed, expired or revoked one", _KEY_HINT
    )
    other_model = _detail(f"header.{KEY_HEADER}", "a key for this model", "a key for others", "Ask for another key.")
    too_many = "The client has used its requests per second or per day; retry-after says when it may ask again."
    used_up = _detail(f"header.{KEY_HEADER}", "a client below its limits", "one at its limit", "Wait, then try again.")
    key = "The request has no valid API key."
    return [
        _grpc_mapper(401, f"{key} {_KEY_HINT}", headers=challenge),
        _grpc_mapper(403),
        _grpc_mapper(408),
        _grpc_mapper(413, f"The message has more than {max_body_bytes} bytes."),
        _grpc_mapper(429, too_many),
        # Only unknown methods get it from the gateway; the bridge answers about models.
        _grpc_mapper(404, grpc=GrpcStatus.UNIMPLEMENTED),
        _grpc_mapper(503, headers={"retry-after": "1"}),
        _grpc_mapper(504),
        _grpc_mapper(400, comparison="GE"),
        _mapper(401, "key", key, details=[no_key], headers=challenge, only=_without_header("authorization")),
        _mapper(401, "key", key, details=[wrong_key], headers=challenge),
        _mapper(403, "model", details=[other_model], only=_with_refusal(FOREIGN_MODEL)),
        _mapper(429, "limit", too_many, details=[used_up]),
        _mapper(413, "size", details=[_detail("body", limit, "more", "Send several smaller requests.")]),
        _mapper(408, "slow"),
        _mapper(404, "path"),
        _mapper(403, "host"),
        _mapper(504, "timeout", _TIMEOUT),
        _mapper(503, INTERRUPTED, _INTERRUPTED, headers={"retry-after": "1"}, only=_with_flags("UC", "UR")),
        # No healthy service, or too many requests in flight: the client can retry after a second.
        _mapper(503, "unavailable", headers={"retry-after": "1"}),
        _mapper(400, "gateway", comparison="GE"),
    ]


def _detail(path: str, expected: str, found: str, hint: str) -> dict[str, str]:
    return {"path": path, "expected": expected, "found": found, "hint": hint}


def _mapper(
    status: int,
    reason: str,
    message: str = _BODY,
    *,
    comparison: str = "EQ",
    details: Sequence[dict[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    only: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the mapper of the replies of ``status``, or of those among them that the filter ``only`` selects."""
    error = {"status": "%RESPONSE_CODE%", "reason": reason, "message": message, "details": list(details)}
    value = {"default_value": status, "runtime_key": f"error_response.{status}"}
    selected: dict[str, Any] = {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}
    return {
        "filter": selected if only is None else {"and_filter": {"filters": [selected, only]}},
        "headers_to_add": [
            {"header": {"key": key, "value": text}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, text in (headers or {}).items()
        ],
        "body_format_override": {
            "json_format": {"error": error, "request_id": REQUEST_ID},
            "content_type": "application/json",
        },
    }


def _grpc_mapper(
    status: int,
    message: str = _BODY,
    *,
    comparison: str = "EQ",
    headers: Mapping[str, str] | None = None,
    grpc: GrpcStatus | None = None,
) -> dict[str, Any]:
    """Return the mapper of replies of ``status`` to gRPC calls; Envoy's own choice of their status is coarser."""
    code = grpc_status(status) if grpc is None else grpc
    call = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
    headers = {"grpc-status": str(int(code)), **(headers or {})}
    mapper = _mapper(status, code.name, comparison=comparison, headers=headers, only=call)
    return {**mapper, "body_format_override": {"text_format_source": {"inline_string": message}}}


def _without_header(name: str) -> dict[str, Any]:
    return {"header_filter": {"header": {"name": name, "present_match": False}}}


def _with_flags(*flags: str) -> dict[str, Any]:
    return {"response_flag_filter": {"flags": list(flags)}}


def _with_refusal(kind: str) -> dict[str, Any]:
    matcher = {
        "filter": REFUSAL_METADATA,
        "path": [{"key": "refusal"}],
        "value": {"string_match": {"exact": kind}},
    }
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}
