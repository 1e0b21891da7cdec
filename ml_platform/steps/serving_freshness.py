"""Freshness of serving: gaps in the prediction log, the age of the online store, and that of features at serving.

Each function reads a bounded part of the lake. The assets and the tests call the same functions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

import polars as pl

from ml_platform.data.arrival import delay_of
from ml_platform.data.dataset import table_of
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.features.history_store import HistoryError
from ml_platform.features.materialize import arrived_until
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.skew import WATERMARKS
from ml_platform.features.snapshot_file import SnapshotError
from ml_platform.features.valkey_store import OnlineServerError
from ml_platform.features.view import AS_OF, FeatureView
from ml_platform.monitoring.prediction_gaps import READ_DAYS, GapReport, find_gaps
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.serving.desired_state import read_desired_state
from ml_platform.steps.feature_checks import NOT_APPLICABLE, NotEvaluated
from ml_platform.steps.model import BoundModel
from ml_platform.steps.platform_stores import PlatformStores

LATEST_PREDICTIONS = 2_000
"""Latest predictions of which the age of features is measured."""


@dataclass(frozen=True)
class ViewAge:
    """How far one view is behind, and from which ``limit`` on that is a finding; ``since`` is the time it knows."""

    view: str
    behind: timedelta
    limit: timedelta
    since: datetime

    @property
    def is_stale(self) -> bool:
        return self.behind > self.limit


def check_prediction_gaps(model: BoundModel, stores: PlatformStores, now: datetime) -> GapReport | NotEvaluated:
    """Return the gaps of the log before ``now``; not evaluated while no version serves, and without enough traffic."""
    table = predictions_table(model.name)
    if read_desired_state(stores.state, model.name).stable is None:
        return NotEvaluated("No version serves.")
    if not stores.lake.exists(table):
        return NotEvaluated("Nothing was predicted yet.")
    first = (now - timedelta(days=READ_DAYS)).date().isoformat()
    days = [day for day in stores.lake.partitions(table) if day >= first]
    hours = (
        stores.lake.scan(table, partitions=days).group_by(pl.col("logged_at").dt.truncate("1h")).agg(pl.len()).collect()
    )
    report = find_gaps(dict(hours.iter_rows()), now, model.declared.monitors.prediction_gaps)
    if not report.judged_hours:
        return NotEvaluated(
            "No hour can be judged: too few earlier days with predictions, or fewer predictions than usual_predictions."
        )
    return report


def check_store_staleness(model: BoundModel, stores: PlatformStores) -> list[ViewAge] | NotEvaluated:
    """Return how far the online store is behind the newest partitions of the sources of each view with a time.

    Not evaluated when the store cannot be read or lacks a view.
    """
    if not model.has_time:
        return NOT_APPLICABLE
    ends = ((view, _newest(model, view, stores.lake)) for view in _timed_views(model))
    newest = [(view, known) for view, known in ends if known is not None]
    if not newest:
        return NotEvaluated("No view has a source that landed.")
    try:
        marks = _watermarks(stores.online_store, [view for view, _ in newest])
    except (SnapshotError, HistoryError, OnlineServerError) as error:
        return NotEvaluated(str(error))
    return [
        ViewAge(view.name, max(known - marks[view.name], timedelta()), _limit(model, view), marks[view.name])
        for view, known in newest
    ]


def check_feature_age(model: BoundModel, stores: PlatformStores) -> list[ViewAge] | NotEvaluated:
    """Return how much older the facts of each view are at serving than in training, in the median of predictions.

    Training reads each fact from its declared arrival on, or from the time at which it is known. The store may know
    less: the difference is the time between both.
    """
    table = predictions_table(model.name)
    if not model.has_time:
        return NOT_APPLICABLE
    if not stores.lake.exists(table):
        return NotEvaluated("Nothing was predicted yet.")
    days = stores.lake.partitions(table)[-1:]
    rows = (
        stores.lake.scan(table, partitions=days)
        .drop(PARTITION)
        .filter(pl.col(WATERMARKS).is_not_null(), pl.col(WATERMARKS) != "{}", pl.col(AS_OF).is_not_null())
        .select("logged_at", AS_OF, WATERMARKS)
        .sort("logged_at")
        .tail(LATEST_PREDICTIONS)
        .collect()
    )
    if rows.is_empty():
        return NotEvaluated("No logged prediction has the watermarks of its features.")
    found = []
    for view in _timed_views(model):
        behind = _behind(view, rows)
        if behind:
            mark = behind[-1][1]
            lag = timedelta(seconds=median(each.total_seconds() for each, _ in behind))
            found.append(ViewAge(view.name, max(lag, timedelta()), _limit(model, view), mark))
    return found or NotEvaluated("No logged prediction reads a view with a time.")


def _timed_views(model: BoundModel) -> list[FeatureView]:
    schemes = ((view, model.view_scheme(view)) for view in model.stored_views)
    return [view for view, scheme in schemes if scheme is not None and scheme.is_timed]


def _newest(model: BoundModel, view: FeatureView, lake: Lake) -> datetime | None:
    """Return the time until which all sources of ``view`` have landed; None when one of them never did."""
    ends = []
    arrivals = {each.dataset: each for each in view.arrivals}
    for source in view.sources:
        scheme = model.dataset_scheme(source.dataset)
        if scheme is None or not scheme.is_timed:
            continue
        landed = lake.partitions(table_of(source.dataset))
        if not landed:
            return None
        last = scheme.latest(landed)
        arrival = arrivals.get(source.dataset)
        ends.append(scheme.bounds(last)[1] if arrival is None else arrived_until(arrival, lake, last, scheme))
    return min(ends, default=None)


def _watermarks(store: OnlineStore, views: Sequence[FeatureView]) -> Mapping[str, datetime]:
    keys: dict[str, list[object]] = {name: [] for view in views for name in view.entity}
    return store.lookup(list(views), keys, 0).watermarks


def _limit(model: BoundModel, view: FeatureView) -> timedelta:
    """Return the declared limit, else the length of the first partition of the view."""
    declared = model.declared.monitors.store_behind
    if declared is not None:
        return delay_of(declared)
    scheme = model.view_scheme(view)
    assert scheme is not None
    start, end = scheme.bounds(scheme.first)
    return end - start


def _behind(view: FeatureView, rows: pl.DataFrame) -> list[tuple[timedelta, datetime]]:
    found = []
    for at, marks in rows.select(AS_OF, WATERMARKS).iter_rows():
        mark = json.loads(marks).get(view.name)
        if mark is not None:
            usable = min([arrival.cut_off(at) for arrival in view.arrivals], default=at)
            known = datetime.fromisoformat(mark)
            found.append((usable - known, known))
    return found
