"""Materialize a feature view: build its partitions from the lake, write its change log, publish its last facts online.

Only this module knows the tables of sources and change logs; a view's function gets frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from ml_platform.data.arrival import Arrival
from ml_platform.data.dataset import table_of
from ml_platform.data.lake import Lake, LakeError, TableVersion
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features import change_log
from ml_platform.features.change_log import BuildReport, Window
from ml_platform.features.history_store import HISTORY, HistoryStore
from ml_platform.features.last_facts import update_last_facts
from ml_platform.features.online_store import OnlineStore, Publication, Snapshot, latest_facts
from ml_platform.features.view import KNOWN_AT, FeatureView

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime(2200, 1, 1, tzinfo=UTC)
"""Bounds of the window of a view without partitions of time, wide enough for every fact."""

ALL_TIME = Window(BEGINNING, END_OF_TIME)


@dataclass(frozen=True)
class PartitionBuild:
    """One written partition of a change log; ``partition`` is None for a view without partitions."""

    partition: str | None
    version: TableVersion
    report: BuildReport


def materialize(
    view: FeatureView,
    lake: Lake,
    store: OnlineStore,
    partitions: Sequence[str | None],
    partitioning: PartitionScheme | None,
) -> tuple[list[PartitionBuild], Publication]:
    """Build and write ``partitions`` of ``view`` (``[None]`` for a view without them), then publish its last facts.

    Each partition is built from its own partition of the sources and from those within its lookback. One run over all
    partitions therefore writes the same rows as one run per partition. The snapshot always has the last facts of the
    whole log, so building an old partition again does not set it back. Raises
    :class:`ml_platform.features.view.ViewError` when the result of the function does not match the declaration, and
    :class:`ml_platform.data.lake.LakeError` when a source is absent.
    """
    builds = [build_partition(view, lake, partition, partitioning) for partition in partitions]
    return builds, publish(view, lake, store, partitioning)


def publish(view: FeatureView, lake: Lake, store: OnlineStore, partitioning: PartitionScheme | None) -> Publication:
    """Publish the last facts of the view's log that are known before the end of its latest partition.

    A partition without facts counts: nothing changed in it. If the sources of the view declare how they arrive, the
    latest partition may be a part: the facts then end with the last period that arrived. The cost of publishing
    partitions at the end of the log does not grow with the log: see :func:`.last_facts.update_last_facts`. Raises
    :class:`~ml_platform.data.lake.LakeError` when no partition was built.
    """
    if partitioning is None or not partitioning.is_timed:
        log = change_log.read(view, lake)
        latest: datetime | None = log.select(pl.col(KNOWN_AT).max()).collect().item()
        return store.publish(latest_facts(view, log, (latest or BEGINNING) + timedelta(microseconds=1)))
    with lake.state.read():
        version = lake.version(view.table)
        digests = {key: digest for key, digest in lake.digests(view.table).items() if key is not None}
    if version is None or not digests:
        raise LakeError(
            f"Feature view '{view.name}', code version {view.code_version or view.pinned().code_version}",
            expected="at least one partition of facts to publish",
            found="none",
            fix=f"Materialize features/{view.name} for a partition of its sources.",
        )
    last = partitioning.latest(digests)
    ends = [arrived_until(arrival, lake, last, partitioning) for arrival in view.arrivals]
    watermark = min([partitioning.bounds(last)[1], *ends])
    if isinstance(store, HistoryStore):
        return store.publish(recent_facts(view, change_log.read(view, lake, version), watermark))
    if view.tolerance_minutes is None:
        return store.publish(update_last_facts(view, lake, version, digests, watermark, partitioning))
    oldest = watermark - timedelta(minutes=view.tolerance_minutes)
    usable = [key for key in partitioning.sort(digests) if partitioning.bounds(key)[1] > oldest]
    return store.publish(latest_facts(view, change_log.read(view, lake, version, usable), watermark))


def recent_facts(view: FeatureView, log: pl.LazyFrame, watermark: datetime) -> Snapshot:
    """Return the facts of ``log`` in :data:`HISTORY` before ``watermark``, and the last earlier one of each entity."""
    start = watermark - HISTORY
    earlier = latest_facts(view, log, start).frame
    recent = log.filter(pl.col(KNOWN_AT) >= start, pl.col(KNOWN_AT) < watermark).collect()
    return Snapshot(view, pl.concat([earlier, recent.select(earlier.columns)]), watermark)


def arrived_until(arrival: Arrival, lake: Lake, partition: str, scheme: PartitionScheme) -> datetime:
    """Return the instant until which ``partition`` of a dataset has arrived; its end if no clock can tell.

    It is the end of the period that contains the latest value of the clock's columns, and at most that of the
    partition. Only the latest partition can be a part, because data arrive in order.
    """
    start, end = scheme.bounds(partition)
    table = table_of(arrival.dataset)
    if not arrival.clock or partition not in lake.digests(table, [partition]):
        return end
    clocks = lake.scan(table, partitions=[partition]).select(pl.max_horizontal(pl.col(arrival.clock).max()))
    last: datetime | None = clocks.collect().item()
    return start if last is None else min(end, max(start, arrival.arrived_with(last)))


def source_partitions(view: FeatureView, partition: str, partitioning: PartitionScheme) -> list[str]:
    """Return the source partitions that the view's function gets for ``partition``: its own, and those of its lookback.

    >>> view = FeatureView(name="v", features=[{"name": "x", "description": "…"}], function="m:f", lookback_days=30)
    >>> source_partitions(view, "2013-03", PartitionScheme(start="2013-01"))
    ['2013-01', '2013-02', '2013-03']
    """
    if not partitioning.is_timed:
        return [partition]
    start, end = partitioning.bounds(partition)
    return partitioning.covering(start - timedelta(days=view.lookback_days), end)


def build_partition(
    view: FeatureView, lake: Lake, partition: str | None, partitioning: PartitionScheme | None
) -> PartitionBuild:
    """Build and write ``partition`` of ``view``, and publish nothing. Raises as :func:`materialize`."""
    if partition is None or partitioning is None:
        sources = {source.dataset: lake.scan(table_of(source.dataset)) for source in view.sources}
        window = ALL_TIME
    else:
        visible = source_partitions(view, partition, partitioning)
        sources = {source.dataset: _scan_partitions(lake, table_of(source.dataset), visible) for source in view.sources}
        window = Window(*partitioning.bounds(partition)) if partitioning.is_timed else ALL_TIME
    version, report = change_log.write(view, change_log.build(view, sources, window), lake, partition)
    return PartitionBuild(partition, version, report)


def _scan_partitions(lake: Lake, table: str, partitions: Sequence[str]) -> pl.LazyFrame:
    return lake.scan(table, partitions=partitions) if lake.partitions(table) else lake.scan(table)
