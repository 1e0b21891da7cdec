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


@dataclass(frozen=True)
class MaterializationRecord:
    """A recorded materialization. A later one has a higher ``storage_id``; ``at`` is POSIX time in seconds."""

    storage_id: int
    at: float
    event: dg.AssetMaterialization

    def metadata(self, name: str) -> str | None:
        """Return the metadata value ``name`` as text, or None if it was not recorded."""
        value = self.event.metadata.get(name)
        return None if value is None else str(value.value)


def latest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] = ()
) -> dict[str | None, MaterializationRecord]:
    """Return the latest materialization of each partition of ``key``, by partition; of ``partitions`` only, if given.

    The key is None for an asset without partitions. Partitions that were never materialized are absent.
    """
    found: dict[str | None, MaterializationRecord] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=list(partitions) or None), limit=500, cursor=cursor
        )
        for record in page.records:
            if record.asset_materialization is not None:
                found.setdefault(
                    record.partition_key,
                    MaterializationRecord(record.storage_id, record.timestamp, record.asset_materialization),
                )
        if not page.has_more:
            return found
        cursor = page.cursor


def table_metadata(written: TableVersion) -> dict[str, Any]:
    """Return the metadata of a written table, which :func:`latest_materializations` reads back."""
    return {
        "dagster/row_count": written.rows,
        "table_version": written.version,
        CONTENT_DIGEST: written.sha256,
        "size_bytes": written.size_bytes,
    }
