"""What became of predictions, and whether the rows still look alike: where monitoring meets training and evaluation.

Apart from the assets so that the command line and schedules look by the same steps.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from ml_platform.data.lake import PARTITION, Lake, TableVersion
from ml_platform.data.partitions import month_bounds
from ml_platform.evaluation.metrics import score_task
from ml_platform.monitoring.drift import measure_drift
from ml_platform.monitoring.drift_report import DriftReport
from ml_platform.monitoring.evidently_report import write_evidently_report
from ml_platform.monitoring.logged_fields import with_request_fields
from ml_platform.monitoring.outcomes import outcomes_table, with_outcomes
from ml_platform.monitoring.performance import ExpectedMetrics, PerformanceReport, expected_metrics, measure_performance
from ml_platform.monitoring.prediction_log import IngestionResult, ingest_log_files, predictions_table
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ChampionRecord, champion_history
from ml_platform.registry.models import ModelRegistry
from ml_platform.steps.candidates import data_clock
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import model_directory
from ml_platform.training.model_directory import StoredModel, read_model
from ml_platform.training.training_set import LABEL, LABEL_KNOWN_AT
from resources.home import Home

SCORE = "score"
"""The column of scores beside the features; the champion's, whatever it predicts."""

MAX_FEATURES_DRAWN = 20
"""Features on the page of a drift, those that moved most: two hundred plots would be read by nobody."""


@dataclass(frozen=True)
class OutcomeJoinResult:
    """The table of outcomes as written: its version, and how many of its predictions have an outcome."""

    table: TableVersion
    labelled: int


@dataclass(frozen=True)
class DriftResult:
    """What was found about a month, where it is drawn (None: nothing to draw), and whose scores were compared."""

    report: DriftReport
    page: Path | None
    scored_by: int | None


def ingest_predictions(model: BoundModel, lake: Lake, folders: Home) -> IngestionResult:
    """Bring what the services logged since the last time into the lake."""
    files = sorted((folders.prediction_logs / model.name).glob("*.jsonl"))
    return ingest_log_files(lake, predictions_table(model.name), files, folders.serving / model.name / "ingested.json")


def join_outcomes(model: BoundModel, lake: Lake) -> OutcomeJoinResult | None:
    """Join every logged prediction with its label where that is known by now; None where nothing was predicted yet."""
    if not lake.exists(predictions_table(model.name)):
        return None
    keys = model.identity
    labels = lake.scan(model.table).select(*keys, LABEL, LABEL_KNOWN_AT).collect()
    predictions = lake.scan(predictions_table(model.name)).drop(PARTITION).collect()
    typed = with_request_fields(predictions, {name: labels.schema[name] for name in keys})
    joined = with_outcomes(typed, labels, keys=keys, known_by=data_clock(model, lake))
    return OutcomeJoinResult(lake.write(outcomes_table(model.name), joined, None), joined["outcome"].count())


def performance_report(model: BoundModel, lake: Lake, audit: AuditLog, folders: Home) -> PerformanceReport:
    """Return the realised metrics of what each stable version answered; no periods where nothing was predicted yet."""
    if not lake.exists(outcomes_table(model.name)):
        return PerformanceReport(periods=[])
    rows = lake.scan(outcomes_table(model.name)).filter(pl.col("role") == "stable").collect()
    return measure_performance(
        rows,
        compute_metrics=partial(score_task, model.declared.task),
        settings=model.declared.monitors.performance,
        known_by=data_clock(model, lake),
        expected_by_version=expected_by_version(model, audit, folders),
    )


def expected_by_version(model: BoundModel, audit: AuditLog, folders: Home) -> dict[str, ExpectedMetrics]:
    """Return, by version that was ever champion, the metrics with which it was promoted."""
    found: dict[str, ExpectedMetrics] = {}
    for one in champion_history(audit, model.name):
        numbers = folders.verdict_metrics / f"{one.verdict}.json"
        if one.verdict and numbers.exists():
            found[str(one.version)] = expected_metrics(json.loads(numbers.read_text()))
    return found


def monitor_drift(
    model: BoundModel,
    month: str,
    *,
    lake: Lake,
    registry: Callable[[], ModelRegistry],
    audit: AuditLog,
    folders: Home,
) -> DriftResult:
    """Compare the rows of ``month`` with those of all months before it, and draw what moved most.

    Scores are compared too where a champion stood before the month: those it gives the month with those it gave the
    month on which it was evaluated, of which it had not seen a row. ``registry`` is asked for only then.
    """
    earlier = [partition for partition in lake.partitions(model.table) if partition < month]
    # By partition, not by prediction time: the first example of a month may be predicted in the month before.
    rows = lake.scan(model.table, partitions=[*earlier, month]).collect()
    champion = _champion_before(audit, model, month)
    if champion is not None:
        directory = model_directory(registry(), registry().version(model.name, champion.version), folders.models)
        rows = _with_scores(read_model(directory), rows, model, champion.partition, month)
    reference, current = rows.filter(pl.col(PARTITION) < month), rows.filter(pl.col(PARTITION) == month)
    monitors = model.declared.monitors
    scored = SCORE if SCORE in rows.columns else None
    report = measure_drift(
        reference,
        current,
        features=model.feature_set.feature_names,
        settings=monitors.drift,
        score=scored,
        time="predict_at",
        expected_rows=reference.height / len(earlier) if earlier else None,
    )
    if not report.columns:
        return DriftResult(report, None, None)
    page = folders.reports / "drift" / model.name / month / "report.html"
    write_evidently_report(
        reference,
        current,
        page,
        features=[column.name for column in report.columns if column.role == "feature"][:MAX_FEATURES_DRAWN],
        settings=monitors.drift_page,
        score=scored,
        drifted=report.drifted,
    )
    return DriftResult(report, page, champion.version if champion and scored else None)


def _champion_before(audit: AuditLog, model: BoundModel, month: str) -> ChampionRecord | None:
    """Return the newest champion that was made before ``month``, by the data it was made from, not by the clock."""
    records = [one for one in champion_history(audit, model.name) if one.partition < month]
    return records[-1] if records else None


def _with_scores(
    stored: StoredModel, rows: pl.DataFrame, model: BoundModel, evaluated_on: str, month: str
) -> pl.DataFrame:
    """Return ``rows`` with scores for those of ``month`` and of the evaluation's month, else null.

    A model that reads features which the training set no longer has cannot score it: the rows come back as they are.
    """
    if any(name not in rows.columns for name in stored.encoder.feature_names):
        return rows
    # What was predicted before the evaluation's month began, the model may have been fitted on.
    first, _ = month_bounds(evaluated_on, model.declared.partitions.time_zone)
    unseen = rows[PARTITION].is_in([evaluated_on, month]) & (rows["predict_at"] >= first)
    scores = pl.Series(SCORE, [None] * rows.height, dtype=pl.Float64).scatter(
        unseen.arg_true(), stored.predict(rows.filter(unseen))
    )
    return rows.with_columns(scores)
