"""The spans of answered requests: of the answer, and within it of the read of the features.

They are made in the thread of the prediction log, for requests whose caller has chosen to trace them (the gateway, or
a client of one's own that sends `traceparent`). Both name the ids by which the prediction log has the same request.
"""

from collections.abc import Sequence

from bento.prediction_log import AnsweredRequest
from ml_platform.data.traces import Attribute, Span, SpanExporter, collector_address, span_id, trace_parent


class RequestTraces:
    """Sends the spans of the answers of one version of ``model``; without a collector it does nothing."""

    def __init__(self, model: str, version: str) -> None:
        address = collector_address()
        self._model, self._version = model, version
        self._exporter = SpanExporter(address, model, {"service.version": version}) if address else None

    def observe(self, answered: Sequence[AnsweredRequest]) -> None:
        """Queue the spans of those of ``answered`` that are traced."""
        if self._exporter is not None:
            self._exporter.queue([span for each in answered for span in self.spans(each)])

    def spans(self, answered: AnsweredRequest) -> list[Span]:
        """Return the spans of ``answered``; none if it is not traced."""
        parent = trace_parent(answered.traceparent)
        if parent is None or not parent.is_sampled:
            return []
        ended = int(answered.answered_at.timestamp() * 1e6) * 1000
        started = ended - int((answered.latency_ms or 0.0) * 1e6)
        prediction = answered.prediction
        attributes: dict[str, Attribute] = {
            "ml_platform.model": self._model,
            "ml_platform.version": self._version,
            "ml_platform.role": answered.role,
            "ml_platform.rows": len(answered.rows),
            "ml_platform.request_id": answered.request_id,
            "ml_platform.prediction_id": answered.prediction_id,
            "ml_platform.degraded_rows": sum(bool(each) for each in prediction.degraded or ()),
        }
        own, read = span_id(answered.prediction_id), span_id(answered.prediction_id, "read")
        read_ended = started + int(prediction.read_seconds * 1e9)
        views = {f"ml_platform.known_until.{name}": at.isoformat() for name, at in prediction.served.watermarks.items()}
        return [
            Span("predict", parent.trace_id, own, parent.span_id, started, ended, attributes, is_server=True),
            Span("read features", parent.trace_id, read, own, started, read_ended, views),
        ]

    def close(self) -> None:
        """Send what waits."""
        if self._exporter is not None:
            self._exporter.close()
