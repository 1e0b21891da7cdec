"""What became of predictions, and whether the rows still look alike: where monitoring meets training and evaluation.

Apart from the assets so that the command line and schedules look by the same steps.
"""

from datetime import datetime
from pathlib import Path

import polars as pl

from ml_platform.components.candidates import read_training_set
from ml_platform.components.model import BoundModel
from ml_platform.data.lake import PARTITION, Lake, TableVersion
from ml_platform.data.partitions import month_bounds
from ml_platform.evaluation.metrics import score
from ml_platform.monitoring.drift import measure_drift
from ml_platform.monitoring.drift_report import DriftReport
from ml_platform.monitoring.evidently_report import ReportSettings, write_evidently_report
from ml_platform.monitoring.outcomes import join_outcomes
from ml_platform.monitoring.performance import PerformanceReport, PerformanceSettings, realised_performance
from ml_platform.monitoring.prediction_log import Ingested, ingest, with_request_fields
from ml_platform.training.training_set import LABEL, LABEL_KNOWN_AT
from resources.home import Home


def predictions_table(model: BoundModel) -> str:
    """Return the lake table of logged predictions."""
    return f"models/{model.name}/predictions"


def outcomes_table(model: BoundModel) -> str:
    """Return the lake table of predictions with what then happened."""
    return f"models/{model.name}/outcomes"


def ingest_predictions(model: BoundModel, lake: Lake, folders: Home) -> Ingested:
    """Bring what the services logged since the last time into the lake."""
    files = sorted((folders.serving / "predictions" / model.name).glob("*.jsonl"))
    return ingest(lake, predictions_table(model), files, folders.serving / model.name / "ingested.json")


def data_clock(model: BoundModel, lake: Lake) -> datetime:
    """Return the end of the newest month whose examples have landed: the time that counts as now."""
    return month_bounds(lake.partitions(model.table)[-1], model.declared.partitions.time_zone)[1]


def settle_outcomes(model: BoundModel, lake: Lake) -> TableVersion | None:
    """Join every logged prediction with its label where that is known by now; None where nothing was predicted yet."""
    if not lake.exists(predictions_table(model)):
        return None
    keys = model.request_fields
    labels = lake.scan(model.table).select(*keys, LABEL, LABEL_KNOWN_AT).collect()
    predictions = lake.scan(predictions_table(model)).drop(PARTITION).collect()
    typed = with_request_fields(predictions, {name: labels.schema[name] for name in keys})
    joined = join_outcomes(typed, labels, keys=keys, known_by=data_clock(model, lake))
    return lake.write(outcomes_table(model), joined, None)


def judge_performance(
    model: BoundModel, lake: Lake, settings: PerformanceSettings, promise: dict[str, float]
) -> PerformanceReport:
    """Return the realised metrics of what the stable version answered; no periods where nothing was predicted yet."""
    if not lake.exists(outcomes_table(model)):
        return PerformanceReport(periods=[])
    rows = lake.scan(outcomes_table(model)).filter(pl.col("role") == "stable").collect()
    return realised_performance(rows, score=score, settings=settings, known_by=data_clock(model, lake), promise=promise)


def watch_drift(model: BoundModel, month: str, lake: Lake, page: Path) -> DriftReport:
    """Compare the rows of ``month`` with those of all months before it; write Evidently's page to ``page``."""
    rows = read_training_set(model, month, lake)
    start, _ = month_bounds(month, model.declared.partitions.time_zone)
    reference, current = rows.filter(pl.col("predict_at") < start), rows.filter(pl.col("predict_at") >= start)
    features = model.feature_set.feature_names
    report = measure_drift(reference, current, features=features, settings=model.declared.drift, time="predict_at")
    # The page draws what moved most: two hundred plots would be read by nobody.
    moved = [column.name for column in report.columns[:20]]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_evidently_report(reference, current, page, features=moved, settings=ReportSettings())
    return report
