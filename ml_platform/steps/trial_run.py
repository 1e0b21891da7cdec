"""Tries a changed model: fits it on the rows of past windows and compares it with the champion, and keeps nothing.

Changed views and training sets are computed into a temporary lake. Nothing is registered, judged or recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from ml_platform.data.dataset import table_of
from ml_platform.data.overlay_lake import OverlayLake
from ml_platform.evaluation.evidence import CANDIDATE, CHAMPION
from ml_platform.evaluation.version_comparison import MetricComparison
from ml_platform.features.materialize import build_partition
from ml_platform.features.view import FeatureView
from ml_platform.steps.candidates import build_training_sets, read_training_set, split_of
from ml_platform.steps.closed_window import require_closed_window
from ml_platform.steps.model import BoundModel
from ml_platform.steps.own_features import GivenRows, OwnFeaturesError, VersionFiles, own_rows
from ml_platform.steps.version_comparison import evidence_on, metric_comparisons
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.resource_usage import PriceList


@dataclass(frozen=True)
class TriedAgainst:
    """The champion beside which a change is tried, with its files."""

    version: int
    files: VersionFiles


@dataclass(frozen=True)
class TrialResult:
    """A trainer of the changed model on one window: ``rows`` test rows of ``partition``.

    ``metrics`` has the champion first and the trial second. ``champion`` is None without a champion, when it was fitted
    on these rows, and when the values of its own features cannot be had; ``notes`` say so. ``computed`` are the views
    whose facts were computed for the trial. ``seconds`` and ``cost`` are those of the fit.
    """

    trainer: str
    partition: str
    rows: int
    champion: int | None
    metrics: list[MetricComparison]
    computed: list[str]
    added_features: list[str]
    removed_features: list[str]
    seconds: float
    cost: float
    currency: str
    notes: list[str]


def try_window(
    model: BoundModel,
    partition: str,
    trainers: Sequence[str],
    lake: OverlayLake,
    *,
    champion: TriedAgainst | None,
    prices: PriceList,
    now: datetime,
) -> list[TrialResult]:
    """Return the result of each of ``trainers`` on the test rows of ``partition``.

    Views and training sets that the lake below ``lake`` does not have for the needed partitions are computed into
    ``lake``. A hyperparameter search of a trainer is left out: its declared settings are fitted. Raises
    :class:`~ml_platform.steps.closed_window.OpenWindowError` while the labels of the window are not known at ``now``,
    :class:`~ml_platform.features.view.ViewError` for a function that does not match the declaration of its view, and
    the errors of a fit.
    """
    computed = _compute_absent(model, partition, lake)
    require_closed_window(model, partition, lake, now)
    split = split_of(model, partition, read_training_set(model, partition, lake))
    seen = champion is not None and model.partitions.precedes(partition, champion.files.manifest.partition)
    against = None if seen else champion
    rows, notes = (None, []) if against is None else _champion_rows(model, against, split.test, lake)
    found = []
    for trainer in trainers:
        declared = model.declared.trainers[trainer].model_copy(update={"tuning": None})
        candidate = fit_candidate(
            split,
            model.feature_set.feature_names,
            declared,
            task=model.declared.task,
            prices=prices,
            feature_set=model.feature_set,
        )
        predictions = {CANDIDATE: candidate.predict(split.test)}
        bounds = {CANDIDATE: candidate.calibration.bounds(predictions[CANDIDATE])}
        if against is not None and rows is not None:
            stored = against.files.stored
            predictions[CHAMPION] = candidate.task.aligned(stored.predict(rows), stored.task)
            bounds[CHAMPION] = stored.calibration.bounds(predictions[CHAMPION])
        known = {name: ends for name, ends in bounds.items() if ends is not None}
        evidence = evidence_on(model, split.test, candidate.task, predictions, known)
        features = list(candidate.encoder.feature_names)
        before = features if champion is None else list(champion.files.stored.encoder.feature_names)
        usage = candidate.resource_usage
        found.append(
            TrialResult(
                trainer=trainer,
                partition=partition,
                rows=split.test.height,
                champion=None if against is None or rows is None else against.version,
                metrics=metric_comparisons(evidence),
                computed=computed,
                added_features=[name for name in features if name not in before],
                removed_features=[name for name in before if name not in features],
                seconds=usage.wall_seconds,
                cost=usage.cost,
                currency=usage.currency,
                notes=[*notes, *candidate.notes],
            )
        )
    return found


def _champion_rows(
    model: BoundModel, champion: TriedAgainst, test: pl.DataFrame, lake: OverlayLake
) -> tuple[pl.DataFrame | None, list[str]]:
    """Return the rows ``test`` with the champion's own features, and notes about them; None if they cannot be had."""
    try:
        own = own_rows(model, champion.files, GivenRows(test, model.table, model.feature_set), lake)
    except OwnFeaturesError as error:
        return None, [f"The champion was not scored. {error}"]
    return own.rows, [f"The champion reads {note}." for note in own.notes]


def _compute_absent(model: BoundModel, partition: str, lake: OverlayLake) -> list[str]:
    """Compute the absent training sets up to ``partition``, and the views that they need; return these views."""
    scheme = model.partitions
    first = model.declared.split.first_partition(partition, scheme)
    partitions = scheme.between(scheme.first if first is None else scheme.latest([scheme.first, first]), partition)
    if set(partitions) <= set(lake.partitions(model.table)):
        return []
    computed = [view for view in model.stored_views if not _has_facts(model, view, partitions, lake)]
    for view in computed:
        _compute_view(model, view, partition, lake)
    build_training_sets(model, partitions, lake)
    return [view.name for view in computed]


def _has_facts(model: BoundModel, view: FeatureView, partitions: Sequence[str], lake: OverlayLake) -> bool:
    scheme = model.view_scheme(view)
    if scheme is None:
        return lake.exists(view.table)
    needed = scheme.covering(model.partitions.bounds(partitions[0])[0], model.partitions.bounds(partitions[-1])[1])
    return set(needed) <= set(lake.partitions(view.table))


def _compute_view(model: BoundModel, view: FeatureView, partition: str, lake: OverlayLake) -> None:
    """Write the facts of ``view`` up to ``partition``, for as many partitions as its sources have."""
    scheme = model.view_scheme(view)
    if scheme is None:
        build_partition(view, lake, None, None)
        return
    end = model.partitions.bounds(partition)[1]
    stored = [set(lake.partitions(table_of(source.dataset))) for source in view.sources]
    landed = set.intersection(*(keys for keys in stored if keys))
    for key in scheme.sort(landed):
        if not scheme.is_timed or scheme.bounds(key)[0] < end:
            build_partition(view, lake, key, scheme)
