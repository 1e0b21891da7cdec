"""The move of a table's current rows to another name: copy first, then record both tables in one transaction.

The table of the old name keeps its earlier versions, because models pin them by that name.
"""

from dataclasses import dataclass, replace
from itertools import groupby

import polars as pl

from ml_platform.data.lake import PARTITION, Lake
from ml_platform.data.lake_catalog import NewSegment, combined_digest
from ml_platform.steps.lifecycle import LifecycleError


@dataclass(frozen=True)
class CopiedTable:
    """The rows of ``source`` in files of ``target`` that belong to no version yet; ``segments`` are ids of the source.

    ``columns`` is an empty frame, and None for a table that does not exist.
    """

    source: str
    target: str
    columns: pl.DataFrame | None
    partitioned: bool
    segments: tuple[int, ...]
    copies: tuple[NewSegment, ...]


def copy_rows(lake: Lake, source: str, target: str) -> CopiedTable:
    """Copy the current rows of ``source``, partition by partition; nothing reads the copies before the move."""
    stored = lake.catalog.table(source)
    if stored is None:
        return CopiedTable(source, target, None, False, (), ())
    segments, copies = lake.catalog.segments(source), []
    for partition, group in groupby(segments, key=lambda each: each.partition):
        parts = list(group)
        rows = lake.scan_segments(source, parts).collect().drop(PARTITION, strict=False)
        copied = lake.stage(target, rows, partition if stored.partitioned else None)
        # Records name the digest of the partition, which may have had several segments.
        copies.append(replace(copied.segment, digest=combined_digest(each.digest for each in parts)))
    ids = tuple(each.id for each in segments)
    return CopiedTable(source, target, stored.columns, stored.partitioned, ids, tuple(copies))


def record_move(lake: Lake, copied: CopiedTable, subject: str) -> int | None:
    """Record the copies as the rows of the target, and none in the source, in the current transaction.

    Returns the version of the target, or None without a source. Raises
    :class:`~ml_platform.steps.lifecycle.LifecycleError` when another process changed the source since the copy.
    """
    current = {each.id for each in lake.catalog.segments(copied.source, with_files=False)}
    if current != set(copied.segments):
        raise LifecycleError(
            subject,
            expected="no change while its rows are copied",
            found="rows that another process wrote meanwhile",
            fix="Run the command again when no run writes to the table.",
        )
    if copied.columns is None:
        return None
    kind = {"partitioned": copied.partitioned}
    empty = [each.id for each in lake.catalog.segments(copied.target, with_files=False)]
    version = lake.catalog.record(copied.target, copied.columns, **kind, added=list(copied.copies), replaced=empty)
    lake.catalog.record(copied.source, copied.columns, **kind, added=[], replaced=list(copied.segments))
    return version
