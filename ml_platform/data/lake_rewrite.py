"""Rewrites all rows of a table in one version, such as after a change of its columns; earlier versions keep theirs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby

import polars as pl

from ml_platform.data.lake import PARTITION, Lake, LakeError
from ml_platform.data.lake_catalog import combined_digest
from ml_platform.state.schema import WHOLE


@dataclass(frozen=True)
class RewrittenTable:
    """The new version of a table, and the content digests of each partition before and after it.

    The partition is empty for a table without partitions.
    """

    version: int
    digests: Mapping[str, tuple[str, str]]


def rewrite(
    lake: Lake,
    table: str,
    change: Callable[[str, pl.DataFrame], pl.DataFrame],
    on_record: Callable[[RewrittenTable], object],
) -> RewrittenTable:
    """Replace each partition of ``table`` by ``change(partition, rows)`` in one version of the table.

    One partition is in memory at a time. ``on_record`` is called in the transaction that records the version; a process
    that is killed before has changed nothing, and its files are deleted by cleaning. Raises
    :class:`~ml_platform.data.lake.LakeError` when another process wrote to the table meanwhile.
    """
    stored = lake.catalog.table(table)
    if stored is None:
        raise LakeError(f"Table '{table}'", expected="a table", found="none", fix=f"Materialize '{table}' first.")
    segments = lake.catalog.segments(table)
    columns = change(WHOLE, stored.columns.clear())
    staged, digests = [], {}
    for partition, group in groupby(segments, key=lambda each: each.partition):
        old = list(group)
        rows = lake.scan_segments(table, old).collect().drop(PARTITION, strict=False)
        new = lake.stage(table, change(partition, rows), partition if stored.partitioned else None)
        staged.append(new.segment)
        digests[partition] = (combined_digest(each.digest for each in old), new.segment.sha256)
    with lake.state.write():
        current = lake.catalog.segments(table, with_files=False)
        if {each.id for each in current} != {each.id for each in segments}:
            raise LakeError(
                f"Table '{table}'",
                expected=f"version {stored.version}, as when the change began",
                found="rows that another process wrote meanwhile",
                fix="Run the command again when no run writes to the table.",
            )
        version = lake.catalog.record(
            table, columns, partitioned=stored.partitioned, added=staged, replaced=[each.id for each in segments]
        )
        rewritten = RewrittenTable(version, digests)
        on_record(rewritten)
    lake.publish(table)
    return rewritten
