"""Materialize a feature view: build its months from the lake, write its change log, publish its last facts online.

Only this module knows the tables of sources and change logs; a view's function gets frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from ml_platform.data.dataset import table_of
from ml_platform.data.lake import Lake, LakeError, TableVersion
from ml_platform.data.partitions import MonthlyPartitions, month_bounds, months_between, shift_month
from ml_platform.features import change_log
from ml_platform.features.change_log import BuildReport, Window
from ml_platform.features.last_facts import update_last_facts
from ml_platform.features.online_store import OnlineStore, Publication, latest_facts
from ml_platform.features.view import KNOWN_AT, FeatureView

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime(2200, 1, 1, tzinfo=UTC)
"""Bounds of the window of a view without months, wide enough for every fact."""


@dataclass(frozen=True)
class PartitionBuild:
    """One written partition of a change log; ``partition`` is None for a view without months."""

    partition: str | None
    version: TableVersion
    report: BuildReport


def materialize(
    view: FeatureView,
    lake: Lake,
    store: OnlineStore,
    partitions: Sequence[str | None],
    partitioning: MonthlyPartitions | None,
) -> tuple[list[PartitionBuild], Publication]:
    """Build and write ``partitions`` of ``view`` (``[None]`` for a view without months), then publish its last facts.

    Each month is built from its own partition of the sources and from the partitions within its lookback. One run over
    all months therefore writes the same rows as one run per month. The snapshot always has the last facts of the whole
    log, so building an old month again does not set it back. Raises :class:`ml_platform.features.view.ViewError` when
    the result of the function does not match the declaration, and :class:`ml_platform.data.lake.LakeError` when a
    source is absent.
    """
    builds = [_build(view, lake, partition, partitioning) for partition in partitions]
    return builds, publish(view, lake, store, partitioning)


def publish(view: FeatureView, lake: Lake, store: OnlineStore, partitioning: MonthlyPartitions | None) -> Publication:
    """Publish the last facts of the view's log that are known before the end of its latest month.

    A month without facts counts as a month: nothing changed in it. The cost of publishing months at the end of the log
    does not grow with the log: see :func:`.last_facts.update_last_facts`. Raises
    :class:`~ml_platform.data.lake.LakeError` when no month was built.
    """
    if partitioning is None:
        log = change_log.read(view, lake)
        latest: datetime | None = log.select(pl.col(KNOWN_AT).max()).collect().item()
        return store.publish(latest_facts(view, log, (latest or BEGINNING) + timedelta(microseconds=1)))
    with lake.state.read():
        version = lake.version(view.table)
        digests = {month: digest for month, digest in lake.digests(view.table).items() if month is not None}
    if version is None or not digests:
        raise LakeError(
            f"Feature view '{view.name}', code version {view.code_version or view.pinned().code_version}",
            expected="at least one month of facts to publish",
            found="none",
            fix=f"Materialize features/{view.name} for a month of its sources.",
        )
    watermark = month_bounds(max(digests), partitioning.time_zone)[1]
    if view.tolerance_minutes is None:
        return store.publish(update_last_facts(view, lake, version, digests, watermark))
    oldest = watermark - timedelta(minutes=view.tolerance_minutes)
    usable = [month for month in sorted(digests) if month_bounds(month, partitioning.time_zone)[1] > oldest]
    return store.publish(latest_facts(view, change_log.read(view, lake, version, usable), watermark))


def source_partitions(view: FeatureView, partition: str, partitioning: MonthlyPartitions) -> list[str]:
    """Return the source months that the view's function gets for ``partition``: its own, and those of its lookback.

    >>> view = FeatureView(name="v", features=[{"name": "x", "description": "…"}], function="m:f", lookback_days=30)
    >>> source_partitions(view, "2013-03", MonthlyPartitions(start="2013-01"))
    ['2013-01', '2013-02', '2013-03']
    """
    earliest = month_bounds(partition, partitioning.time_zone)[0] - timedelta(days=view.lookback_days)
    first = partition
    while first > partitioning.start and month_bounds(first, partitioning.time_zone)[0] > earliest:
        first = shift_month(first, -1)
    return months_between(first, partition)


def _build(
    view: FeatureView, lake: Lake, partition: str | None, partitioning: MonthlyPartitions | None
) -> PartitionBuild:
    if partition is None or partitioning is None:
        sources = {source.dataset: lake.scan(table_of(source.dataset)) for source in view.sources}
        window = Window(BEGINNING, END_OF_TIME)
    else:
        visible = source_partitions(view, partition, partitioning)
        sources = {source.dataset: _scan_partitions(lake, table_of(source.dataset), visible) for source in view.sources}
        window = Window(*month_bounds(partition, partitioning.time_zone))
    version, report = change_log.write(view, change_log.build(view, sources, window), lake, partition)
    return PartitionBuild(partition, version, report)


def _scan_partitions(lake: Lake, table: str, partitions: Sequence[str]) -> pl.LazyFrame:
    return lake.scan(table, partitions=partitions) if lake.partitions(table) else lake.scan(table)
