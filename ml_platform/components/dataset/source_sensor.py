"""The sensor that materializes a dataset when the rows of its source are new or have changed."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.components.dataset.landing_sensor import missing_lookups
from ml_platform.components.dataset.requested_runs import run_requests, run_state
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.data.landing_index import LandedContent
from ml_platform.data.names import identifier
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.sources.source import Source
from ml_platform.errors import listed
from resources.lake import LakeResource

LATEST_PARTITIONS = 3
"""Number of latest partitions that each tick compares with the source."""

EARLIER_PARTITIONS = 30
"""Number of earlier partitions that each tick compares besides, in turn, so that late corrections are noticed too."""


def source_sensor(declared: DatasetDeclaration, source: Source) -> dg.SensorDefinition:
    """Return the sensor `<name>_source`, which compares the source with what was read from it and published.

    Each tick reads the fingerprints of the latest partitions and of some earlier ones, in turn. A source that is away
    fails the tick with its name, and the next tick tries again. A part whose run failed is requested again, with a
    growing wait and at most six times, unless its rows broke the contract.
    """

    @dg.sensor(
        name=f"{identifier(declared.name)}_source",
        target=dg.AssetSelection.assets(declared.key),
        description=f"Materializes datasets/{declared.name} when {source.describe()} has new or changed rows.",
        minimum_interval_seconds=sensor_seconds(60),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def changed(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        from ml_platform.data.dataset import slice_of
        from ml_platform.data.source_record import changed_slices, record_requests

        tables = lake.lake()
        if waits := missing_lookups(declared, tables):
            return dg.SensorResult(skip_reason=waits, cursor=context.cursor)
        now = datetime.now(UTC)
        partitions, cursor = _compared(declared.partitions, int(context.cursor or 0), now)
        parts = [slice_of(declared.partitions, each) for each in partitions]
        found = changed_slices(
            source,
            declared.name,
            parts,
            lake.state(),
            declared.code_hash(),
            now.timestamp(),
            lambda request: run_state(context.instance, request),
        )
        waiting = "; ".join(f"{listed([name])} ({reason})" for name, reason in found.reasons.items())
        if waiting:
            context.log.warning(f"{source.describe()}: not in the table: {waiting}.")
        request = f"{declared.name}/{now.isoformat()}"
        record_requests(lake.state(), declared.name, found.due, request, now.timestamp())
        first = [LandedContent("", each.partition, each.reason, 0) for each in found.due if each.attempt == 1]
        again = [LandedContent("", each.partition, each.reason, 0) for each in found.due if each.attempt > 1]
        unchanged = f"{len(parts) - len(found.reasons)} parts of {source.describe()} are unchanged."
        return dg.SensorResult(
            run_requests=[
                *run_requests(declared, first, request),
                *run_requests(declared, again, request, again=True),
            ],
            skip_reason=None if found.due else f"{unchanged} Not in the table: {waiting}." if waiting else unchanged,
            cursor=str(cursor),
        )

    return changed


def _compared(partitions: PartitionScheme | None, first: int, now: datetime) -> tuple[Sequence[str | None], int]:
    """Return the partitions that one tick compares, and the place among the earlier ones where the next begins."""
    if partitions is None:
        return [None], 0
    last = partitions.last_begun(now)
    if last is None:
        return [], 0
    earlier = max(partitions.distance(partitions.first, last) + 1 - LATEST_PARTITIONS, 0)
    after = min(first + EARLIER_PARTITIONS, earlier)
    chosen = [partitions.shift(partitions.first, place) for place in range(first, after)]
    latest = partitions.between(partitions.shift(partitions.first, earlier), last)
    return [*chosen, *latest], after if after < earlier else 0
