"""The runs that a sensor requested: their tag, and whether they have ended."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.data.canonical import value_digest
from ml_platform.data.landing_index import LandedContent
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.read_attempts import RunState

REQUEST_TAG = "ml_platform/request"
"""Tag of a run: the name of the request that it belongs to."""

PARTS_IN_RUN_KEY = 20
"""Number of partitions up to which a run key names each content."""


def run_requests(
    declared: DatasetDeclaration, contents: Sequence[LandedContent], request: str, *, again: bool = False
) -> list[dg.RunRequest]:
    """Return one request per range of consecutive partitions of ``contents``; equal contents give an equal run key.

    With ``again``, the run key has the name of the ``request`` too: Dagster ignores a second request of one key.
    """
    return [
        _run_request(declared.key, each, request, again=again)
        for each in _consecutive_ranges(contents, declared.partitions)
    ]


def run_state(instance: dg.DagsterInstance, request: str) -> RunState:
    """Return the state of the runs of ``request``."""
    runs = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: request}))
    if any(run.status not in FINISHED_STATUSES for run in runs):
        return "running"
    cancelled = bool(runs) and all(run.status == dg.DagsterRunStatus.CANCELED for run in runs)
    return "cancelled" if cancelled else "ended"


def _consecutive_ranges(
    contents: Sequence[LandedContent], partitions: PartitionScheme | None
) -> list[list[LandedContent]]:
    """Return ``contents`` as ranges of consecutive partitions; each range is one Dagster run."""
    if partitions is None:
        return [[each] for each in contents]
    by_key = {each.partition: each for each in contents if each.partition}
    return [[by_key[key] for key in keys] for keys in partitions.ranges(by_key)]


def _run_request(key: dg.AssetKey, contents: Sequence[LandedContent], request: str, *, again: bool) -> dg.RunRequest:
    # The run key contains the digests: Dagster ignores a second request for the same files.
    first, last = contents[0].partition, contents[-1].partition
    parts = [f"{each.partition or ''}:{each.sha256[:16]}" for each in contents]
    if len(parts) > PARTS_IN_RUN_KEY:
        parts = [f"{first}..{last}", value_digest(parts)]
    run_key = "|".join([key.to_user_string(), *parts, *([f"again {request}"] if again else [])])
    tags = {REQUEST_TAG: request}
    if first is None or last is None:
        return dg.RunRequest(run_key=run_key, asset_selection=[key], tags=tags)
    span = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
    return dg.RunRequest(run_key=run_key, asset_selection=[key], tags={**span, **tags})
