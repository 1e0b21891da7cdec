"""Traces of OpenTelemetry: spans that are made from what was recorded, and sent to a collector over OTLP/HTTP.

The variables are those of OpenTelemetry: `OTEL_EXPORTER_OTLP_ENDPOINT` is the address of the collector (unset: nothing
is sent, and no library of OpenTelemetry is imported), `OTEL_TRACES_SAMPLER_ARG` the share of requests of which the
gateway begins a trace. A span is made after its work has ended, so no request and no step waits for it.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from ml_platform.errors import PlatformError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
SHARE_VARIABLE = "OTEL_TRACES_SAMPLER_ARG"
TRACES_PATH = "/v1/traces"
DEFAULT_SHARE = 0.01
SEND_SECONDS = 5

EXPORTER = "opentelemetry-exporter-otlp-proto-http"
"""Distribution that sends the spans; a bento needs it, although no module of ours imports it when it is loaded."""

Attribute = str | int | float | bool

_PARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class TraceSettingError(PlatformError):
    """Raised when a variable of OpenTelemetry has a value that cannot be used."""


class TraceParent(NamedTuple):
    """The header `traceparent` of a request (W3C Trace Context): the trace, the span of the caller, and its choice."""

    trace_id: str
    span_id: str
    is_sampled: bool


@dataclass(frozen=True)
class Span:
    """One piece of work in a trace. Times are nanoseconds since 1970; an empty ``parent_id`` begins the trace."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    started_at: int
    ended_at: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    failed: bool = False
    is_server: bool = False


def trace_parent(header: bytes) -> TraceParent | None:
    """Return the trace that the header `traceparent` names; None for a wrong or an absent one.

    >>> trace_parent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").trace_id
    '4bf92f3577b34da6a3ce929d0e0e4736'
    >>> trace_parent(b"00-0-0-01")
    """
    found = _PARENT.fullmatch(header)
    if found is None:
        return None
    trace, span, flags = (group.decode() for group in found.groups())
    return TraceParent(trace, span, bool(int(flags, 16) & 1))


def span_id(*parts: str) -> str:
    """Return the id of the span of ``parts``, which name its work: the same work has the same span.

    >>> span_id("run", "7")
    '39268e2f81f64ea9'
    """
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def collector_address(environment: Mapping[str, str] = os.environ) -> str:
    """Return the address of the collector, such as http://127.0.0.1:4318; empty: traces are not sent.

    Raises :class:`TraceSettingError` for one that is no address.
    """
    address = environment.get(ENDPOINT_VARIABLE, "").rstrip("/")
    parts = urlsplit(address)
    if address and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise TraceSettingError(
            ENDPOINT_VARIABLE,
            expected="the address of a collector of OpenTelemetry over HTTP",
            found=f"'{address}'",
            fix="Set it to an address like http://127.0.0.1:4318, or unset it.",
        )
    return address


def sampled_share(environment: Mapping[str, str] = os.environ) -> float:
    """Return the share of requests, 0 to 1, of which the gateway begins a trace.

    Raises :class:`TraceSettingError` for another number.
    """
    text = environment.get(SHARE_VARIABLE, "") or str(DEFAULT_SHARE)
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise TraceSettingError(
            SHARE_VARIABLE, expected="a share from 0 to 1", found=f"'{text}'", fix="Set it to a number like 0.01."
        )
    return share


class SpanExporter:
    """Sends spans of the service ``service`` to the collector at ``address``."""

    def __init__(self, address: str, service: str, attributes: Mapping[str, Attribute] | None = None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        self._resource = Resource({"service.name": service, "service.namespace": "ml-platform", **(attributes or {})})
        self._exporter = OTLPSpanExporter(endpoint=f"{address}{TRACES_PATH}", timeout=SEND_SECONDS)

    def send(self, spans: Sequence[Span]) -> bool:
        """Send ``spans``, and return whether the collector took them within five seconds."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        return self._exporter.export([self._readable(each) for each in spans]) is SpanExportResult.SUCCESS

    @cached_property
    def _queue(self) -> "BatchSpanProcessor":
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        return BatchSpanProcessor(self._exporter, schedule_delay_millis=1000)

    def queue(self, spans: Sequence[Span]) -> None:
        """Leave ``spans`` to a thread, which sends them every second.

        At most 2,048 spans wait: a collector that is away costs spans and delays nothing.
        """
        for each in spans:
            self._queue.on_end(self._readable(each))

    def close(self) -> None:
        """Send what waits, and end the thread."""
        self._queue.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: Span) -> "ReadableSpan":
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(own: str) -> SpanContext:
            flags = TraceFlags(TraceFlags.SAMPLED)
            return SpanContext(int(span.trace_id, 16), int(own, 16), is_remote=False, trace_flags=flags)

        return ReadableSpan(
            span.name,
            context=context(span.span_id),
            parent=context(span.parent_id) if span.parent_id else None,
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=SpanKind.SERVER if span.is_server else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=span.started_at,
            end_time=span.ended_at,
        )
