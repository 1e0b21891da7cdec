"""Prometheus metrics of a service: latency, predictions, errors, and the age of the features that it used."""

import random
import resource
from collections import Counter as CountByValue
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bento.prediction_log import AnsweredRequest, LogStatus
from bento.predictor import Prediction

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SCORE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

LOG_GAUGES = {
    "failing": "1 while the prediction log cannot be written, else 0; the service continues",
    "written_rows": "Rows written to the prediction log since the start",
    "dropped_rows": "Rows answered but not written to the prediction log since the start",
    "unconfirmed_rows": "Rows written to the prediction log that the disk may have lost since the start",
    "pending_rows": "Rows that wait to be written to the prediction log",
}
"""Description of each gauge of the prediction log, by the last part of its name."""


class Metrics:
    """Metrics of one service, all labelled by model and version."""

    def __init__(self, model: str, version: str) -> None:
        self.registry = CollectorRegistry()
        label_names, labels = ["model", "version"], {"model": model, "version": version}
        self.latency = Histogram(
            "ml_platform_request_seconds",
            "Time from the last byte of a request to its response",
            label_names,
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        ).labels(**labels)
        self.rows = Counter("ml_platform_predictions", "Rows predicted", label_names, registry=self.registry).labels(
            **labels
        )
        self.in_flight = Gauge(
            "ml_platform_requests_in_flight", "Requests in flight", label_names, registry=self.registry
        ).labels(**labels)
        self._log_gauges = {
            name: Gauge(f"ml_platform_prediction_log_{name}", description, label_names, registry=self.registry).labels(
                **labels
            )
            for name, description in LOG_GAUGES.items()
        }
        self._service_labels = labels
        self._errors = Counter(
            "ml_platform_error_responses",
            "Requests not answered with predictions, by reason",
            [*label_names, "reason"],
            registry=self.registry,
        )
        self._predicted_labels = Counter(
            "ml_platform_prediction_labels", "Rows predicted, by label", [*label_names, "label"], registry=self.registry
        )
        self._ages = Gauge(
            "ml_platform_feature_age_minutes",
            "Greatest age of a view's facts in the last answered request (minutes)",
            [*label_names, "view"],
            registry=self.registry,
        )
        self._missing = Counter(
            "ml_platform_feature_missing_rows",
            "Rows for which a view had no fact, or none recent enough",
            [*label_names, "view"],
            registry=self.registry,
        )
        self._reads = Counter(
            "ml_platform_feature_read_rows",
            "Rows for which a view was read",
            [*label_names, "view"],
            registry=self.registry,
        )
        self._scores = Histogram(
            "ml_platform_prediction_score",
            "Predicted scores",
            label_names,
            buckets=SCORE_BUCKETS,
            registry=self.registry,
        ).labels(**labels)
        self._sampled_scores = Histogram(
            "ml_platform_sampled_score",
            "Predicted score of one row of each request",
            label_names,
            buckets=SCORE_BUCKETS,
            registry=self.registry,
        ).labels(**labels)
        self._sampled_reads = Counter(
            "ml_platform_sampled_reads",
            "One read of a view for one row of each request",
            label_names,
            registry=self.registry,
        ).labels(**labels)
        self._sampled_missing = Counter(
            "ml_platform_sampled_missing",
            "Sampled reads of a view that found no fact",
            label_names,
            registry=self.registry,
        ).labels(**labels)
        self._resident = Gauge(
            "ml_platform_resident_bytes", "Memory of the process", label_names, registry=self.registry
        ).labels(**labels)
        started = Gauge(
            "ml_platform_started_seconds", "When the service started (Unix time)", label_names, registry=self.registry
        )
        started.labels(**labels).set_to_current_time()
        self._random = random.Random(0)
        self._views: dict[str, tuple[Gauge, Counter, Counter]] = {}

    def count_error(self, reason: str) -> None:
        """Count a request that was not answered with predictions."""
        self._errors.labels(**self._service_labels, reason=reason).inc()

    def set_log_status(self, status: LogStatus) -> None:
        """Set the gauges of the prediction log."""
        self._log_gauges["failing"].set(status.state == "failing")
        for name in LOG_GAUGES:
            if name != "failing":
                self._log_gauges[name].set(getattr(status, name))

    def observe(self, answered: Sequence[AnsweredRequest]) -> None:
        """Count labels, scores and feature ages of answers. The log's thread calls this, so no request waits."""
        predictions = [each.prediction for each in answered]
        for label, rows in CountByValue(label for each in predictions for label in each.labels).items():
            label_value = "none" if label is None else str(label).lower()
            self._predicted_labels.labels(**self._service_labels, label=label_value).inc(rows)
        for prediction in predictions:
            for score in prediction.scores:
                self._scores.observe(score)
            self._observe_sample(prediction)
        ages = np.concatenate([each.served.ages_minutes for each in predictions])
        missing = np.isnan(ages).sum(axis=0).tolist()
        last = predictions[-1].served
        oldest = np.fmax.reduce(last.ages_minutes, axis=0, initial=np.nan).tolist()
        for view, rows, age in zip(last.views, missing, oldest, strict=True):
            if view not in self._views:
                self._views[view] = (
                    self._ages.labels(**self._service_labels, view=view),
                    self._missing.labels(**self._service_labels, view=view),
                    self._reads.labels(**self._service_labels, view=view),
                )
            age_gauge, missing_counter, read_counter = self._views[view]
            age_gauge.set(age)
            missing_counter.inc(rows)
            read_counter.inc(len(ages))

    def _observe_sample(self, prediction: Prediction) -> None:
        """Count one row, and one view of it, of a request: the rows of one request are not independent."""
        row = self._random.randrange(len(prediction.scores))
        self._sampled_scores.observe(prediction.scores[row])
        of_row = prediction.served.ages_minutes[row]
        if len(of_row):
            self._sampled_reads.inc()
            self._sampled_missing.inc(float(np.isnan(of_row[self._random.randrange(len(of_row))])))

    def page(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        self._resident.set(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
        return generate_latest(self.registry)
