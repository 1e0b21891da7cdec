"""Monitoring of a model: ingest logged predictions, join them with outcomes, measure performance and drift.

The assets and the schedules call the same functions.
"""

import json
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
from ml_platform.steps.candidates import data_clock
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.training.model_directory import StoredModel, read_model
from ml_platform.training.training_set import LABEL, LABEL_KNOWN_AT

SCORE = "score"
"""Column with the champion's scores; null where the champion has not scored the row."""

MAX_FEATURES_DRAWN = 20
"""Number of features on the drift report page: those with the largest change."""


@dataclass(frozen=True)
class OutcomeJoinResult:
    """The written version of the outcomes table, and ``labelled``, the number of predictions with an outcome."""

    table: TableVersion
    labelled: int


@dataclass(frozen=True)
class DriftResult:
    """The drift report of a month, its page (None: no columns to draw), and the version whose scores were compared."""

    report: DriftReport
    page: Path | None
    scored_by: int | None


def ingest_predictions(model: BoundModel, stores: PlatformStores) -> IngestionResult:
    """Append the lines that the services logged since the last call to the predictions table."""
    files = sorted((stores.home.prediction_logs / model.name).glob("*.jsonl"))
    cursor = stores.home.serving / model.name / "ingested.json"
    return ingest_log_files(stores.lake, predictions_table(model.name), files, cursor)


def join_outcomes(model: BoundModel, lake: Lake) -> OutcomeJoinResult | None:
    """Join every logged prediction with its label if the label is known; return None without logged predictions.

    A label counts as known when it became known before the data clock (:func:`~.candidates.data_clock`).
    """
    if not lake.exists(predictions_table(model.name)):
        return None
    keys = model.identity
    labels = lake.scan(model.table).select(*keys, LABEL, LABEL_KNOWN_AT).collect()
    predictions = lake.scan(predictions_table(model.name)).drop(PARTITION).collect()
    typed = with_request_fields(predictions, {name: labels.schema[name] for name in keys})
    joined = with_outcomes(typed, labels, keys=keys, known_by=data_clock(model, lake))
    return OutcomeJoinResult(lake.write(outcomes_table(model.name), joined, None), joined["outcome"].count())


def performance_report(model: BoundModel, stores: PlatformStores) -> PerformanceReport:
    """Return the realised metrics of each stable version by period; no periods without logged predictions."""
    lake = stores.lake
    if not lake.exists(outcomes_table(model.name)):
        return PerformanceReport(periods=[])
    rows = lake.scan(outcomes_table(model.name)).filter(pl.col("role") == "stable").collect()
    return measure_performance(
        rows,
        compute_metrics=partial(score_task, model.declared.task),
        settings=model.declared.monitors.performance,
        known_by=data_clock(model, lake),
        expected_by_version=expected_by_version(model, stores),
    )


def expected_by_version(model: BoundModel, stores: PlatformStores) -> dict[str, ExpectedMetrics]:
    """Return the metrics of the evaluation that promoted a version, for each version that has been champion."""
    found: dict[str, ExpectedMetrics] = {}
    for one in champion_history(stores.audit, model.name):
        numbers = stores.home.verdict_metrics / f"{one.verdict}.json"
        if one.verdict and numbers.exists():
            found[str(one.version)] = expected_metrics(json.loads(numbers.read_text()))
    return found


def monitor_drift(model: BoundModel, month: str, stores: PlatformStores) -> DriftResult:
    """Compare the rows of ``month`` with those of all earlier months, and write a page of the largest changes.

    When a champion was promoted before the month, its scores are compared too: those for this month with those for the
    month of its evaluation, which it had not been fitted on. The registry is opened only in this case.
    """
    lake = stores.lake
    earlier = [partition for partition in lake.partitions(model.table) if partition < month]
    # Select by partition: the first example of a month may have its prediction time in the month before.
    rows = lake.scan(model.table, partitions=[*earlier, month]).collect()
    champion = _champion_before(stores.audit, model, month)
    if champion is not None:
        directory = model_directory(stores.registry.version(model.name, champion.version), stores)
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
    page = stores.home.reports / "drift" / model.name / month / "report.html"
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
    """Return the latest champion whose partition is before ``month``; the time of its promotion does not count."""
    records = [one for one in champion_history(audit, model.name) if one.partition < month]
    return records[-1] if records else None


def _with_scores(
    stored: StoredModel, rows: pl.DataFrame, model: BoundModel, evaluated_on: str, month: str
) -> pl.DataFrame:
    """Return ``rows`` with a column of scores, null except in ``month`` and in the month ``evaluated_on``.

    The rows are returned without scores when the training set no longer has all features of the model.
    """
    if any(name not in rows.columns for name in stored.encoder.feature_names):
        return rows
    # The model may have been fitted on rows with a prediction time before the month of its evaluation.
    first, _ = month_bounds(evaluated_on, model.declared.partitions.time_zone)
    unseen = rows[PARTITION].is_in([evaluated_on, month]) & (rows["predict_at"] >= first)
    scores = pl.Series(SCORE, [None] * rows.height, dtype=pl.Float64).scatter(
        unseen.arg_true(), stored.predict(rows.filter(unseen))
    )
    return rows.with_columns(scores)
