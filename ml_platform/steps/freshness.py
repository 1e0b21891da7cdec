"""The curve of quality against delay: the same candidate on the same rows, with facts that arrive sooner or later.

It says what a faster feed would be worth, and what a slower one would cost. The metrics and gates of an evaluation use
the declared arrival; the curve stands beside them and decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from ml_platform.data.arrival import Arrival, delay_of
from ml_platform.data.lake import Lake
from ml_platform.evaluation.evidence import CANDIDATE, Evidence
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.view import KNOWN_AT, PREDICT_AT, FeatureView
from ml_platform.steps.model import BoundModel
from ml_platform.training.model_directory import StoredModel
from ml_platform.training.training_set import EXAMPLE_ID

DEFAULT_CURVE = ("0m", "1h", "6h", "1d", "7d")
"""Delays of the curve when an arrival is declared and no curve is."""

DECLARED = "as declared"
"""The point of the curve with the declared arrivals: the metrics of the evaluation."""

_MARK = "_delay_"


@dataclass(frozen=True)
class FreshnessPoint:
    """The metrics of the candidate when each fact arrives ``delay`` after it became known."""

    delay: str
    metrics: dict[str, float]


def freshness_curve(
    model: BoundModel, candidate: StoredModel, test: pl.DataFrame, evidence: Evidence, lake: Lake
) -> list[FreshnessPoint]:
    """Return the quality of ``candidate`` on the rows ``test`` for each delay of the curve, the declared arrival first.

    The list is empty when the model has no curve. The metrics are the primary ones of model and task, and
    the one of the baseline gate. Views of tables without partitions do not change, and request views see the changed
    values.
    """
    delays = curve_delays(model)
    if not delays or not model.has_time:
        return []
    task = evidence.task
    names = list(dict.fromkeys([model.primary_metric, task.primary_metric, task.baseline_metric]))
    logs = _logs_in_memory(model.feature_set, test, lake)
    points = [FreshnessPoint(DECLARED, _metrics(evidence, evidence.predictions[CANDIDATE], names))]
    for delay in delays:
        rows = _read_with_delay(model, test, logs, delay)
        predicted = evidence.task.aligned(candidate.predict(rows), candidate.task)
        points.append(FreshnessPoint(delay, _metrics(evidence, predicted, names)))
    return points


def curve_delays(model: BoundModel) -> Sequence[str]:
    """Return the delays of the curve: as declared, or a default when a view has a declared arrival."""
    declared = model.declared.evaluation.freshness_curve
    if declared is not None:
        return declared
    return DEFAULT_CURVE if any(view.arrivals for view in model.stored_views) else ()


def features_with_delay(model: BoundModel, delay: str) -> FeatureSet:
    """Return the features of ``model`` as they are read when each fact arrives ``delay`` after it became known."""
    return FeatureSet([_with_delay(model, view, delay) for view in model.feature_set.views])


def flat_curve(points: Sequence[FreshnessPoint]) -> dict[str, float]:
    """Return the points but the declared one as numbers by name, like ``auc_delay_1h``, to store with the verdict."""
    return {
        f"{metric}{_MARK}{point.delay}": value
        for point in points
        if point.delay != DECLARED
        for metric, value in point.metrics.items()
    }


def curve_table(metrics: Mapping[str, float], arrivals: Sequence[Arrival] = ()) -> list[dict[str, object]]:
    """Return the curve among the stored ``metrics`` of a verdict as rows, in order of delay; empty without a curve."""
    stored = [tuple(name.split(_MARK)) for name in metrics if _MARK in name]
    if not stored:
        return []
    names = list(dict.fromkeys(name for name, _ in stored))
    delays = sorted({delay for _, delay in stored}, key=delay_of)
    rows = {arrival_text(arrivals): metrics} | {
        f"{delay} after they are known": {name: metrics[f"{name}{_MARK}{delay}"] for name in names} for delay in delays
    }
    return [{"facts arrive": text, **{name: of_row.get(name) for name in names}} for text, of_row in rows.items()]


def arrival_text(arrivals: Sequence[Arrival]) -> str:
    """Return the declared arrivals as one text.

    >>> arrival_text([Arrival(every="hour", delay="15m")])
    'as declared: every hour, after 15m'
    """
    texts = [f"every {each.every}, after {each.delay}" if each.every else f"after {each.delay}" for each in arrivals]
    return f"{DECLARED}: {'; '.join(dict.fromkeys(texts))}" if texts else f"{DECLARED}: when they are known"


def _read_with_delay(
    model: BoundModel, test: pl.DataFrame, logs: Mapping[str, pl.LazyFrame], delay: str
) -> pl.DataFrame:
    """Return the rows of ``test`` with the features that they have when each fact arrives after ``delay``."""
    features = features_with_delay(model, delay)
    rows = test.select(list(dict.fromkeys([EXAMPLE_ID, PREDICT_AT, *model.request_fields])))
    joined = features.as_of(rows.lazy(), logs).select(EXAMPLE_ID, *features.prediction_columns).collect()
    # The scores must stand in the order of the labels of the test rows.
    return test.select(EXAMPLE_ID).join(joined, on=EXAMPLE_ID, how="left", maintain_order="left")


def _with_delay(model: BoundModel, view: FeatureView, delay: str) -> FeatureView:
    changes = view.kind == "stored" and model.view_scheme(view) is not None
    return view.model_copy(update={"arrivals": [Arrival(delay=delay)]}) if changes else view


def _logs_in_memory(features: FeatureSet, test: pl.DataFrame, lake: Lake) -> dict[str, pl.LazyFrame]:
    """Return the change logs up to the last prediction, read once for all points."""
    end = test[PREDICT_AT].max()
    logs = features.logs(lake)
    return {name: log.filter(pl.col(KNOWN_AT) <= end).collect().lazy() for name, log in logs.items()}


def _metrics(evidence: Evidence, predicted: object, names: Sequence[str]) -> dict[str, float]:
    scored = evidence.task.score(evidence.label, predicted, context=evidence.context)
    return {name: scored[name] for name in names if name in scored}
