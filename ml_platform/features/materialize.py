"""From the lake to the lake and the online store: months of a view are built, written, and the newest facts published.

Apart because it is the only place that knows where sources and change logs lie; the functions of a view see frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from ml_platform.data.dataset import table_of
from ml_platform.data.lake import Lake, TableVersion
from ml_platform.data.partitions import MonthlyPartitions, month_bounds, months_between, shift_month
from ml_platform.features import change_log
from ml_platform.features.change_log import BuildReport, Window
from ml_platform.features.online import OnlineStore, Publication, last_facts
from ml_platform.features.view import KNOWN_AT, FeatureView

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime(2200, 1, 1, tzinfo=UTC)
"""Window of a view without months: its facts are known for as long as anybody asks."""


@dataclass(frozen=True)
class Built:
    """One partition of a change log, as written (None: a view without months)."""

    partition: str | None
    version: TableVersion
    report: BuildReport


def materialize(
    view: FeatureView,
    lake: Lake,
    store: OnlineStore,
    partitions: Sequence[str | None],
    months: MonthlyPartitions | None,
) -> tuple[list[Built], Publication]:
    """Build and write ``partitions`` of ``view`` (``[None]`` where it has no months), then publish its last facts.

    Each month is built from its own partition of the sources and those that its lookback reaches, so that one run over
    all months writes what twelve runs would. The snapshot always holds the newest facts of the whole log: building
    an old month again does not take it back. Raises :class:`ml_platform.features.view.ViewError` when the function
    breaks its promise, :class:`ml_platform.data.lake.LakeError` when a source is absent.
    """
    built = [_build(view, lake, partition, months) for partition in partitions]
    return built, publish(view, lake, store, months)


def publish(view: FeatureView, lake: Lake, store: OnlineStore, months: MonthlyPartitions | None) -> Publication:
    """Publish the last facts of the view's log, known before the end of its newest month."""
    if months is None:
        log = change_log.read(view, lake)
        newest: datetime | None = log.select(pl.col(KNOWN_AT).max()).collect().item()
        return store.publish(last_facts(view, log, (newest or BEGINNING) + timedelta(microseconds=1)))
    held = lake.partitions(view.table)
    watermark = month_bounds(held[-1], months.time_zone)[1]
    if view.tolerance_minutes is not None:
        oldest = watermark - timedelta(minutes=view.tolerance_minutes)
        held = [month for month in held if month_bounds(month, months.time_zone)[1] > oldest]
    return store.publish(last_facts(view, change_log.read(view, lake, partitions=held), watermark))


def months_seen(view: FeatureView, month: str, months: MonthlyPartitions) -> list[str]:
    """Return the months of sources that the view's function gets to see for ``month``: its own, and its lookback.

    >>> view = FeatureView(name="v", features=[{"name": "x", "description": "…"}], function="m:f", lookback_days=30)
    >>> months_seen(view, "2013-03", MonthlyPartitions(start="2013-01"))
    ['2013-01', '2013-02', '2013-03']
    """
    reached = month_bounds(month, months.time_zone)[0] - timedelta(days=view.lookback_days)
    first = month
    while first > months.start and month_bounds(first, months.time_zone)[0] > reached:
        first = shift_month(first, -1)
    return months_between(first, month)


def _build(view: FeatureView, lake: Lake, partition: str | None, months: MonthlyPartitions | None) -> Built:
    if partition is None or months is None:
        sources = {source.dataset: lake.scan(table_of(source.dataset)) for source in view.sources}
        window = Window(BEGINNING, END_OF_TIME)
    else:
        seen = months_seen(view, partition, months)
        sources = {source.dataset: _seen(lake, table_of(source.dataset), seen) for source in view.sources}
        window = Window(*month_bounds(partition, months.time_zone))
    version, report = change_log.write(view, change_log.build(view, sources, window), lake, partition)
    return Built(partition, version, report)


def _seen(lake: Lake, table: str, months: Sequence[str]) -> pl.LazyFrame:
    return lake.scan(table, partitions=months) if lake.partitions(table) else lake.scan(table)
