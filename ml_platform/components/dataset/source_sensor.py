"""The sensor that materializes a dataset when the rows of its source are new or have changed."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.components.dataset.landing_sensor import missing_lookups, run_requests
from ml_platform.data.landing_index import LandedContent
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.sources.source import Source
from resources.lake import LakeResource

LATEST_PARTITIONS = 3
"""Number of latest partitions that each tick compares with the source."""

EARLIER_PARTITIONS = 30
"""Number of earlier partitions that each tick compares besides, in turn, so that late corrections are noticed too."""


def source_sensor(declared: DatasetDeclaration, source: Source) -> dg.SensorDefinition:
    """Return the sensor `<name>_source`, which compares the source with what was read from it and published.

    Each tick reads the fingerprints of the latest partitions and of some earlier ones, in turn. A source that is away
    fails the tick with its name, and the next tick tries again.
    """

    @dg.sensor(
        name=f"{declared.name}_source",
        target=dg.AssetSelection.assets(declared.key),
        description=f"Materializes datasets/{declared.name} when {source.describe()} has new or changed rows.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def changed(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
        from ml_platform.data.dataset import slice_of
        from ml_platform.data.source_record import changed_slices

        tables = lake.lake()
        if waits := missing_lookups(declared, tables):
            return dg.SensorResult(skip_reason=waits, cursor=context.cursor)
        first = int(context.cursor or 0)
        partitions, cursor = _compared(declared.partitions, first, datetime.now(UTC))
        parts = [slice_of(declared.partitions, each) for each in partitions]
        found = changed_slices(source, declared.name, parts, lake.state(), declared.code_hash())
        contents = [LandedContent("", each.partition, each.request, 0) for each in found]
        return dg.SensorResult(
            run_requests=run_requests(declared, contents),
            skip_reason=None if found else f"{len(parts)} parts of {source.describe()} are unchanged.",
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
