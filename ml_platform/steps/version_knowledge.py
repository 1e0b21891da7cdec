"""Knowledge about a served version from before its predictions, with which its periods are measured.

It follows from the promotion of the version and the data of its evaluation, so each measurement reads the same.
"""

from collections.abc import Callable
from functools import cache

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.evaluation.bootstrap import ROW_UNIT, TIME_UNITS, BootstrapSettings, bootstrap
from ml_platform.evaluation.evidence import bootstrap_blocks
from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.monitoring.performance import ExpectedInterval, ExpectedMetrics, LabelKnowledge
from ml_platform.registry.champion_history import ChampionRecord, champion_history
from ml_platform.steps.model import BoundModel
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.tasks.metrics import EvaluationError
from ml_platform.tasks.row_losses import LOSS_METRICS
from ml_platform.training.splits import LABEL

VERSION = "version"
RESAMPLES = 200
"""Draws of the intervals of realised metrics; the standard error needs fewer than the gates do."""


def knowledge_of_versions(model: BoundModel, stores: PlatformStores) -> Callable[[str], LabelKnowledge]:
    """Return the knowledge about each version by its number; it is read at the first use of a version."""
    champions = {str(each.version): each for each in champion_history(stores.audit, model.name)}

    @cache
    def of_version(version: str) -> LabelKnowledge:
        champion = champions.get(version)
        return LabelKnowledge(
            usual_coverage=None if champion is None else usual_coverage(model, champion, stores.lake),
            intervals=lambda labelled: realised_intervals(model, labelled),
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
