"""Reads the latest materialization of each partition of an asset from the Dagster instance.

The sensors and the command line both use it, so that they agree on what is up to date.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import dagster as dg
import sqlalchemy as sa
from dagster._core.definitions.data_version import CODE_VERSION_TAG
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from ml_platform.components.version_cache import CACHED_FROM, SeenEvents, VersionCache, version_table
from ml_platform.data.lake import TableVersion

CONTENT_DIGEST = "content_sha256"
"""Metadata key of every asset that writes a table: the digest of the written rows."""

LANDED_DIGEST = "landed_sha256"
"""Metadata key of a dataset: the digest of the landed file that was read."""

COVERED_CODE = "covered_code"
"""Metadata key of an asset with a code version: its functions, and a digest of each declared setting."""

LINEAGE = "dagster/column_lineage"
"""Metadata key of a feature view, declared and as materialized: the source columns of each feature."""

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
    run_id: str

    @property
    def code_version(self) -> str | None:
        """The code version that made it; the id of the run for an asset that declared none."""
        return (self.event.tags or {}).get(CODE_VERSION_TAG)

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
                found[record.partition_key] = _record(record, record.asset_materialization)
    return found


class MaterializedVersion(NamedTuple):
    """The id of a materialization in the event log, its code version, and the run that made it."""

    storage_id: int
    code_version: str | None
    run_id: str


def has_other_code(key: dg.AssetKey, made_by: str | None, run_id: str, code_version: str | None) -> bool:
    """Return whether ``key`` was materialized by another code version, ``made_by``, than ``code_version`` of today.

    Dagster records the run as the version of an asset that declares none; declaring one later changes nothing. Neither
    does the version of an evaluation that covers its rules now and did not before.
    """
    if code_version is None or made_by in (code_version, run_id):
        return False
    return key.path[-1] != "evaluation" or made_by != code_version.partition("-")[0]


def latest_versions(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    partitions: Sequence[str] = (),
    *,
    expected: str | None = None,
    cache: VersionCache | None = None,
) -> dict[str | None, MaterializedVersion]:
    """Return the version of the latest materialization of each partition of ``key``, as latest_materializations does.

    The stored text is searched for the ``expected`` code version in the database, and read only where it is another:
    reading 175,000 events as objects takes minutes. With ``cache``, only the events after those of the last call are
    read. Few ``partitions`` are read alone; of more, all partitions of ``key`` are returned.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(f"expected an event log in a database, found {type(storage).__name__}")
    wiped_at = _wiped_at(storage, key)
    few = partitions if len(partitions) <= RECORDS_PER_QUERY else ()
    with storage.index_connection() as connection:
        events = _Events(connection, key, wiped_at, expected)
        found = _cached_versions(events, cache) if cache is not None and not few else events.latest(few)
    if len(found) > 1:
        found.pop(None, None)  # from a time when the asset had no partitions
    return found


def _wiped_at(storage: SqlEventLogStorage, key: dg.AssetKey) -> float | None:
    """Return when ``key`` was last wiped, in POSIX seconds; its earlier events stay in the log and do not count."""
    (details,) = storage._get_assets_details([key])
    return None if details is None else details.last_wipe_timestamp


def _cached_versions(events: "_Events", cache: VersionCache) -> dict[str | None, MaterializedVersion]:
    """Return the versions of all partitions from ``cache`` and the later events, and bring the cache up to date."""
    last = events.last_id()
    if last is None:
        return {}
    # Counted before the events are read: events that are deleted meanwhile make the next comparison fail.
    count, stored = events.count(last), cache.read(events.key)
    if stored is not None and stored[0].last <= last and stored[0] == events.seen(stored[0].last):
        seen, table = stored
        ids, codes, runs = (table[name].to_list() for name in ("storage_id", "code_version", "run_id"))
        found = dict(zip(table["partition"].to_list(), map(MaterializedVersion, ids, codes, runs), strict=True))
        later = {} if seen.last == last else events.after(seen.last, last)
        found |= later
        is_current = seen.last == last
    else:
        found, is_current = events.latest(), False
    # A text that was cut may be the version that a later call expects.
    is_cut = any(each.code_version is not None and len(each.code_version) >= _VERSION_LENGTH for each in found.values())
    if not is_current and len(found) >= CACHED_FROM and not is_cut and (now := events.seen(last, count)) is not None:
        columns = [[getattr(each, name) for each in found.values()] for name in MaterializedVersion._fields]
        cache.write(events.key, now, version_table(list(found), *columns))
    return found


