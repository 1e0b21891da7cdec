"""The catalog of the lake in the state store: tables, their versions, and the files of each.

A version of a table is a set of segments. A segment holds the rows that one write added to one partition, in zero or
more files. A later write may replace it; the row of the segment stays, so earlier versions remain known.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import sqlalchemy as sa

from ml_platform.data.lake_files import StoredFile
from ml_platform.state.schema import WHOLE, lake_files, lake_pins, lake_segments, lake_tables
from ml_platform.state.store import StateStore, now_text

DIGEST_MODULUS = 2**256

PARTITIONS_IN_QUERY = 20
"""Number of partitions that a query names one by one; a longer list is filtered after the query."""

SEGMENT_COLUMNS = (
    "id",
    "partition",
    "version",
    "replaced_in",
    "rows",
    "size_bytes",
    "sha256",
    "digest",
    "stores_partition",
    "cleaned_at",
)
"""Columns of a segment, in the order of the fields of :class:`Segment`."""


@dataclass(frozen=True)
class CatalogTable:
    """A table at its current version; its Delta log shows ``published_version`` since ``published_commit``."""

    name: str
    version: int
    partitioned: bool
    columns: pl.DataFrame
    published_version: int | None
    published_commit: int | None


@dataclass(frozen=True)
class Segment:
    """Rows that one write added to ``partition`` (empty: a table without partitions), with their files."""

    id: int
    partition: str
    version: int
    replaced_in: int | None
    rows: int
    size_bytes: int
    sha256: str
    digest: str
    stores_partition: bool
    cleaned_at: str | None
    files: tuple[StoredFile, ...]


@dataclass(frozen=True)
class NewSegment:
    """A segment that is not yet recorded."""

    partition: str
    rows: int
    sha256: str
    files: tuple[StoredFile, ...]
    digest: str = ""
    """Content digest; empty: equal to ``sha256``. Compaction keeps the sum of the digests that it merges."""
    stores_partition: bool = True

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True)
class AdoptedSegment:
    """A segment of a table that another program wrote; ``replaced_in`` is None for a current one."""

    segment: NewSegment
    version: int
    replaced_in: int | None
    cleaned: bool = False


def stored_sizes(state: StateStore) -> dict[str, int]:
    """Return the stored bytes of the current version of each table with rows, by its name."""
    column = lake_segments.c
    query = (
        sa.select(column.table_name, sa.func.sum(column.size_bytes))
        .where(column.replaced_in.is_(None))
        .group_by(column.table_name)
    )
    with state.read() as connection:
        return {name: int(size) for name, size in connection.execute(query)}


def combined_digest(digests: Iterable[str]) -> str:
    """Return the digest of the union of row multisets with these digests; one digest is its own union.

    The sum modulo 2^256 does not depend on the order (MSet-Add-Hash: Clarke et al., 2003, Incremental Multiset Hash
    Functions), so appending needs no second read of earlier rows.
    """
    return f"{sum(int(digest, 16) for digest in digests) % DIGEST_MODULUS:064x}"


class LakeCatalog:
    """The catalog in ``state``."""

    def __init__(self, state: StateStore) -> None:
        self.state = state

    def table(self, name: str) -> CatalogTable | None:
        """Return the table ``name``, or None."""
        with self.state.read() as connection:
            row = connection.execute(sa.select(lake_tables).where(lake_tables.c.name == name)).one_or_none()
        if row is None:
            return None
        columns = pl.read_ipc(io.BytesIO(row.columns))
        return CatalogTable(
            row.name, row.version, row.partitioned, columns, row.published_version, row.published_commit
        )

    def tables(self) -> list[str]:
        """Return the names of all tables, sorted."""
        with self.state.read() as connection:
            return list(connection.scalars(sa.select(lake_tables.c.name).order_by(lake_tables.c.name)))

    def segments(
        self,
        table: str,
        version: int | None = None,
        partitions: Sequence[str] | None = None,
        *,
        added_after: int | None = None,
        with_files: bool = True,
    ) -> list[Segment]:
        """Return the segments of ``table`` as of ``version`` (None: now), by partition and age, with their files.

        ``added_after`` is the id of a segment: only later ones are returned.
        """
        columns = lake_segments.c
        conditions: list[sa.ColumnElement[bool]]
        if version is None:
            conditions = [columns.replaced_in.is_(None)]
        else:
            conditions = [
                columns.version <= version,
                sa.or_(columns.replaced_in.is_(None), columns.replaced_in > version),
            ]
        if added_after is not None:
            conditions.append(columns.id > added_after)
        if partitions is None:
            return self._selected(table, *conditions, with_files=with_files)
        if len(partitions) <= PARTITIONS_IN_QUERY:
            return self._selected(table, *conditions, columns.partition.in_(partitions), with_files=with_files)
        bounds = columns.partition.between(min(partitions), max(partitions))
        wanted = set(partitions)
        found = self._selected(table, *conditions, bounds, with_files=with_files)
        return [segment for segment in found if segment.partition in wanted]

    def current_files(self, table: str, partitions: Sequence[str] | None = None) -> list[tuple[str, StoredFile]]:
        """Return the files of the current segments of ``table`` with their partitions, without the segments."""
        columns, file = lake_segments.c, lake_files.c
        query = (
            sa.select(columns.partition, file.path, file.size_bytes, file.sha256)
            .join(lake_segments, columns.id == file.segment_id)
            .where(columns.table_name == table, columns.replaced_in.is_(None))
        )
        if partitions is not None and len(partitions) <= PARTITIONS_IN_QUERY:
            query = query.where(columns.partition.in_(partitions))
        with self.state.read() as connection:
            # Fetched at once: one call for each row would take most of the time.
            rows = connection.execute(query).all()
        return [(partition, StoredFile(path, size, digest)) for partition, path, size, digest in rows]

    def digests(self, table: str, partitions: Sequence[str] | None = None) -> dict[str, str]:
        """Return the content digest of each current partition of ``table``, sorted by partition."""
        columns = lake_segments.c
        query = sa.select(columns.partition, columns.digest).where(
            columns.table_name == table, columns.replaced_in.is_(None)
        )
        if partitions is not None and len(partitions) <= PARTITIONS_IN_QUERY:
            query = query.where(columns.partition.in_(partitions))
        wanted = None if partitions is None else set(partitions)
        found: dict[str, list[str]] = {}
        with self.state.read() as connection:
            for partition, digest in connection.execute(query.order_by(columns.partition)):
                if wanted is None or partition in wanted:
                    found.setdefault(partition, []).append(digest)
        return {
            partition: digests[0] if len(digests) == 1 else combined_digest(digests)
            for partition, digests in found.items()
        }

    def replaced_by(self, table: str, version: int, partition: str) -> list[Segment]:
        """Return the segments of ``partition`` that ``version`` of ``table`` replaced, without their files."""
        columns = lake_segments.c
        return self._selected(table, columns.replaced_in == version, columns.partition == partition, with_files=False)

    def totals(self, table: str) -> tuple[int, int]:
        """Return the rows and the stored bytes of the current version of ``table``."""
        current = sa.and_(lake_segments.c.table_name == table, lake_segments.c.replaced_in.is_(None))
        query = sa.select(sa.func.sum(lake_segments.c.rows), sa.func.sum(lake_segments.c.size_bytes)).where(current)
        with self.state.read() as connection:
            rows, size = connection.execute(query).one()
        return int(rows or 0), int(size or 0)

    def written_at(self, table: str) -> datetime | None:
        """Return when the latest rows of the current version of ``table`` were written; None without rows."""
        current = sa.and_(lake_segments.c.table_name == table, lake_segments.c.replaced_in.is_(None))
        with self.state.read() as connection:
            latest = connection.scalar(sa.select(sa.func.max(lake_segments.c.written_at)).where(current))
        return None if latest is None else datetime.fromisoformat(latest)

    def small_segments(self, table: str, below_bytes: int) -> dict[str, int]:
        """Return the number of current segments smaller than ``below_bytes``, by partition."""
        query = (
            sa.select(lake_segments.c.partition, sa.func.count())
            .where(
                lake_segments.c.table_name == table,
                lake_segments.c.replaced_in.is_(None),
                lake_segments.c.size_bytes < below_bytes,
            )
            .group_by(lake_segments.c.partition)
        )
        with self.state.read() as connection:
            return {partition: int(count) for partition, count in connection.execute(query)}

    def partitions(self, table: str, version: int | None = None) -> list[str]:
        """Return the partitions of ``table`` as of ``version``, sorted, with those without rows."""
        columns = lake_segments.c
        query = sa.select(columns.partition).distinct().where(columns.table_name == table, columns.partition != WHOLE)
        if version is None:
            query = query.where(columns.replaced_in.is_(None))
        else:
            query = query.where(
                columns.version <= version, sa.or_(columns.replaced_in.is_(None), columns.replaced_in > version)
            )
        with self.state.read() as connection:
            return list(connection.scalars(query.order_by(columns.partition)))

    def record(
        self,
        table: str,
        columns: pl.DataFrame,
        *,
        partitioned: bool,
        added: Sequence[NewSegment],
        replaced: Sequence[int],
    ) -> int:
        """Record a new version of ``table`` and return it: segments ``added``, and the ids of those it replaces."""
        with self.state.write() as connection:
            current = connection.scalar(sa.select(lake_tables.c.version).where(lake_tables.c.name == table))
            buffer = io.BytesIO()
            columns.clear().write_ipc(buffer)
            values = {"columns": buffer.getvalue(), "partitioned": partitioned}
            version = 0 if current is None else current + 1
            if current is None:
                connection.execute(sa.insert(lake_tables).values(name=table, version=version, **values))
            else:
                connection.execute(
                    sa.update(lake_tables).where(lake_tables.c.name == table).values(version=version, **values)
                )
            at = now_text()
            for segment_id in replaced:
                connection.execute(
                    sa.update(lake_segments)
                    .where(lake_segments.c.id == segment_id)
                    .values(replaced_in=version, replaced_at=at)
                )
            for segment in added:
                self._insert(connection, table, segment, version, at)
            return version

    def adopt(
        self,
        table: str,
        columns: pl.DataFrame,
        *,
        version: int,
        partitioned: bool,
        segments: Sequence[AdoptedSegment],
    ) -> None:
        """Record a table that exists as a Delta table, with all segments of its history."""
        buffer = io.BytesIO()
        columns.clear().write_ipc(buffer)
        at = now_text()
        with self.state.write() as connection:
            connection.execute(
                sa.insert(lake_tables).values(
                    name=table,
                    version=version,
                    partitioned=partitioned,
                    columns=buffer.getvalue(),
                    published_version=version,
                )
            )
            for each in segments:
                segment_id = self._insert(connection, table, each.segment, each.version, at)
                if each.replaced_in is not None:
                    connection.execute(
                        sa.update(lake_segments)
                        .where(lake_segments.c.id == segment_id)
                        .values(replaced_in=each.replaced_in, replaced_at=at, cleaned_at=at if each.cleaned else None)
                    )

    def set_published(self, table: str, version: int, commit: int | None) -> None:
        """Record that the Delta log of ``table`` shows ``version`` since its ``commit``."""
        with self.state.write() as connection:
            connection.execute(
                sa.update(lake_tables)
                .where(lake_tables.c.name == table)
                .values(published_version=version, published_commit=commit)
            )

    def changes_since(self, table: str, version: int) -> tuple[list[Segment], list[Segment]]:
        """Return the segments that ``table`` has gained, and those that it has lost, since ``version``."""
        columns = lake_segments.c
        gained = sa.and_(columns.version > version, columns.replaced_in.is_(None))
        lost = sa.and_(columns.replaced_in > version, columns.version <= version)
        return self._selected(table, gained), self._selected(table, lost)

    def pin(self, versions: Iterable[tuple[str, int]], holder: str) -> None:
        """Keep these (table, version) pairs for ``holder``; a repeated call changes nothing."""
        with self.state.write() as connection:
            existing = set(
                connection.execute(
                    sa.select(lake_pins.c.table_name, lake_pins.c.version).where(lake_pins.c.holder == holder)
                ).all()
            )
            for table, version in versions:
                if (table, version) not in existing:
                    connection.execute(sa.insert(lake_pins).values(table_name=table, version=version, holder=holder))

    def unpin(self, holder: str) -> None:
        """Release all versions that were kept for ``holder``."""
        with self.state.write() as connection:
            connection.execute(sa.delete(lake_pins).where(lake_pins.c.holder == holder))

    def pins(self) -> dict[str, set[tuple[str, int]]]:
        """Return the kept (table, version) pairs by holder."""
        found: dict[str, set[tuple[str, int]]] = {}
        with self.state.read() as connection:
            for row in connection.execute(sa.select(lake_pins)):
                found.setdefault(row.holder, set()).add((row.table_name, row.version))
        return found

    def replaced_segments(self, table: str, replaced_before: str) -> list[Segment]:
        """Return the segments with files that were replaced before the instant (ISO 8601) and that no pin covers."""
        pinned = [version for pins in self.pins().values() for name, version in pins if name == table]
        columns = lake_segments.c
        replaced = self._selected(
            table, columns.replaced_in.is_not(None), columns.replaced_at < replaced_before, columns.cleaned_at.is_(None)
        )
        return [
            segment
            for segment in replaced
            if segment.replaced_in is not None
            and not any(segment.version <= version < segment.replaced_in for version in pinned)
        ]

    def mark_cleaned(self, segments: Iterable[int]) -> None:
        """Record that the files of these segments were deleted; their versions can no longer be read."""
        with self.state.write() as connection:
            for segment_id in segments:
                connection.execute(
                    sa.update(lake_segments).where(lake_segments.c.id == segment_id).values(cleaned_at=now_text())
                )
                connection.execute(sa.delete(lake_files).where(lake_files.c.segment_id == segment_id))

    def known_files(self, table: str) -> set[str]:
        """Return the paths of all files of ``table`` that a segment names, current or replaced."""
        query = (
            sa.select(lake_files.c.path)
            .join(lake_segments, lake_segments.c.id == lake_files.c.segment_id)
            .where(lake_segments.c.table_name == table)
        )
        with self.state.read() as connection:
            return set(connection.scalars(query))

    def _selected(self, table: str, *conditions: sa.ColumnElement[bool], with_files: bool = True) -> list[Segment]:
        """Return the segments of ``table`` that meet the conditions, by partition and age, with their files."""
        columns = lake_segments.c
        query = sa.select(*(getattr(columns, name) for name in SEGMENT_COLUMNS)).where(
            columns.table_name == table, *conditions
        )
        order = (columns.partition, columns.id)
        with self.state.read() as connection:
            rows = connection.execute(query.order_by(*order)).all()
            files: dict[int, list[StoredFile]] = {}
            if with_files:
                joined = (
                    sa.select(lake_files.c.segment_id, lake_files.c.path, lake_files.c.size_bytes, lake_files.c.sha256)
                    .join(lake_segments, columns.id == lake_files.c.segment_id)
                    .where(columns.table_name == table, *conditions)
                )
                for segment_id, path, size_bytes, sha256 in connection.execute(joined.order_by(lake_files.c.path)):
                    files.setdefault(segment_id, []).append(StoredFile(path, size_bytes, sha256))
        return [Segment(**row._asdict(), files=tuple(files.get(row[0], ()))) for row in rows]

    def _insert(self, connection: sa.Connection, table: str, segment: NewSegment, version: int, at: str) -> int:
        inserted = connection.execute(
            sa.insert(lake_segments)
            .values(
                table_name=table,
                partition=segment.partition,
                version=version,
                rows=segment.rows,
                size_bytes=segment.size_bytes,
                sha256=segment.sha256,
                digest=segment.digest or segment.sha256,
                written_at=at,
                stores_partition=segment.stores_partition,
            )
            .returning(lake_segments.c.id)
        )
        segment_id = inserted.scalar_one()
        if segment.files:
            connection.execute(
                sa.insert(lake_files),
                [
                    {"segment_id": segment_id, "path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256}
                    for file in segment.files
                ],
            )
        return int(segment_id)
