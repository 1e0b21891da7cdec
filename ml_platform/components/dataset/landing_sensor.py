"""The sensor that materializes a dataset when landed files are new or have changed."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.components.dataset.landed_adoption import adopt_published_files, adopt_requests
from ml_platform.components.dataset.requested_runs import run_requests, run_state
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.data.landing_index import LandedState
from ml_platform.data.landing_requests import (
    Outstanding,
    lost_attempts,
    outstanding,
    record_request,
    request_name,
)
from ml_platform.data.names import identifier
from ml_platform.errors import listed
from resources.lake import LakeResource

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake


def landing_sensor(declared: DatasetDeclaration) -> dg.SensorDefinition:
    """Return the sensor `<name>_landed`, which requests one run per range of partitions with new or changed files.

    The state store records which content was requested. A request counts from the tick that Dagster stored with it, so
    a request that was lost with its tick is made again. A content that is not in the table after its run is requested
    again, with a growing wait and at most six times, unless it broke the contract.
    """

    @dg.sensor(
        name=f"{identifier(declared.name)}_landed",
        target=dg.AssetSelection.assets(declared.key),
        description=f"Materializes datasets/{declared.name} when a landed file is new or has changed.",
        minimum_interval_seconds=sensor_seconds(60),
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
        state, now = lake.state(), datetime.now(UTC).timestamp()
        code_version = declared.code_version or declared.code_hash()
        unread = Outstanding()
        if found.open:
            unread = outstanding(
                state, declared.name, tick, code_version, now, lambda request: run_state(context.instance, request)
            )
            index.mark_settled(declared.name, settled=not (unread.again or unread.reasons))
        notes = " ".join(filter(None, (_left_out(found), unread.describe())))
        if notes:
            context.log.warning(f"Landing folder of '{declared.name}': {notes}")
        if not found.due and not unread.again:
            nothing = f"Nothing new: {found.files} landed files of '{declared.name}' are unchanged."
            return dg.SkipReason(f"{nothing} {notes}".rstrip())
        request = request_name(declared.name, tick + 1)
        lost = lost_attempts(state, declared.name, tick + 1, found.due)
        attempts = {each: lost.get(each.name, 1) for each in found.due} | unread.again
        record_request(state, declared.name, attempts, tick + 1, now, code_version)
        index.mark_open(declared.name)
        return dg.SensorResult(
            run_requests=[
                *run_requests(declared, [each for each in found.due if each.name not in lost], request),
                *run_requests(
                    declared, [*[each for each in found.due if each.name in lost], *unread.again], request, again=True
                ),
            ],
            cursor=str(tick + 1),
        )

    return landed


def missing_lookups(declared: DatasetDeclaration, tables: "Lake") -> str:
    """Return the lookups of ``declared`` that have no table yet, as a reason to skip a tick; empty without any."""
    from ml_platform.data.dataset import table_of

    missing = [each for each in declared.lookups if not tables.exists(table_of(each))]
    return f"'{declared.name}' waits for its lookups: {', '.join(missing)} not yet materialized." if missing else ""


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
