"""The sensor that materializes a dataset when landed files are new or have changed."""

import json
from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from ml_platform.components.dataset.declaration import DatasetDeclaration
from ml_platform.components.materializations import LANDED_DIGEST, latest_materializations
from ml_platform.data.partitions import shift_month
from resources.lake import LakeResource


def landing_sensor(declared: DatasetDeclaration) -> dg.SensorDefinition:
    """Return the sensor `<name>_landed`, which requests one run per range of months with new or changed files."""

    @dg.sensor(
        name=f"{declared.name}_landed",
        target=dg.AssetSelection.assets(declared.key),
        description=f"Materializes datasets/{declared.name} when a landed file is new or has changed.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def landed(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
        missing_lookups = [
            each
            for each in declared.lookups
            if not latest_materializations(context.instance, dg.AssetKey(["datasets", each]))
        ]
        if missing_lookups:
            return dg.SkipReason(
                f"'{declared.name}' waits for its lookups: {', '.join(missing_lookups)} not yet materialized."
            )
        files = lake.landing().landed(declared.name)
        digests = {file.partition or "": file.sha256 for file in files}
        # The cursor records the requested digests, so a broken file is requested only once.
        requested: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
        materialized = latest_materializations(context.instance, declared.key, [name for name in digests if name])
        known = {name or "": record.metadata(LANDED_DIGEST) for name, record in materialized.items()}
        changed = [name for name, digest in digests.items() if digest not in (requested.get(name), known.get(name))]
        if not changed:
            return dg.SkipReason(f"Nothing new: {len(digests)} landed files of '{declared.name}' are unchanged.")
        return dg.SensorResult(
            run_requests=[_run_request(declared.key, months, digests) for months in _consecutive_ranges(changed)],
            cursor=json.dumps(digests, sort_keys=True),
        )

    return landed


def _consecutive_ranges(partitions: Sequence[str]) -> list[list[str]]:
    """Return ``partitions`` as ranges of consecutive months; each range is one Dagster run."""
    ranges: list[list[str]] = []
    for name in sorted(partitions):
        if ranges and name and shift_month(ranges[-1][-1], 1) == name:
            ranges[-1].append(name)
        else:
            ranges.append([name])
    return ranges


def _run_request(key: dg.AssetKey, months: Sequence[str], digests: Mapping[str, str]) -> dg.RunRequest:
    # The run key contains the digests: Dagster ignores a second request for the same files.
    run_key = "|".join([key.to_user_string(), *(f"{month}:{digests[month][:16]}" for month in months)])
    if months == [""]:
        return dg.RunRequest(run_key=run_key, asset_selection=[key])
    tags = {ASSET_PARTITION_RANGE_START_TAG: months[0], ASSET_PARTITION_RANGE_END_TAG: months[-1]}
    return dg.RunRequest(run_key=run_key, asset_selection=[key], tags=tags)
