"""The lake: tables of rows under one root, local or in S3; each write of a partition makes a new version of its table.

The catalog in the state store says which files a version has, and each file is written once. A scan is pinned to one
version, so readers never wait for writers. The tables are published as Delta tables for other tools.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars.selectors as cs

from ml_platform.data import delta_log
from ml_platform.data.delta_types import lists_as_vectors, vectors_as_lists
from ml_platform.data.digest import content_hash
from ml_platform.data.lake_catalog import CatalogTable, LakeCatalog, NewSegment, Segment, combined_digest
from ml_platform.data.lake_files import DamagedFile, LakeFiles
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.state.schema import WHOLE
from ml_platform.state.store import StateStore

PARTITION = "partition"
"""Column by which tables are partitioned."""

STANDALONE_FOLDER = ".catalog"
"""Folder of the catalog of a lake without a home, below its root."""


class LakeError(PlatformError):
    """Raised when a table, version, partition or file is absent or damaged, or a write does not fit its table."""


@dataclass(frozen=True)
class TableVersion:
    """One partition in one version of a table: the count, stored bytes and content digest of its rows."""

    table: str
    version: int
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class StagedRows:
    """Rows that are on disk, but belong to no version of the table yet; see :meth:`Lake.stage`."""

    table: str
    segment: NewSegment
    columns: pl.DataFrame
    partitioned: bool


class Lake:
    """Tables by name, like ``datasets/orders``, under ``root`` (a folder or ``s3://bucket/prefix``)."""

    def __init__(self, root: str, state: StateStore, storage_options: dict[str, str] | None = None) -> None:
        self.root = root.rstrip("/")
        self.storage_options = storage_options
        self.state = state
        self.catalog = LakeCatalog(state)
        self.files = LakeFiles(self.root, storage_options)

    @classmethod
    def standalone(cls, root: str | Path) -> "Lake":
        """Return the lake in the folder ``root`` with a catalog of its own, for rows that belong to no home."""
        return cls(str(root), StateStore.in_folder(Path(root) / STANDALONE_FOLDER))

    def write(
        self,
        table: str,
        frame: pl.DataFrame,
        partition: str | None,
        on_record: Callable[[TableVersion], None] | None = None,
    ) -> TableVersion:
        """Replace ``partition`` of ``table`` (the whole table if None) by ``frame`` and return the new version.

        The column ``partition`` is added, or overwritten. When the partition already has equal content in undamaged
        files, nothing is written and the current version is returned, so that pinned versions do not change.

        Processes may write at the same time; of two writes to one partition the later one counts. ``on_record`` is
        called in the transaction that records the version, for state that belongs to these rows. Raises
        :class:`LakeError` when the columns differ from those of the table.
        """
        content = _storable(table, frame.drop(PARTITION, strict=False))
        digest = content_hash(content)
        unchanged = self._unchanged(table, partition, digest, content)
        staged = None if unchanged else self._stage(table, content, digest, partition)
        with self.state.write():
            written = unchanged if staged is None else self.record(staged, replace=True)
            assert written is not None
            if on_record is not None:
                on_record(written)
        self.publish(table)
        return written

    def append(self, table: str, frame: pl.DataFrame, partition: str) -> TableVersion:
        """Add the rows of ``frame`` to ``partition`` of ``table`` and return the new version of the partition.

        The cost depends on the new rows only. Raises as :meth:`write`.
        """
        written = self.record(self.stage(table, frame, partition), replace=False)
        self.publish(table)
        return written

    def stage(self, table: str, frame: pl.DataFrame, partition: str | None) -> StagedRows:
        """Write ``frame`` to new files that belong to no version yet, for :meth:`record`.

        A caller that must change other state together with the rows stages them first, and then records both in one
        transaction of the state store. Files that are never recorded are deleted by cleaning.
        """
        content = _storable(table, frame.drop(PARTITION, strict=False))
        return self._stage(table, content, content_hash(content), partition)

    def record(self, staged: StagedRows, *, replace: bool) -> TableVersion:
        """Make the staged rows part of a new version of their table, in the current transaction if one is open.

        With ``replace`` they replace their partition, otherwise they are added to it.
        """
        table, segment = staged.table, staged.segment
        with self.state.write():
            self._require_same_columns(table, self.catalog.table(table), staged)
            current = self.catalog.segments(table, partitions=[segment.partition], with_files=False)
            if not staged.partitioned:
                current = self.catalog.segments(table, with_files=False)
            version = self.catalog.record(
                table,
                staged.columns,
                partitioned=staged.partitioned,
                added=[segment],
                replaced=[each.id for each in current] if replace else [],
            )
        kept = [] if replace else current
        return TableVersion(
            table,
            version,
            segment.rows + sum(each.rows for each in kept),
            segment.size_bytes + sum(each.size_bytes for each in kept),
            combined_digest([segment.digest or segment.sha256, *(each.digest for each in kept)]),
        )

    def publish(self, table: str) -> None:
        """Bring the Delta log of ``table`` to its current version; a log that shows it already is not touched.

        Raises :class:`~ml_platform.data.delta_log.DeltaLogError` when the log is damaged. The rows are safe then.
        """
        stored = self.catalog.table(table)
        if stored is None or self._is_published(stored):
            return
        with self.state.lock(f"delta/{table}"):
            stored = self.catalog.table(table)
            if stored is None or self._is_published(stored):
                return
            self._publish(stored, self._delta_changes(stored))

    def scan(self, table: str, version: int | None = None, partitions: Sequence[str] | None = None) -> pl.LazyFrame:
        """Return ``table`` as of ``version`` (the latest if None), reduced to ``partitions`` if these are given.

        Raises :class:`LakeError` when the table, the version or one of the partitions does not exist, and when a file
        is missing or damaged. An absent partition would otherwise read as an empty one.
        """
        stored = self._table(table, version)
        segments = self._segments(stored, version, partitions)
        self._require_readable(stored, version, segments)
        return self._rows(stored, segments, is_current=version in (None, stored.version))

    def exists(self, table: str) -> bool:
        """Return whether ``table`` has at least one version."""
        return self.catalog.table(table) is not None

    def version(self, table: str) -> int | None:
        """Return the latest version of ``table``, or None if it does not exist."""
        stored = self.catalog.table(table)
        return None if stored is None else stored.version

    def partitions(self, table: str, version: int | None = None) -> list[str]:
        """Return the partitions of ``table`` as of ``version``, sorted; empty if the table does not exist.

        Partitions without rows are included.
        """
        if version is None and not self.exists(table):
            return []
        self._table(table, version)
        return self.catalog.partitions(table, version)

    def digests(self, table: str, partitions: Sequence[str] | None = None) -> dict[str | None, str]:
        """Return the content digest of each partition, without reading data (key None: a table without partitions).

        With ``partitions``, only those that exist among them. Empty if the table does not exist.
        """
        found = self.catalog.digests(table, partitions)
        return {None if name == WHOLE else name: digest for name, digest in found.items()}

    def drop_partitions(
        self, table: str, partitions: Sequence[str], record: Callable[[], object] = lambda: None
    ) -> int | None:
        """Remove ``partitions`` from ``table``; return the new version, or None if none of them existed.

        Older versions keep the rows until they are cleaned. ``record`` runs in the transaction of the removal.
        """
        with self.state.write():
            stored = self.catalog.table(table)
            dropped = self.catalog.segments(table, partitions=partitions, with_files=False)
            if stored is None or not dropped:
                return None
            version = self.catalog.record(
                table, stored.columns, partitioned=stored.partitioned, added=[], replaced=[each.id for each in dropped]
            )
            record()
        self.publish(table)
        return version

    def compact(self, table: str, partition: str, *, target_bytes: int | None = None) -> int | None:
        """Merge the segments of ``partition`` into one file; return the new version, or None if there is nothing to do.

        With ``target_bytes``, small segments are merged in groups of about this stored size, and larger segments stay
        as they are, so that the memory does not depend on the size of the partition.

        The content digest of the partition does not change. Earlier versions keep the old files until they are cleaned.
        """
        stored = self._table(table, None)
        segments = self.catalog.segments(table, partitions=[partition])
        versions = [
            self._merge(stored, partition, group) for group in _groups(segments, target_bytes) if len(group) > 1
        ]
        merged = [version for version in versions if version is not None]
        if not merged:
            return None
        self.publish(table)
        return merged[-1]

    def summary(self, table: str) -> TableVersion:
        """Return the current version of ``table`` as a whole: rows, stored bytes and digest; no rows are read."""
        stored = self._table(table, None)
        rows, size = self.catalog.totals(table)
        return TableVersion(table, stored.version, rows, size, combined_digest(self.catalog.digests(table).values()))

    def scan_segments(self, table: str, segments: Sequence[Segment]) -> pl.LazyFrame:
        """Return the rows of ``segments`` of ``table``, current or replaced. Raises as :meth:`scan`."""
        stored = self._table(table, None)
        self._require_readable(stored, None, segments)
        return self._rows(stored, segments)

    def damaged_files(self, table: str, partition: str | None = None, *, content: bool = False) -> list[DamagedFile]:
        """Return the files that are missing, have another size or, with ``content``, other bytes than written."""
        segments = self.catalog.segments(table, partitions=None if partition is None else [partition])
        return list(self.files.damaged(table, (f for each in segments for f in each.files), content=content))

    def damaged_partitions(self, table: str, partitions: Sequence[str] | None = None) -> dict[str, DamagedFile]:
        """Return the first file of each partition that is missing or has another size; intact ones are left out.

        The key is "" for a table without partitions; None for ``partitions`` selects all.
        """
        stored = self.catalog.current_files(table, partitions)
        damaged_files = list(self.files.damaged(table, (file for _, file in stored), content=False))
        partition_of = {file.path: partition for partition, file in stored} if damaged_files else {}
        found: dict[str, DamagedFile] = {}
        for damaged in damaged_files:
            found.setdefault(partition_of[damaged.path], damaged)
        return found

    def delta_address(self, table: str) -> str:
        """Return the folder or address of ``table`` as a Delta table, for other tools."""
        return f"{self.root}/{table}"

    def shows_current_version(self, table: str) -> bool:
        """Return whether the Delta log of ``table`` lists exactly the files of the catalog.

        Raises :class:`~ml_platform.data.delta_log.DeltaLogError` when the log is damaged.
        """
        stored = self._table(table, None)
        return delta_log.is_current(self._delta_target(stored), self._delta_files(stored, self.catalog.segments(table)))

    def republish(self, table: str) -> None:
        """Compare the Delta log of ``table`` with the catalog and correct it, for example after a restore."""
        with self.state.lock(f"delta/{table}"):
            self._publish(self._table(table, None), None)

    def rewrite_delta_log(self, table: str) -> None:
        """Replace a damaged Delta log of ``table`` by a new one that shows the current version."""
        with self.state.lock(f"delta/{table}"):
            stored = self._table(table, None)
            files = self._delta_files(stored, self.catalog.segments(table))
            self.catalog.set_published(table, stored.version, delta_log.rewrite(self._delta_target(stored), files))

    def _merge(self, stored: CatalogTable, partition: str, segments: Sequence[Segment]) -> int | None:
        """Replace ``segments`` of ``partition`` by one; return the new version, or None if one of them is gone."""
        self._require_readable(stored, None, segments)
        staged = self.stage(stored.name, self._rows(stored, segments).collect(), partition)
        digest = combined_digest(each.digest for each in segments)
        with self.state.write():
            current = self.catalog.segments(stored.name, partitions=[partition], with_files=False)
            # Rows that were added meanwhile stay in their own segments.
            if not {each.id for each in segments} <= {each.id for each in current}:
                return None
            merged = NewSegment(partition, staged.segment.rows, staged.segment.sha256, staged.segment.files, digest)
            return self.catalog.record(
                stored.name,
                stored.columns,
                partitioned=stored.partitioned,
                added=[merged],
                replaced=[each.id for each in segments],
            )

    def _publish(self, stored: CatalogTable, changes: delta_log.DeltaChanges | None) -> None:
        commit = delta_log.publish(
            self._delta_target(stored),
            lambda: self._delta_files(stored, self.catalog.segments(stored.name)),
            changes,
        )
        self.catalog.set_published(stored.name, stored.version, commit)

    def _delta_changes(self, stored: CatalogTable) -> delta_log.DeltaChanges | None:
        """Return the changes since the published version, or None when the log must be compared as a whole."""
        if stored.published_version is None or stored.published_commit is None:
            return None
        gained, lost = self.catalog.changes_since(stored.name, stored.published_version)
        # The catalog forgets the files of cleaned segments.
        if any(each.cleaned_at for each in lost):
            return None
        return delta_log.DeltaChanges(
            stored.published_commit, self._delta_files(stored, gained), self._delta_files(stored, lost)
        )

    def _stage(self, table: str, content: pl.DataFrame, digest: str, partition: str | None) -> StagedRows:
        name = WHOLE if partition is None else partition
        stored = vectors_as_lists(content)
        if partition is not None:
            stored = stored.with_columns(pl.lit(partition).alias(PARTITION))
        # A file without rows would be an obstacle for readers that take types from the first file.
        files = (self.files.write(table, stored, name),) if content.height else ()
        segment = NewSegment(name, content.height, digest, files)
        return StagedRows(table, segment, content.clear(), partition is not None)

    def _unchanged(self, table: str, partition: str | None, digest: str, content: pl.DataFrame) -> TableVersion | None:
        name = WHOLE if partition is None else partition
        stored = self.catalog.table(table)
        segments = self.catalog.segments(table, partitions=[name])
        if stored is None or not segments or combined_digest(each.digest for each in segments) != digest:
            return None
        if stored.columns.schema != content.schema:
            return None
        files = [file for each in segments for file in each.files]
        # Equal content in a lost or damaged file is no reason to leave the partition as it is.
        if any(True for _ in self.files.damaged(table, files, content=True)):
            return None
        return TableVersion(table, stored.version, content.height, sum(each.size_bytes for each in segments), digest)

    def _is_published(self, stored: CatalogTable) -> bool:
        return stored.published_version == stored.version and (
            self.files.local is None or delta_log.exists(self.delta_address(stored.name))
        )

    def _delta_target(self, stored: CatalogTable) -> delta_log.DeltaTarget:
        return delta_log.DeltaTarget(
            address=self.delta_address(stored.name),
            columns=stored.columns,
            partition_column=PARTITION if stored.partitioned else None,
            storage_options=self.storage_options,
        )

    def _delta_files(self, stored: CatalogTable, segments: Sequence[Segment]) -> delta_log.FilePartitions:
        return {
            file.path: (file.size_bytes, each.partition if stored.partitioned else None)
            for each in segments
            for file in each.files
        }

    def _table(self, table: str, version: int | None) -> CatalogTable:
        stored = self.catalog.table(table)
        if stored is None:
            raise LakeError(
                f"Table '{table}'",
                expected=f"a table under {self.root}",
                found=f"none of this name.{did_you_mean(table, self.catalog.tables())}".rstrip("."),
                fix=f"Materialize '{table}' first.",
            )
        if version is not None and not 0 <= version <= stored.version:
            raise LakeError(
                f"Table '{table}'",
                expected=f"version {version}",
                found=f"versions 0 to {stored.version}",
                fix="Request one of these versions.",
            )
        return stored

    def _segments(self, stored: CatalogTable, version: int | None, partitions: Sequence[str] | None) -> list[Segment]:
        segments = self.catalog.segments(stored.name, version, partitions)
        if partitions is not None:
            existing = {each.partition for each in segments}
            absent = [name for name in partitions if name not in existing]
            if absent:
                names = self.catalog.partitions(stored.name, version)
                raise LakeError(
                    f"Table '{stored.name}', version {stored.version if version is None else version}",
                    expected=f"partitions {listed(absent)}",
                    found=f"{len(names)} partitions: {listed(names)}",
                    fix="Materialize the missing partitions first.",
                )
        return segments

    def _require_readable(self, stored: CatalogTable, version: int | None, segments: Sequence[Segment]) -> None:
        cleaned = [each for each in segments if each.cleaned_at]
        if cleaned:
            raise LakeError(
                f"Table '{stored.name}', version {version}",
                expected="its rows",
                found=f"a version that retention removed at {cleaned[0].cleaned_at}",
                fix="Use a later version, or restore the home from a backup of that time.",
            )
        damaged = list(
            self.files.damaged(stored.name, (file for each in segments for file in each.files), content=True)
        )
        if damaged:
            partitions = {file.path: each.partition for each in segments for file in each.files}
            raise LakeError(
                f"Table '{stored.name}'" + (f", partition {partitions[damaged[0].path]}" if stored.partitioned else ""),
                expected=f"the file {damaged[0].path} as it was written",
                found=damaged[0].found + (f", and {len(damaged) - 1} more damaged files" if len(damaged) > 1 else ""),
                fix="Materialize the partition again, or restore the home from its backup. `ml-platform verify` lists "
                "all damage.",
            )

    def _rows(self, stored: CatalogTable, segments: Sequence[Segment], *, is_current: bool = True) -> pl.LazyFrame:
        """Return the rows of ``segments``, with the column ``partition`` for a partitioned table."""
        schema = {**stored.columns.schema, **({PARTITION: pl.String()} if stored.partitioned else {})}
        scans = []
        complete = [file.path for each in segments if each.stores_partition for file in each.files]
        if complete:
            scans.append(self.files.scan(stored.name, complete))
        for each in segments:
            if not each.stores_partition and each.files:
                rows = self.files.scan(stored.name, [file.path for file in each.files])
                scans.append(rows.with_columns(pl.lit(each.partition).alias(PARTITION)) if stored.partitioned else rows)
        if not scans:
            return pl.DataFrame(schema=schema).lazy()
        rows = scans[0] if len(scans) == 1 else pl.concat(scans)
        # A table may have had other columns in an earlier version.
        is_current = is_current or (stored.partitioned and _has_columns(rows, schema))
        rows = lists_as_vectors(rows, schema, is_current=is_current)
        return rows.select(list(schema)) if stored.partitioned and is_current else rows

    def _require_same_columns(self, table: str, stored: CatalogTable | None, staged: StagedRows) -> None:
        if stored is None or (not stored.partitioned and not staged.partitioned):
            return
        before, after = stored.columns.schema, staged.columns.schema
        changed = [
            f"{name}: {before.get(name, 'absent')} → {after.get(name, 'absent')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        if stored.partitioned != staged.partitioned:
            changed = [f"{PARTITION}: {'present → absent' if stored.partitioned else 'absent → present'}"]
        if changed:
            raise LakeError(
                f"Table '{table}'",
                expected="the columns that it already has",
                found=f"{len(changed)} that differ: {listed(changed)}",
                fix="Write the same columns. After a change of the contract of a dataset, change its history first: "
                "`ml-platform dataset evolve NAME`.",
            )


def _has_columns(rows: pl.LazyFrame, schema: Mapping[str, pl.DataType]) -> bool:
    """Return whether the files of ``rows`` have the columns of ``schema`` in the types in which files store them."""
    stored = vectors_as_lists(pl.DataFrame(schema=schema)).schema
    return dict(rows.collect_schema()) == dict(stored)


def _groups(segments: Sequence[Segment], target_bytes: int | None) -> list[list[Segment]]:
    """Return the segments to merge, in their order: all of them, or groups of small ones of about ``target_bytes``."""
    if target_bytes is None:
        return [list(segments)]
    groups: list[list[Segment]] = [[]]
    for each in segments:
        if each.size_bytes >= target_bytes:
            continue
        groups[-1].append(each)
        if sum(one.size_bytes for one in groups[-1]) >= target_bytes:
            groups.append([])
    return groups


def _storable(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` in the types that Delta supports, so that a read returns the rows that were written."""
    untyped = [name for name, dtype in frame.schema.items() if dtype == pl.Null]
    if untyped:
        raise LakeError(
            f"Table '{table}'",
            expected="a type for every column",
            found=f"only nulls, without a type, in {listed(untyped)}",
            fix="Cast these columns before storing them.",
        )
    beyond = [
        name
        for name in frame.select(cs.by_dtype(pl.UInt64, pl.Int128, pl.UInt128)).columns
        if frame[name].cast(pl.Int64, strict=False).null_count() > frame[name].null_count()
    ]
    if beyond:
        raise LakeError(
            f"Table '{table}'",
            expected="whole numbers of 64 bits with a sign",
            found=f"larger ones in {listed(beyond)}",
            fix="Store them as decimals with scale 0, or as text.",
        )
    return frame.with_columns(
        (cs.unsigned_integer() | cs.by_dtype(pl.Int128)).cast(pl.Int64),
        (cs.categorical() | cs.enum()).cast(pl.String),
        cs.datetime(time_zone=None).dt.cast_time_unit("us"),
        cs.datetime(time_zone="*").dt.cast_time_unit("us"),
        cs.duration().dt.cast_time_unit("us"),
    )
