"""The sensor that materializes a dataset when landed files are new or have changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.components.dataset.landed_adoption import adopt_published_files, adopt_requests
from ml_platform.data.landing_index import LandedContent, LandedState
from ml_platform.data.partitions import PartitionScheme
from ml_platform.errors import listed
from resources.lake import LakeResource

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake


def landing_sensor(declared: DatasetDeclaration) -> dg.SensorDefinition:
    """Return the sensor `<name>_landed`, which requests one run per range of partitions with new or changed files.

    The state store records which content was requested. A request counts from the tick that Dagster stored with it, so
    a request that was lost with its tick is made again.
    """

    @dg.sensor(
        name=f"{declared.name}_landed",
        target=dg.AssetSelection.assets(declared.key),
        description=f"Materializes datasets/{declared.name} when a landed file is new or has changed.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def landed(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
        tables = lake.lake()
        if waits := missing_lookups(declared, tables):
            return dg.SkipReason(waits)
        tick = _stored_tick(context.cursor)
        index = lake.landing_index()
        adopt_published_files(tables, context.instance)
        found = index.refresh(declared.name, declared.is_partition, confirmed_tick=tick)
        if found.due and adopt_requests(tables, declared.name, context.cursor):
            found = index.refresh(declared.name, declared.is_partition, confirmed_tick=tick)
        left_out = _left_out(found)
        if left_out:
            context.log.warning(f"Landing folder of '{declared.name}': {left_out}")
        if not found.due:
            return dg.SkipReason(
                f"Nothing new: {found.files} landed files of '{declared.name}' are unchanged."
                + (f" {left_out}" if left_out else "")
            )
        index.mark_requested(declared.name, found.due, tick + 1)
        return dg.SensorResult(
            run_requests=run_requests(declared, found.due),
            cursor=str(tick + 1),
        )

    return landed


def missing_lookups(declared: DatasetDeclaration, tables: "Lake") -> str:
    """Return the lookups of ``declared`` that have no table yet, as a reason to skip a tick; empty without any."""
    from ml_platform.data.dataset import table_of

    missing = [each for each in declared.lookups if not tables.exists(table_of(each))]
    return f"'{declared.name}' waits for its lookups: {', '.join(missing)} not yet materialized." if missing else ""


def run_requests(declared: DatasetDeclaration, contents: Sequence[LandedContent]) -> list[dg.RunRequest]:
    """Return one request per range of consecutive partitions of ``contents``; equal contents give an equal run key."""
    return [_run_request(declared.key, each) for each in _consecutive_ranges(contents, declared.partitions)]


def _stored_tick(cursor: str | None) -> int:
    # Before version 0.3 the cursor was a JSON object of digests; `adopt_requests` reads it.
    return int(cursor) if cursor and cursor.isdigit() else 0


def _left_out(found: LandedState) -> str:
    """Return the files that no run reads, with the reason; empty without such files."""
    parts = []
    if found.strays:
        parts.append(f"Left out, because no declared partition has this name: {listed(found.strays)}.")
    for partition, names in found.ambiguous.items():
        parts.append(f"Left out, because several files claim partition {partition}: {listed(names)}.")
    return " ".join(parts)


def _consecutive_ranges(
    contents: Sequence[LandedContent], partitions: PartitionScheme | None
) -> list[list[LandedContent]]:
    """Return ``contents`` as ranges of consecutive partitions; each range is one Dagster run."""
    if partitions is None:
        return [[each] for each in contents]
    by_key = {each.partition: each for each in contents if each.partition}
    return [[by_key[key] for key in keys] for keys in partitions.ranges(by_key)]


def _run_request(key: dg.AssetKey, contents: Sequence[LandedContent]) -> dg.RunRequest:
    # The run key contains the digests: Dagster ignores a second request for the same files.
    parts = [f"{each.partition or ''}:{each.sha256[:16]}" for each in contents]
    run_key = "|".join([key.to_user_string(), *parts])
    first, last = contents[0].partition, contents[-1].partition
    if first is None or last is None:
        return dg.RunRequest(run_key=run_key, asset_selection=[key])
    tags = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
    return dg.RunRequest(run_key=run_key, asset_selection=[key], tags=tags)
