"""The lake: Delta tables under one root, local or in S3; overwriting a partition makes a new version of its table.

Readers never wait for writers, because a scan is pinned to one version and a version never changes.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import polars.selectors as cs

from ml_platform.data.digest import content_hash
from ml_platform.errors import PlatformError, did_you_mean, listed

if TYPE_CHECKING:
    from deltalake import DeltaTable

PARTITION = "partition"
"""The column by which tables are partitioned."""

COMMIT_ATTEMPTS = 20
"""Number of attempts of a write that loses the race to commit; each attempt starts from the winner's version."""


class LakeError(PlatformError):
    """Raised when a requested table, version or partition does not exist, or a write cannot be committed."""


@dataclass(frozen=True)
class TableVersion:
    """Result of one write: the version of the table, and the count, stored bytes and content hash of its rows."""

    table: str
    version: int
    rows: int
    size_bytes: int
    sha256: str


class Lake:
    """Tables by name, like ``datasets/orders``, under ``root`` (a folder or ``s3://bucket/prefix``)."""

    def __init__(self, root: str, storage_options: dict[str, str] | None = None) -> None:
        self.root = root.rstrip("/")
        self.storage_options = storage_options

    def write(self, table: str, frame: pl.DataFrame, partition: str | None) -> TableVersion:
        """Replace ``partition`` of ``table`` (the whole table if None) by ``frame`` and return the new version.

        The column ``partition`` is added, or overwritten. When the partition already has equal content, nothing is
        written and the current version is returned, so that pinned versions do not change.

        Writers of different partitions may run at the same time: one that loses the race to commit starts again from
        the winner's version. Raises :class:`LakeError` when the columns differ from those of the table, or the writer
        loses the race ``COMMIT_ATTEMPTS`` times.
        """
        from deltalake import CommitProperties, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        content = _storable(table, frame.drop(PARTITION, strict=False))
        digest = content_hash(content)
        note = json.dumps({"partition": partition, "rows": content.height, "sha256": digest}, sort_keys=True)
        stored = content if partition is None else content.with_columns(pl.lit(partition).alias(PARTITION))
        write = uuid.uuid4().hex
        commit = CommitProperties(custom_metadata={"content": note, "write": write})
        for _attempt in range(COMMIT_ATTEMPTS):
            target = self._open(table)
            if target is not None and partition is not None:
                self._require_same_columns(table, pl.scan_delta(target).collect_schema(), stored.schema)
            if target is not None and _current_contents(target).get(partition, {}).get("sha256") == digest:
                return TableVersion(table, target.version(), content.height, _size_bytes(target, partition), digest)
            try:
                if target is None:
                    partition_by = None if partition is None else [PARTITION]
                    write_deltalake(
                        self._uri(table),
                        stored,
                        mode="error",
                        partition_by=partition_by,
                        storage_options=self.storage_options,
                        commit_properties=commit,
                    )
                else:
                    write_deltalake(
                        target,
                        stored,
                        mode="overwrite",
                        predicate=None if partition is None else f"{PARTITION} = '{partition}'",
                        # The whole of an unpartitioned table is replaced, so its columns may change.
                        schema_mode="overwrite" if partition is None else None,
                        commit_properties=commit,
                    )
            except CommitFailedError:
                continue
            except (DeltaError, FileExistsError) as error:
                # Two writers created the same table: the loser writes to it at the next attempt.
                if target is None and self.exists(table):
                    continue
                raise LakeError(
                    f"Table '{table}'",
                    expected="a committed write",
                    found=str(error),
                    fix="Remove the cause named above and write again.",
                ) from error
            written = self._committed_by(table, write)
            size = _size_bytes(written, partition)
            return TableVersion(table, written.version(), content.height, size, digest)
        raise LakeError(
            f"Table '{table}', partition {partition}",
            expected="a committed write",
            found=f"{COMMIT_ATTEMPTS} attempts lost to other writers",
            fix="Write again when fewer writers are running.",
        )

    def scan(self, table: str, version: int | None = None, partitions: Sequence[str] | None = None) -> pl.LazyFrame:
        """Return ``table`` as of ``version`` (the latest if None), reduced to ``partitions`` if these are given.

        Raises :class:`LakeError` when the table, the version or one of the partitions does not exist. An absent
        partition would otherwise read as an empty one.
        """
        opened = self._open_version(table, version)
        rows = pl.scan_delta(opened)
        if partitions is None:
            return rows
        existing = _partitions(opened)
        absent = [name for name in partitions if name not in existing]
        if absent:
            raise LakeError(
                f"Table '{table}', version {opened.version()}",
                expected=f"partitions {listed(absent)}",
                found=f"{len(existing)} partitions: {listed(existing)}",
                fix="Materialize the missing partitions first.",
            )
        return rows.filter(pl.col(PARTITION).is_in(list(partitions)))

    def exists(self, table: str) -> bool:
        """Return whether ``table`` has at least one version."""
        from deltalake import DeltaTable

        return bool(DeltaTable.is_deltatable(self._uri(table), self.storage_options))

    def version(self, table: str) -> int | None:
        """Return the latest version of ``table``, or None if it does not exist."""
        opened = self._open(table)
        return None if opened is None else opened.version()

    def partitions(self, table: str, version: int | None = None) -> list[str]:
        """Return the partitions of ``table`` as of ``version``, sorted; empty if the table does not exist."""
        if version is None and not self.exists(table):
            return []
        return _partitions(self._open_version(table, version))

    def digests(self, table: str) -> dict[str | None, str]:
        """Return the content hash of each partition as last written (key None for a table without partitions).

        The hashes come from the commits, without reading data; empty if the table does not exist.
        """
        opened = self._open(table)
        return {} if opened is None else {name: note["sha256"] for name, note in _current_contents(opened).items()}

    def drop_partitions(self, table: str, partitions: Sequence[str]) -> int | None:
        """Remove ``partitions`` from ``table``; return the new version, or None if none of them existed.

        Older versions keep the rows until the table is vacuumed.
        """
        existing = [name for name in partitions if name in self.partitions(table)]
        opened = self._open(table)
        if opened is None or not existing:
            return None
        opened.delete(f"{PARTITION} IN ({', '.join(repr(name) for name in existing)})")
        return opened.version()

    def _uri(self, table: str) -> str:
        return f"{self.root}/{table}"

    def _open(self, table: str) -> "DeltaTable | None":
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self._uri(table), storage_options=self.storage_options)
        except TableNotFoundError:
            return None

    def _committed_by(self, table: str, write: str) -> "DeltaTable":
        """Return ``table`` at the version that ``write`` made; other writers may have added later versions.

        The table object of the write is not enough: after a lost race it can still show the version it started from.
        """
        from deltalake import DeltaTable

        while True:
            latest = self._open_version(table, None)
            history = latest.history()
            # History reads the log as it is now. Its first entry is `latest` only if no version was added meanwhile.
            if self.version(table) == latest.version():
                position = next(position for position, commit in enumerate(history) if commit.get("write") == write)
                return DeltaTable(self._uri(table), latest.version() - position, self.storage_options)

    def _open_version(self, table: str, version: int | None) -> "DeltaTable":
        opened = self._open(table)
        if opened is None:
            raise LakeError(
                f"Table '{table}'",
                expected=f"a table under {self.root}",
                found=f"none of this name.{did_you_mean(table, self._tables())}".rstrip("."),
                fix=f"Materialize '{table}' first.",
            )
        if version is None:
            return opened
        latest = opened.version()
        if not 0 <= version <= latest:
            raise LakeError(
                f"Table '{table}'",
                expected=f"version {version}",
                found=f"versions 0 to {latest}",
                fix="Request one of these versions.",
            )
        opened.load_as_version(version)
        return opened

    def _tables(self) -> list[str]:
        logs = Path(self.root).glob("**/_delta_log") if "://" not in self.root else iter(())
        return sorted(log.parent.relative_to(self.root).as_posix() for log in logs)

    def _require_same_columns(self, table: str, before: pl.Schema, after: pl.Schema) -> None:
        # Delta would silently cast values, or fill absent columns with nulls.
        changed = [
            f"{name}: {before.get(name, 'absent')} → {after.get(name, 'absent')}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        if changed:
            raise LakeError(
                f"Table '{table}'",
                expected="the columns that it already has",
                found=f"{len(changed)} that differ: {listed(changed)}",
                fix="Write the same columns, or drop the table and write all partitions again.",
            )


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
    return frame.with_columns(
        cs.unsigned_integer().cast(pl.Int64),
        (cs.categorical() | cs.enum()).cast(pl.String),
        cs.datetime(time_zone=None).dt.cast_time_unit("us"),
        cs.datetime(time_zone="*").dt.cast_time_unit("us"),
    )


def _size_bytes(opened: "DeltaTable", partition: str | None) -> int:
    files = pl.DataFrame(opened.get_add_actions(flatten=True))
    if partition is not None:
        files = files.filter(pl.col(f"partition.{PARTITION}") == partition)
    return int(files["size_bytes"].sum())


def _current_contents(opened: "DeltaTable") -> dict[str | None, dict[str, Any]]:
    """Return the note of the last write of each current partition, including partitions without rows."""
    existing = {*_partitions(opened), None}
    # History comes latest first; reversed, the last note of a partition wins.
    notes = [json.loads(commit["content"]) for commit in reversed(opened.history()) if "content" in commit]
    latest = {note["partition"]: note for note in notes}
    return {name: note for name, note in latest.items() if name in existing or not note["rows"]}


def _partitions(opened: "DeltaTable") -> list[str]:
    return sorted({values[PARTITION] for values in opened.partitions() if values.get(PARTITION) is not None})