class _Events:
    """The materializations of ``key`` in the event log; those before the instant ``wiped_at`` have no version."""

    def __init__(
        self, connection: sa.engine.Connection, key: dg.AssetKey, wiped_at: float | None, expected: str | None
    ) -> None:
        self.connection, self.key, self.wiped_at, self.expected = connection, key, wiped_at, expected
        event = SqlEventLogStorageTable.c
        is_materialization = event.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value
        self._all = sa.and_(event.asset_key == key.to_string(), is_materialization)
        kept: sa.ColumnElement[bool] = sa.true()
        if wiped_at is not None:
            kept = event.timestamp > datetime.fromtimestamp(wiped_at, UTC).replace(tzinfo=None)
        self._counted = sa.and_(self._all, kept)

    def last_id(self) -> int | None:
        query = sa.select(sa.func.max(SqlEventLogStorageTable.c.id)).where(self._all)
        last: int | None = self.connection.scalar(query)
        return last

    def count(self, last: int) -> int:
        query = sa.select(sa.func.count()).where(self._all, SqlEventLogStorageTable.c.id <= last)
        return int(self.connection.scalar(query) or 0)

    def seen(self, last: int, count: int | None = None) -> SeenEvents | None:
        """Return the events up to ``last`` as they are now, ``count`` of them if given; None without that event."""
        event = SqlEventLogStorageTable.c
        query = sa.select(event.timestamp, event.run_id).where(self._all, event.id == last)
        row = self.connection.execute(query).one_or_none()
        if row is None:
            return None
        counted = self.count(last) if count is None else count
        return SeenEvents(self.key.to_string(), last, row.timestamp.isoformat(), row.run_id, counted, self.wiped_at)

    def latest(self, partitions: Sequence[str] = ()) -> dict[str | None, MaterializedVersion]:
        """Return the version of the latest event of each partition, of ``partitions`` only if there are any."""
        event = SqlEventLogStorageTable.c
        last = sa.select(sa.func.max(event.id).label("id")).where(self._counted)
        if partitions:
            last = last.where(event.partition.in_(partitions))
        latest = last.group_by(event.partition).subquery()
        return self._versions(self._select().join(latest, event.id == latest.c.id))

    def after(self, first: int, last: int) -> dict[str | None, MaterializedVersion]:
        """Return the version of the latest event of each partition among those after ``first`` up to ``last``."""
        event = SqlEventLogStorageTable.c
        # In ascending order a later event of a partition replaces an earlier one.
        return self._versions(
            self._select().where(self._counted, event.id > first, event.id <= last).order_by(event.id)
        )

    def _select(self) -> sa.Select[Any]:
        event = SqlEventLogStorageTable.c
        place = sa.func.instr if self.connection.dialect.name == "sqlite" else sa.func.strpos
        begin = place(event.event, _VERSION_BEGINS)
        text = sa.func.substr(event.event, begin + len(_VERSION_BEGINS), _VERSION_LENGTH)
        is_expected: sa.ColumnElement[bool] = sa.false()
        if self.expected is not None:
            whole = sa.func.substr(event.event, begin + len(_VERSION_BEGINS), len(self.expected) + 1)
            is_expected = sa.and_(begin > 0, whole == f'{self.expected}"')
        version = sa.case((is_expected, sa.null()), (begin > 0, text))
        return sa.select(event.partition, event.id, is_expected, version, event.run_id)

    def _versions(self, query: sa.Select[Any]) -> dict[str | None, MaterializedVersion]:
        # Fetched at once: one call for each row would take most of the time.
        rows = self.connection.execute(query).all()
        return {
            partition: MaterializedVersion(storage_id, self.expected if same else _first_text(stored), run)
            for partition, storage_id, same, stored, run in rows
        }


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
            return _record(record, record.asset_materialization)
    return None


def _record(record: dg.EventLogRecord, event: dg.AssetMaterialization) -> MaterializationRecord:
    return MaterializationRecord(record.storage_id, record.timestamp, event, record.run_id)


def table_metadata(written: TableVersion) -> dict[str, Any]:
    """Return the metadata of a written table, which :func:`latest_materializations` reads back."""
    return {
        "dagster/row_count": written.rows,
        "table_version": written.version,
        CONTENT_DIGEST: written.sha256,
        "size_bytes": written.size_bytes,
    }
