"""Knowledge about a served version from before its predictions, with which its periods are measured.

It follows from the promotion of the version and the data of its evaluation, so each measurement reads the same.
"""

import json
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import polars as pl
from pydantic import ValidationError

from ml_platform.data.lake import Lake
from ml_platform.data.source_hash import source_hash
from ml_platform.evaluation.bootstrap import ROW_UNIT, TIME_UNITS, BootstrapSettings, bootstrap
from ml_platform.evaluation.evidence import CANDIDATE, Evidence, bootstrap_blocks
from ml_platform.evaluation.serial_dependence import serial_dependence
from ml_platform.evaluation.verdict import Verdict
from ml_platform.monitoring.estimates import ESTIMATORS, Estimator, can_be_estimated, fit_estimator
from ml_platform.monitoring.log_lines import DETAILS
from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.monitoring.performance import ExpectedInterval, ExpectedMetrics, LabelKnowledge
from ml_platform.registry.champion_history import ChampionRecord, champion_history
from ml_platform.registry.verdict_record import PromotionError, stored_verdict
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.steps.evaluation import load_evidence
from ml_platform.steps.model import BoundModel
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.tasks.metrics import Array, EvaluationError
from ml_platform.tasks.row_losses import LOSS_METRICS
from ml_platform.training.splits import LABEL

VERSION = "version"
_DAYS_OF_UNIT = {"hour": 1 / 24, "day": 1.0, "week": 7.0}
RESAMPLES = 200
"""Draws of the intervals of realised metrics; the standard error needs fewer than the gates do."""


def knowledge_of_versions(model: BoundModel, stores: PlatformStores) -> Callable[[str], LabelKnowledge]:
    """Return the knowledge about each version by its number; it is read at the first use of a version."""
    champions = {str(each.version): each for each in champion_history(stores.audit, model.name)}

    @cache
    def of_version(version: str) -> LabelKnowledge:
        champion = champions.get(version)
        fitted = None if champion is None else estimator_of(model, champion, stores)
        return LabelKnowledge(
            usual_coverage=None if champion is None else usual_coverage(model, champion, stores.lake),
            estimate=None if fitted is None else partial(estimated_metrics, model, fitted),
            intervals=partial(realised_intervals, model),
        )

    return of_version


def usual_coverage(model: BoundModel, champion: ChampionRecord, lake: Lake) -> float | None:
    """Return the share of the examples of the champion's evaluation that have a label; None if they are not stored."""
    partitions = None
    if model.has_time:
        if not lake.exists(model.table) or not lake.digests(model.table, [champion.partition]):
            return None
        partitions = [champion.partition]
    share = lake.scan(model.table, partitions=partitions).select(pl.col(LABEL).is_not_null().mean()).collect().item()
    return None if share is None else float(share)


def estimator_of(model: BoundModel, champion: ChampionRecord, stores: PlatformStores) -> Estimator | None:
    """Return the estimator of a champion from the rows of its evaluation, stored with their digest.

    It is fitted again when these rows or the code of the fit are others. None for a task without one, for few rows, and
    when the rows of the evaluation are not stored.
    """
    if champion.verdict is None or not can_be_estimated(model.declared.task):
        return None
    try:
        verdict = Verdict.model_validate(stored_verdict(stores.state, champion.verdict).content)
        name, basis = f"{ESTIMATORS}{model.name}/{champion.version}", f"{verdict.table} {_code()}"
        stored = read_cursor(stores.state, name)
        if stored is not None and stored["basis"] == basis:
            return Estimator.model_validate(stored["estimator"])
        evidence = load_evidence(model, verdict, stores.home)
    except (PromotionError, ValidationError):
        return None
    fitted = _fitted(model, evidence)
    if fitted is not None:
        write_cursor(stores.state, name, {"basis": basis, "estimator": fitted.model_dump(mode="json")})
    return fitted


