"""What the instance recorded of an asset: the newest materialization of each of its partitions.

Apart because the sensors and the plan of the command line must decide by the same reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ml_platform.data.lake import TableVersion

CONTENT_DIGEST = "content_sha256"
"""Metadata of whatever writes a table: the digest of the rows written."""

LANDED_DIGEST = "landed_sha256"
"""Metadata of a dataset's materialization: the digest of the landed file that it read."""


@dataclass(frozen=True)
class MaterializationRecord:
    """A materialization; of two, the one with the higher ``storage_id`` came later. ``at`` is POSIX time in seconds."""

    storage_id: int
    at: float
    event: dg.AssetMaterialization

    def metadata(self, name: str) -> str | None:
        """Return the metadata value ``name`` as text, None where it was not recorded."""
        value = self.event.metadata.get(name)
        return None if value is None else str(value.value)


def latest_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] = ()
) -> dict[str | None, MaterializationRecord]:
    """Return the newest materialization of each partition of ``key`` (only ``partitions`` where these are given).

    An asset without partitions has one, under None. Partitions that were never materialized are absent.
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
    """Return what an asset records of a table that it wrote, to be read back by :func:`newest`."""
    return {
        "dagster/row_count": written.rows,
        "table_version": written.version,
        CONTENT_DIGEST: written.sha256,
        "size_bytes": written.size_bytes,
    }
