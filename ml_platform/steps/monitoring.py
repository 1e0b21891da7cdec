"""Monitoring of a model: ingest logged predictions, join them with outcomes, measure performance and drift.

The assets and the schedules call the same functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import polars as pl

from ml_platform.data.lake import PARTITION, Lake, TableVersion
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.source_hash import source_hash
from ml_platform.features.feature_set import FeatureSet
from ml_platform.monitoring import performance
from ml_platform.monitoring.drift import measure_drift
from ml_platform.monitoring.drift_history import record_drift
from ml_platform.monitoring.drift_report import LAST_PARTITION, SAME_SEASON, DriftReport
from ml_platform.monitoring.drift_rows import read_drift_rows
from ml_platform.monitoring.evidently_report import PageHeading, write_evidently_report
from ml_platform.monitoring.fact_tables import compact_closed_days
from ml_platform.monitoring.hashed_fields import HashedFields
from ml_platform.monitoring.logged_nulls import logged_features, risen_nulls
from ml_platform.monitoring.lost_predictions import LostPredictions, count_lost_predictions
from ml_platform.monitoring.maturity_record import maturity_curve
from ml_platform.monitoring.outcome_join import LabelSource, record_outcomes
from ml_platform.monitoring.outcomes import outcomes_table
from ml_platform.monitoring.own_monitor import MonitorResult, monitor_result
from ml_platform.monitoring.performance import (
    ExpectedMetrics,
    PerformanceReport,
    PerformanceSettings,
    expected_metrics,
)
from ml_platform.monitoring.performance_periods import PerformanceMeasure, measured_periods
from ml_platform.monitoring.prediction_days import labelled_count
from ml_platform.monitoring.prediction_log import IngestionResult, ingest_log_files, predictions_table
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, RETIRE, ChampionRecord, champion_history
from ml_platform.registry.verdict_record import verdict_metrics
from ml_platform.steps.candidates import data_clock
from ml_platform.steps.closed_window import landed_until
from ml_platform.steps.feature_checks import NOT_APPLICABLE, NotEvaluated
from ml_platform.steps.model import BoundModel
from ml_platform.steps.own_features import GivenRows, OwnFeaturesError, VersionFiles, changed_views, own_rows
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.pseudonyms import hashed_fields_of
from ml_platform.steps.realised_fairness import realised_fairness
from ml_platform.steps.scoring import version_files
from ml_platform.steps.untimed import written_at
from ml_platform.steps.version_knowledge import knowledge_of_versions
from ml_platform.tasks.catalog import realised_metrics
from ml_platform.training.model_directory import StoredModel

MAX_FEATURES_DRAWN = 20
"""Number of features on the drift report page: those with the largest change."""


@dataclass(frozen=True)
class OutcomeJoinResult:
    """The outcomes table as a whole (None: no outcome is known yet), and counts.

    ``labelled`` is the number of predictions with a known outcome, ``added`` the number of facts that this join added.
    """

    table: TableVersion | None
    labelled: int
    added: int


@dataclass(frozen=True)
class DriftResult:
    """The drift report of a window, its page (None: no columns to draw), and the version whose scores were compared.

    ``own`` are the results of the team's own monitors by name. ``not_scored`` is the reason why a champion before the
    window has no scores here, else empty.
    """

    report: DriftReport
    page: Path | None
    scored_by: int | None
    own: dict[str, MonitorResult] = field(default_factory=dict)
    not_scored: str = ""


def logged_names(model: str, audit: AuditLog) -> list[str]:
    """Return the names under which services logged predictions of ``model``: its own, then the former ones.

    The service of a former name goes on until a person ends it. A name that another model has now is left out.
    """
    former = [name for name in audit.former_names(model) if audit.latest(CHAMPION_KIND, name) is None]
    return [model, *former]


def ingest_predictions(model: BoundModel, stores: PlatformStores, now: datetime) -> IngestionResult:
    """Append the lines that the services logged since the last call to the predictions table.

    The days before ``now`` whose rows lie in many small files are compacted.
    """
    logs, lake = stores.home.prediction_logs, stores.lake
    result = ingest_log_files(lake, model.name, logs / model.name)
    for name in logged_names(model.name, stores.audit)[1:]:
        result = result.plus(ingest_log_files(lake, model.name, logs / name, logged_as=name))
    compact_closed_days(stores.lake, predictions_table(model.name), now.astimezone(UTC).date())
    return result


def lost_predictions(model: BoundModel, stores: PlatformStores) -> LostPredictions:
    """Return the counts of the predictions that the services answered and did not log, since the counting began.

    Services of a former name of the model count too.
    """
    logs = stores.home.prediction_logs
    found = [count_lost_predictions(stores.state, name, logs / name) for name in logged_names(model.name, stores.audit)]
    return LostPredictions(lost=sum(each.lost for each in found), dropped=sum(each.dropped for each in found))


def join_outcomes(
    model: BoundModel, lake: Lake, now: datetime, hashed: HashedFields | None = None
) -> OutcomeJoinResult | None:
    """Record the outcomes that became known, changed or were withdrawn; return None without logged predictions.

    A label counts as known when it became known before :func:`label_clock`. Labels of a dataset of their
    own come from the training set, so a prediction has no outcome before its label is due. ``now`` is the time of
    recording. ``hashed`` are the fields of which the log has pseudonyms; see
    :func:`~ml_platform.steps.pseudonyms.hashed_fields_of`.
    """
    if not lake.exists(predictions_table(model.name)):
        return None
    labels = LabelSource(
        model.table,
        model.identity,
        model.pii_columns,
        model.declared.task.outcome_type,
        written_at=None if model.has_time else written_at(model, lake),
        hashed=hashed,
    )
    table = outcomes_table(model.name)
    added = record_outcomes(lake, model.name, labels, known_by=label_clock(model, lake), now=now)
    compact_closed_days(lake, table, now.astimezone(UTC).date())
    summary = lake.summary(table) if lake.exists(table) else None
    return OutcomeJoinResult(summary, labelled_count(lake.state, model.name), added)


def label_clock(model: BoundModel, lake: Lake) -> datetime:
    """Return the time until which labels are known: that of the data, or the end of the last landed labels."""
    return landed_until(model, lake) or data_clock(model, lake)


def performance_report(model: BoundModel, stores: PlatformStores) -> PerformanceReport:
    """Return the realised metrics of each stable version by period; no periods without logged predictions.

    Only periods about which something changed are measured again.
    """
    lake, settings = stores.lake, performance_settings(model)
    if not lake.exists(predictions_table(model.name)):
        return PerformanceReport(periods=[])
    schema, clock = lake.scan(model.table).collect_schema(), label_clock(model, lake)
    measure = PerformanceMeasure(
        identity={name: schema[name] for name in model.identity},
        compute_metrics=partial(realised_metrics, model.declared.task, own=model.own_metrics),
        metrics_name=_metrics_name(model),
        settings=settings,
        outcome_type=model.declared.task.outcome_type,
        hashed=hashed_fields_of(model, stores.home),
        curve=maturity_curve(
            lake,
            model.name,
            known_by=clock,
            delay_hours=settings.label_delay_hours,
            outcome_type=model.declared.task.outcome_type,
        ),
        knowledge_of=knowledge_of_versions(model, stores),
        slices={name: schema[name] for name in _measured_slices(model) if name in schema},
        fairness=partial(realised_fairness, model) if model.fairness_gates else None,
    )
    periods = measured_periods(lake, model.name, measure, known_by=clock)
    return performance.performance_report(periods, settings, expected_by_version(model, stores))


def _measured_slices(model: BoundModel) -> list[str]:
    """Return the request fields whose values are slices, without those that identify a person."""
    personal = set(model.pii_columns)
    return [name for name in model.slice_fields if name in model.request_fields and name not in personal]


def _metrics_name(model: BoundModel) -> str:
    """Return a name of the code and settings of all realised metrics; another name measures all periods again."""
    own = [
        f"{name} {metric.source_digest()} {metric.model_dump_json()}"
        for name, metric in sorted(model.own_metrics.items())
    ]
    code = (
        "ml_platform.tasks.catalog:realised_metrics",
        "ml_platform.monitoring.performance:measure_period",
        "ml_platform.monitoring.realised_arms:arm_metrics",
        "ml_platform.evaluation.bootstrap:bootstrap",
        "ml_platform.monitoring.estimates:fit_estimator",
    )
    gates = [gate.model_dump_json() for gate in model.fairness_gates]
    fairness = [source_hash("ml_platform.evaluation.fairness:compare_groups"), *gates] if gates else []
    return " ".join([model.declared.task.name, *map(source_hash, code), *own, *fairness])


def performance_settings(model: BoundModel) -> PerformanceSettings:
    """Return the declared settings, with the direction of the team's own metrics.

    Unless declared, labels of a dataset of their own are late after their horizon.
    """
    settings, labels = model.declared.monitors.performance, model.declared.labels
    higher = [name for name, metric in model.own_metrics.items() if metric.higher_is_better]
    if higher:
        settings = settings.model_copy(update={"higher_is_better": [*settings.higher_is_better, *higher]})
    if labels is None or "label_delay_hours" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"label_delay_hours": labels.wait / timedelta(hours=1)})


def expected_by_version(model: BoundModel, stores: PlatformStores) -> dict[str, ExpectedMetrics]:
    """Return the metrics of the evaluation that promoted a version, for each version that has been champion."""
    found: dict[str, ExpectedMetrics] = {}
    for one in champion_history(stores.audit, model.name):
        metrics = verdict_metrics(stores.state, one.verdict)
        if metrics:
            found[str(one.version)] = expected_metrics(metrics)
    return found


def monitor_drift(model: BoundModel, window: str, stores: PlatformStores) -> DriftResult | NotEvaluated:
    """Compare the rows of ``window`` with those of the windows before it, and write a page of the largest changes.

    The monitor declares the number of these windows. The window of the champion's evaluation is read too. The last
    window and those of the same season are references of their own; see
    :func:`~ml_platform.monitoring.drift.measure_drift`. Of many rows a sample is read; see
    :func:`~ml_platform.monitoring.drift_rows.read_drift_rows`.

    When a champion was promoted before the window, its scores are compared too: those for this window with those for
    the window of its evaluation, which it had not been fitted on. The registry is opened only in this case. Features
    that the endpoint logged for the window show nulls of late data, which the training set no longer has. The columns
    of fitted views are those that the transformers of this champion compute.

    Not applicable to a model without time.
    """
    if not model.has_time:
        return NOT_APPLICABLE
    lake, monitors = stores.lake, model.declared.monitors
    champion = _champion_before(stores.audit, model, window)
    stored = model.partitions.sort(lake.partitions(model.table))
    before = [partition for partition in stored if model.partitions.precedes(partition, window)]
    latest = before[-monitors.drift.reference_partitions :]
    evaluated = [] if champion is None else [champion.partition]
    # The last window has its own reference: as a season it would hide what moves gradually.
    seasons = {
        days: key
        for days, key in same_season(model.partitions, window, monitors.drift.season_days).items()
        if key in before[:-1]
    }
    earlier = [partition for partition in before if partition in [*evaluated, *latest]]
    read = [partition for partition in before if partition in [*earlier, *seasons.values()]]
    # Select by partition: the first example of a window may have its prediction time in the window before.
    table = lake.scan(model.table, partitions=[*read, window])
    stored_columns = table.collect_schema().names()
    found = read_drift_rows(
        table,
        window=window,
        key="example_id",
        columns=[name for name in model.feature_set.feature_names if name in stored_columns],
        limit=monitors.drift.read_rows,
        window_limit=monitors.drift.windows * monitors.drift.sample_rows,
        seed=monitors.drift.seed,
    )
    rows, totals = found.rows, found.totals_of(earlier)
    scored: dict[str, pl.Series] = {}
    features, not_scored = model.feature_set, ""
    if champion is not None:
        files = version_files(stores.registry.version(model.name, champion.version), stores)
        try:
            scored = _scores(files, rows, model, champion.partition, window, lake)
        except OwnFeaturesError as error:
            not_scored = str(error)
        rows, features = with_fitted_columns(rows, files.stored, features)
        rows = rows.hstack(list(scored.values()))
    pii_columns = features.pii_columns_with(model.example_pii)
    reference, current = rows.filter(pl.col(PARTITION).is_in(earlier)), rows.filter(pl.col(PARTITION) == window)
    report = measure_drift(
        reference,
        current,
        features=features.feature_names,
        settings=monitors.drift,
        scores=list(scored),
        time="predict_at",
        expected_rows=totals.rows / len(earlier) if earlier else None,
        pii_columns=pii_columns,
        further_references={
            LAST_PARTITION: rows.filter(pl.col(PARTITION).is_in(before[-1:])),
            **{
                f"{SAME_SEASON}, {days:g} days before": rows.filter(pl.col(PARTITION) == key)
                for days, key in seasons.items()
            },
        },
        reference_totals=totals,
        current_totals=found.totals_of([window]),
    )
    report = _with_logged_nulls(report, reference, model, window, lake)
    record_drift(lake.state, model.name, window, report, stored)
    own = {name: monitor_result(monitor, reference, current) for name, monitor in monitors.own.items()}
    if not report.columns:
        return DriftResult(report, None, None, own, not_scored)
    # The page draws the values of its columns, so it has none that identifies a person.
    drawn = [each.name for each in report.columns if each.role == "feature" and each.name not in pii_columns]
    if not drawn and not scored:
        return DriftResult(report, None, None, own, not_scored)
    page = stores.home.reports / "drift" / model.name / window / "report.html"
    write_evidently_report(
        reference,
        current,
        page,
        features=drawn[:MAX_FEATURES_DRAWN],
        settings=monitors.drift_page,
        score=next(iter(scored), None),
        drifted=report.drifted,
        heading=PageHeading(f"Drift of {model.name}, {window}", report.decision, report.reason.partition(": ")[2]),
    )
    return DriftResult(report, page, champion.version if champion and scored else None, own, not_scored)


def same_season(partitions: PartitionScheme, partition: str, season_days: Sequence[float]) -> dict[float, str]:
    """Return for each of ``season_days`` the partition that lies so long before the middle of ``partition``.

    Seasons shorter than the partition are left out.

    >>> same_season(PartitionScheme(start="2012-01", time_zone="UTC"), "2013-03", (7, 365))
    {365: '2012-03'}
    """
    start, end = partitions.bounds(partition)
    middle = start + (end - start) / 2
    keys = {days: partitions.key_at(middle - timedelta(days=days)) for days in season_days}
    return {days: key for days, key in keys.items() if key != partition}


def with_fitted_columns(
    rows: pl.DataFrame, stored: StoredModel, declared: FeatureSet
) -> tuple[pl.DataFrame, FeatureSet]:
    """Return ``rows`` of a training set with the columns of fitted views, and ``declared`` with these features.

    The transformers of the ``stored`` model compute them. A view that changed since the model was fitted has none, as
    has one whose inputs changed, and neither has any view when the training set no longer has all columns that the
    model needs.
    """
    if stored.features is None or any(name not in rows.columns for name in stored.required_columns):
        return rows, declared
    fitted_then = {view.name: view for view in stored.features.fitted}
    changed = changed_views(stored.features, declared)
    transformers = {
        view.name: stored.features.transformers[view.name]
        for view in declared.fitted
        if view.name in fitted_then
        and view.code_version == fitted_then[view.name].code_version
        and not changed & set(view.inputs)
    }
    return stored.features.transformed(rows), declared.with_transformers(transformers)


def _with_logged_nulls(
    report: DriftReport, reference: pl.DataFrame, model: BoundModel, window: str, lake: Lake
) -> DriftReport:
    """Return ``report`` with the nulls of the features that the endpoint logged for ``window``, if there are enough."""
    table, settings = predictions_table(model.name), model.declared.monitors.drift
    if not lake.exists(table):
        return report
    parts = (lake.scan(table, partitions=[day]) for day in reversed(lake.partitions(table)))
    start, end = model.partitions.bounds(window)
    logged = logged_features(parts, start, end, rows=settings.sample_rows, seed=settings.seed)
    if logged.height < settings.minimum_rows:
        return report
    dropped = {name for name, treatment in model.pii_features.items() if treatment == "drop"}
    names = [name for name in model.feature_set.feature_names if name not in dropped]
    change = settings.null_rate_change
    risen = risen_nulls(reference, logged, names, by=PARTITION, change=change)
    return report.model_copy(update={"logged_rows": logged.height, "logged_nulls": risen})


def _champion_before(audit: AuditLog, model: BoundModel, window: str) -> ChampionRecord | None:
    """Return the latest champion whose partition is before ``window``; the time of its promotion does not count.

    None when that champion was retired.
    """
    records = [one for one in champion_history(audit, model.name) if model.partitions.precedes(one.partition, window)]
    return records[-1] if records and records[-1].action != RETIRE else None


def _scores(
    files: VersionFiles, rows: pl.DataFrame, model: BoundModel, evaluated_on: str, window: str, lake: Lake
) -> dict[str, pl.Series]:
    """Return the columns of scores by name, null except in ``window`` and in the window ``evaluated_on``.

    The version of ``files`` predicts from its own features; raises :class:`~.own_features.OwnFeaturesError` where these
    cannot be had.
    """
    # The model may have been fitted on rows with a prediction time before the window of its evaluation.
    first, _ = model.partitions.bounds(evaluated_on)
    unseen = rows[PARTITION].is_in([evaluated_on, window]) & (rows["predict_at"] >= first)
    given = GivenRows(rows.filter(unseen), model.table, model.feature_set)
    columns = files.stored.task.score_columns(files.stored.predict(own_rows(model, files, given, lake).rows))
    empty = [None] * rows.height
    return {
        name: pl.Series(name, empty, dtype=pl.Float64).scatter(unseen.arg_true(), values)
        for name, values in columns.items()
    }