@cache
def _code() -> str:
    return source_hash("ml_platform.monitoring.estimates:fit_estimator")


def _fitted(model: BoundModel, evidence: Evidence) -> Estimator | None:
    unit = model.declared.evaluation.bootstrap.unit
    blocks = len(np.unique(evidence.block))
    bounds = evidence.bounds.get(CANDIDATE)
    return fit_estimator(
        evidence.task,
        evidence.label,
        evidence.predictions[CANDIDATE],
        evidence.block,
        spread=None if bounds is None else bounds[1] - bounds[0],
        days=blocks * _DAYS_OF_UNIT[unit] if unit in _DAYS_OF_UNIT else None,
        inflation=lambda influence: serial_dependence(influence, ordered=unit in TIME_UNITS).inflation,
    )


def not_estimated(model: BoundModel) -> str:
    """Return the reason why a period of ``model`` may have no estimate."""
    if not can_be_estimated(model.declared.task):
        return (
            f"Not applicable to the task {model.declared.task.name}: its score is no probability, and its rows count "
            "by group."
        )
    return (
        "No version has a promotion on record of which 200 evaluation rows are stored, and a period with as many "
        "predictions as monitors.performance.minimum_labels."
    )


def estimated_metrics(model: BoundModel, fitted: Estimator, rows: pl.DataFrame) -> ExpectedMetrics:
    """Return the metrics that ``fitted`` expects of logged predictions, without their outcomes.

    Empty without rows, and for a version whose classes or levels are others than those of its evaluation.
    """
    if rows.is_empty():
        return {}
    measured, prediction = model.declared.task.logged_predictions(rows)
    if sorted(measured.output_names) != sorted(fitted.outputs):
        return {}
    if measured.output_names:
        prediction = prediction[:, [measured.output_names.index(name) for name in fitted.outputs]]
    days = rows["predict_at"].dt.date().n_unique()
    return fitted.estimate(prediction, _spread(rows) if measured.has_interval else None, days)


def _spread(rows: pl.DataFrame) -> Array:
    """Return the width of the answered interval of each row, NaN without one."""
    answered = [(json.loads(text) if text else {}).get("interval") for text in rows[DETAILS]]
    return np.array([np.nan if each is None else each["upper"] - each["lower"] for each in answered])


def realised_intervals(model: BoundModel, labelled: pl.DataFrame) -> ExpectedMetrics:
    """Return the metrics of logged predictions with known outcomes, with the intervals of the evaluation's bootstrap.

    Blocks are those of the evaluation, and days where it draws whole groups of a column. Empty below two blocks, and
    where a metric has no value on the rows: of a ranking, whose rows count by group, and of classes that did not occur.
    """
    task, declared = model.declared.task, model.declared.evaluation.bootstrap
    if task.name not in LOSS_METRICS:
        return {}
    measured, _ = task.logged_predictions(labelled)
    if labelled[OUTCOME].dtype == pl.String:
        labelled = labelled.filter(pl.col(OUTCOME).is_in(measured.output_names))
    label, prediction = task.realised_rows(labelled)
    unit = declared.unit if declared.unit in (*TIME_UNITS, ROW_UNIT) else "day"
    settings = BootstrapSettings.model_validate(declared.model_dump() | {"unit": unit, "resamples": RESAMPLES})
    zone = "UTC" if model.declared.partitions is None else model.declared.partitions.time_zone
    block = bootstrap_blocks(labelled, unit, time="predict_at", time_zone=zone)
    if len(set(block.tolist())) < 2:
        return {}
    try:
        predictions = {VERSION: prediction}
        drawn = bootstrap(label, predictions, block, settings, task=measured, own=model.own_metrics)
    except EvaluationError:
        return {}
    intervals = {name: drawn.interval(VERSION, name) for name in drawn.points[VERSION]}
    return {name: ExpectedInterval(value=each.value, low=each.low, high=each.high) for name, each in intervals.items()}
