"""Reads the latest materialization of each partition of an asset from the Dagster instance.

The sensors and the command line both use it, so that they agree on what is up to date.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.data_version import CODE_VERSION_TAG
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from ml_platform.data.lake import TableVersion

CONTENT_DIGEST = "content_sha256"
"""Metadata key of every asset that writes a table: the digest of the written rows."""

LANDED_DIGEST = "landed_sha256"
"""Metadata key of a dataset: the digest of the landed file that was read."""


RECORDS_PER_QUERY = 500
"""Number of materializations that one query reads."""


_VERSION_BEGINS = f'"{CODE_VERSION_TAG}": "'
"""Text before the code version in a stored event, which is JSON."""

_VERSION_LENGTH = 200
"""Number of characters read from there; a longer code version differs from every declared one."""


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
                    record.storage_id, record.timestamp, record.asset_materialization
                )
    return found


class MaterializedVersion(NamedTuple):
    """The id of a materialization in the event log, its code version, and the run that made it."""

    storage_id: int
    code_version: str | None
    run_id: str


def latest_versions(
    instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str] = (), *, expected: str | None = None
) -> dict[str | None, MaterializedVersion]:
    """Return the version of the latest materialization of each partition of ``key``, as latest_materializations does.

    The stored text is searched for the ``expected`` code version in the database, and read only where it is another:
    reading 175,000 events as objects takes minutes.
    """
    storage, event = instance.event_log_storage, SqlEventLogStorageTable.c
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"expected an event log in a database, found {type(storage).__name__}")
    last = sa.select(sa.func.max(event.id).label("id")).where(
        event.asset_key == key.to_string(), event.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value
    )
    if 0 < len(partitions) <= RECORDS_PER_QUERY:
        last = last.where(event.partition.in_(partitions))
    latest = last.group_by(event.partition).subquery()
    with storage.index_connection() as connection:
        place = sa.func.instr if connection.dialect.name == "sqlite" else sa.func.strpos
        begin = place(event.event, _VERSION_BEGINS)
        text = sa.func.substr(event.event, begin + len(_VERSION_BEGINS), _VERSION_LENGTH)
        is_expected = sa.false() if expected is None else place(event.event, f'{_VERSION_BEGINS}{expected}"') > 0
        version = sa.case((is_expected, sa.null()), (begin > 0, text))
        columns = (event.partition, event.id, is_expected, version, event.run_id)
        query = sa.select(*columns).join(latest, event.id == latest.c.id)
        # Fetched at once: one call for each row would take most of the time.
        rows = connection.execute(query).tuples().all()
    found = {
        partition: MaterializedVersion(storage_id, expected if same else _first_text(stored), run)
        for partition, storage_id, same, stored, run in rows
    }
    if len(found) > 1:
        found.pop(None, None)  # from a time when the asset had no partitions
    return found


def _first_text(stored: str | None) -> str | None:
    """Return the JSON text that begins at the start of ``stored``, or None."""
    return None if stored is None else stored.partition('"')[0]


def latest_materialization(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None
) -> MaterializationRecord | None:
    """Return the latest materialization of ``partition`` of ``key`` (None: of any), or None."""
    chosen: dg.AssetKey | dg.AssetRecordsFilter = key
    if partition is not None:
        chosen = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    for record in instance.fetch_materializations(chosen, limit=1).records:
        if record.asset_materialization is not None:
            return MaterializationRecord(record.storage_id, record.timestamp, record.asset_materialization)
    return None


def table_metadata(written: TableVersion) -> dict[str, Any]:
    """Return the metadata of a written table, which :func:`latest_materializations` reads back."""
    return {
        "dagster/row_count": written.rows,
        "table_version": written.version,
        CONTENT_DIGEST: written.sha256,
        "size_bytes": written.size_bytes,
    }
