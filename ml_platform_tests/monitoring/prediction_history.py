"""A model in a lake of its own: predictions are logged and ingested, labels land and change, outcomes are joined."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.monitoring.logged_fields import with_request_fields
from ml_platform.monitoring.outcome_join import LabelSource, record_outcomes
from ml_platform.monitoring.outcomes import current_outcomes, match_labels, outcomes_table
from ml_platform.monitoring.performance import PerformanceSettings, Period, measure_period
from ml_platform.monitoring.performance_periods import PerformanceMeasure, measured_periods
from ml_platform.monitoring.prediction_log import IngestionResult, ingest_log_files, predictions_table

MODEL = "late"
LABELS = "models/late/training_set"
IDENTITY = ["flight"]
JULY = datetime(2013, 7, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
UTC_TIME = pl.Datetime("us", "UTC")

_LABEL_SCHEMA: dict[str, Any] = {
    "flight": pl.Int64, "predict_at": UTC_TIME, "label": pl.Int8, "label_known_at": UTC_TIME,
}  # fmt: skip


def predict_at(flight: int) -> datetime:
    """Return the prediction time of a flight: ten flights a day from July on."""
    return JULY + timedelta(days=flight // 10, minutes=flight % 10)


class PredictionHistory:
    """Flights by number; the label of a flight is known six hours after its prediction time."""

    def __init__(self, root: Path) -> None:
        self.logs = root / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.lake = Lake.standalone(root / "lake")
        self.known_by = JULY
        self.logged = 0

    def predict(self, *flights: int, file: str = "a", logged_at: datetime = NOW, **changes: Any) -> None:
        """Log one prediction of each flight, each with an id of its own; the score follows from the count."""
        with (self.logs / f"{file}.jsonl").open("a") as opened:
            for flight in flights:
                self.logged += 1
                line = {
                    "prediction_id": f"p{self.logged:06d}",
                    "request_id": f"r{self.logged % 7}",
                    "row": 0,
                    "model": MODEL,
                    "version": "1",
                    "role": "stable",
                    "predict_at": predict_at(flight).isoformat(),
                    "as_of": JULY.isoformat(),
                    "logged_at": (logged_at + timedelta(seconds=self.logged)).isoformat(),
                    "request": {"flight": flight},
                    "features": {},
                    "score": (self.logged * 37 % 100) / 100,
                }
                opened.write(json.dumps(line | changes) + "\n")

    def ingest(self) -> IngestionResult:
        return ingest_log_files(self.lake, MODEL, self.logs)

    def land(self, partition: str, labels: dict[int, int | None]) -> None:
        """Replace a partition of the labels by ``labels``, by flight."""
        rows = [
            (flight, predict_at(flight), label, predict_at(flight) + timedelta(hours=6))
            for flight, label in labels.items()
        ]
        self.lake.write(LABELS, pl.DataFrame(rows, schema=_LABEL_SCHEMA, orient="row"), partition)

    def join(self, now: datetime = NOW) -> int:
        """Record outcomes and return the number of new facts."""
        return record_outcomes(self.lake, MODEL, LabelSource(LABELS, IDENTITY), known_by=self.known_by, now=now)

    def predictions(self) -> pl.DataFrame:
        return self.lake.scan(predictions_table(MODEL)).drop("partition").collect()

    def outcomes(self) -> dict[str, float]:
        """Return the current outcomes by prediction id."""
        days = self.lake.partitions(outcomes_table(MODEL))
        return dict(current_outcomes(self.lake, MODEL, days).select("prediction_id", "outcome").rows())

    def expected_outcomes(self) -> dict[str, float]:
        """Return the outcomes by joining all predictions with all labels, as a check of the incremental join."""
        matched = self._all_matched()
        return dict(matched.drop_nulls("outcome").select("prediction_id", "outcome").rows())

    def periods(self, measure: PerformanceMeasure) -> list[Period]:
        found = measured_periods(self.lake, MODEL, measure, known_by=self.known_by)
        return sorted(found, key=lambda period: (period.start, period.version))

    def expected_periods(self, measure: PerformanceMeasure) -> list[Period]:
        """Return the periods measured from all predictions and labels, as a check of the stored results."""
        settings = measure.settings
        rows = self._all_matched().filter(pl.col("role") == "stable")
        starts = rows.with_columns(start=pl.col("predict_at").dt.truncate(settings.period))
        latest = starts.sort("logged_at", "request_id", "row").unique(
            ["start", *IDENTITY, "version"], keep="last", maintain_order=True
        )
        found = [
            measure_period(start, str(version), group, measure.compute_metrics, settings, self.known_by)
            for (start, version), group in latest.group_by("start", "version", maintain_order=True)
        ]
        return sorted(found, key=lambda period: (period.start, period.version))

    def _all_matched(self) -> pl.DataFrame:
        labels = self.lake.scan(LABELS).drop("partition", "predict_at").collect()
        typed = with_request_fields(self.predictions(), {"flight": pl.Int64()})
        return match_labels(typed, labels, keys=IDENTITY, known_by=self.known_by)


def share_right(labelled: pl.DataFrame) -> dict[str, float]:
    """Return a metric that is easy to count by hand: the share on the correct side of one half."""
    return {"share_right": float(((labelled["score"] > 0.5) == (labelled["outcome"] > 0.5)).to_numpy().mean())}


def measure(metrics: Any = share_right, *, identity: Sequence[str] = IDENTITY, **settings: Any) -> PerformanceMeasure:
    """Return a measure that evaluates a period from two labels on."""
    defaults: dict[str, Any] = {"period": "1d", "minimum_labels": 2, "minimum_days": 1, "minimum_coverage": 0}
    return PerformanceMeasure(
        identity={name: pl.Int64() for name in identity},
        compute_metrics=metrics,
        metrics_name="share_right",
        settings=PerformanceSettings.model_validate(defaults | settings),
    )
