"""Reads the latest materialization of each partition of an asset from the Dagster instance.

The sensors and the command line both use it, so that they agree on what is up to date.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ml_platform.data.lake import TableVersion

CONTENT_DIGEST = "content_sha256"
"""Metadata key of every asset that writes a table: the digest of the written rows."""

LANDED_DIGEST = "landed_sha256"
"""Metadata key of a dataset: the digest of the landed file that was read."""


RECORDS_PER_QUERY = 500
"""Number of materializations that one query reads."""


@dataclass(frozen=True)
class MaterializationRecord:
    """A recorded materialization of ``run_id``. A later one has a higher ``storage_id``; ``at`` is POSIX seconds."""

    storage_id: int
    at: float
    event: dg.AssetMaterialization
    run_id: str

    def metadata(self, name: str) -> str | None:
        """Return the metadata value ``name`` as text, or None if it was not recorded."""
        value = self.event.metadata.get(name)
        return None if value is None else str(value.value)


def latest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] = ()
) -> dict[str | None, MaterializationRecord]:
    """Return the latest materialization of each partition of ``key``, by partition; of ``partitions`` only, if given.

    The key is None for an asset without partitions. Partitions that were never materialized are absent. Earlier
    materializations are not read, so the cost does not grow with the age of the asset.
    """
    ids = instance.event_log_storage.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions) or None
    )
    if not ids:
        latest = latest_materialization(instance, key) if not partitions else None
        return {} if latest is None or latest.event.partition is not None else {None: latest}
    found: dict[str | None, MaterializationRecord] = {}
    wanted = sorted(ids.values())
    for start in range(0, len(wanted), RECORDS_PER_QUERY):
        chosen = dg.AssetRecordsFilter(asset_key=key, storage_ids=wanted[start : start + RECORDS_PER_QUERY])
        for record in instance.fetch_materializations(chosen, limit=RECORDS_PER_QUERY).records:
            if record.asset_materialization is not None:
                found[record.partition_key] = MaterializationRecord(
                    record.storage_id, record.timestamp, record.asset_materialization, record.run_id
                )
    return found


def latest_materialization(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None
) -> MaterializationRecord | None:
    """Return the latest materialization of ``partition`` of ``key`` (None: of any), or None."""
    chosen: dg.AssetKey | dg.AssetRecordsFilter = key
    if partition is not None:
        chosen = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    for record in instance.fetch_materializations(chosen, limit=1).records:
        if record.asset_materialization is not None:
            return MaterializationRecord(
                record.storage_id, record.timestamp, record.asset_materialization, record.run_id
            )
    return None


def table_metadata(written: TableVersion) -> dict[str, Any]:
    """Return the metadata of a written table, which :func:`latest_materializations` reads back."""
    return {
        "dagster/row_count": written.rows,
        "table_version": written.version,
        CONTENT_DIGEST: written.sha256,
        "size_bytes": written.size_bytes,
    }
