"""Finds what the lake no longer needs: replaced versions, tables of earlier code, and files that no version names.

A segment is marked as cleaned before its files are deleted. After a kill between the two, the files belong to no
segment, and a later cleaning finds them as orphans.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from ml_platform.data.lake import Lake
from ml_platform.data.lake_catalog import Segment
from ml_platform.data.leftovers import Leftover, instant_text
from ml_platform.state.schema import lake_segments

TABLE_VERSIONS = "table versions"
EARLIER_TABLES = "tables of earlier code"
ORPHAN_FILES = "orphan files"

SEGMENTS_AT_ONCE = 1_000
"""Segments that one transaction marks as cleaned; other writers wait for it."""


def replaced_versions(lake: Lake, replaced_before: Callable[[str], datetime | None]) -> Iterator[Leftover]:
    """Yield the segments that were replaced before the time for their table, and that no pin covers."""
    for table in lake.catalog.tables():
        limit = replaced_before(table)
        if limit is None:
            continue
        segments = lake.catalog.replaced_segments(table, instant_text(limit))
        for start in range(0, len(segments), SEGMENTS_AT_ONCE):
            chunk = segments[start : start + SEGMENTS_AT_ONCE]
            yield Leftover(
                TABLE_VERSIONS,
                [f"{table} {each.partition} version {each.version}".replace("  ", " ") for each in chunk],
                sum(each.size_bytes for each in chunk),
                _first_replacement(lake, chunk),
                _segment_removal(lake, table, chunk, limit),
            )


def earlier_tables(lake: Lake, current: Collection[str], written_before: datetime) -> Iterator[Leftover]:
    """Yield the tables of a code version that is not ``current``, that no pin names and nothing writes to.

    Their partitions are dropped from the latest version; the files follow with the replaced versions.
    """
    areas = {table.rpartition("/")[0] for table in current}
    pinned = {table for pins in lake.catalog.pins().values() for table, _ in pins}
    for table in lake.catalog.tables():
        if table in current or table in pinned or table.rpartition("/")[0] not in areas:
            continue
        segments = lake.catalog.segments(table, with_files=False)
        last = _last_write(lake, table)
        if segments and last is not None and last < written_before:
            partitions = sorted({each.partition for each in segments})
            yield Leftover(EARLIER_TABLES, [table], 0, last, _drop(lake, table, partitions))


def orphan_files(lake: Lake, changed_before: datetime) -> Iterator[Leftover]:
    """Yield the files of the lake that no segment names and that did not change since the given time.

    A Delta table that the catalog does not know may belong to another program and is left as it is.
    """
    tables = set(lake.catalog.tables())
    known: dict[str, set[str]] = {}
    found: dict[str, list[tuple[str, int, float]]] = {}
    listing = lake.files.everything()
    for path, size, modified in listing.files:
        if modified >= changed_before.timestamp():
            continue
        folders = _parents(path)
        table = next((folder for folder in folders if folder in tables), None)
        if table is None:
            if not any(folder in listing.delta_tables for folder in folders):
                found.setdefault("", []).append((path, size, modified))
            continue
        if table not in known:
            known[table] = lake.catalog.known_files(table)
        relative = path.removeprefix(f"{table}/")
        if relative not in known[table]:
            found.setdefault(table, []).append((relative, size, modified))
    for table, files in sorted(found.items()):
        yield Leftover(
            ORPHAN_FILES,
            [f"{table}/{path}".lstrip("/") for path, _, _ in files],
            sum(size for _, size, _ in files),
            datetime.fromtimestamp(min(modified for _, _, modified in files), UTC),
            _orphan_removal(lake, table, [path for path, _, _ in files]),
        )


def partitions_written_before(lake: Lake, table: str, limit: datetime) -> list[str]:
    """Return the current partitions of ``table`` to which nothing was added since ``limit``, sorted."""
    query = (
        sa.select(lake_segments.c.partition)
        .where(lake_segments.c.table_name == table, lake_segments.c.replaced_in.is_(None))
        .group_by(lake_segments.c.partition)
        .having(sa.func.max(lake_segments.c.written_at) < instant_text(limit))
    )
    with lake.state.read() as connection:
        return sorted(connection.scalars(query))


def _first_replacement(lake: Lake, segments: Sequence[Segment]) -> datetime | None:
    ids = [each.id for each in segments[:SEGMENTS_AT_ONCE]]
    query = sa.select(sa.func.min(lake_segments.c.replaced_at)).where(lake_segments.c.id.in_(ids))
    with lake.state.read() as connection:
        text = connection.scalar(query)
    return None if text is None else datetime.fromisoformat(text)


def _last_write(lake: Lake, table: str) -> datetime | None:
    query = sa.select(sa.func.max(lake_segments.c.written_at)).where(lake_segments.c.table_name == table)
    with lake.state.read() as connection:
        text = connection.scalar(query)
    return None if text is None else datetime.fromisoformat(text)


def _segment_removal(lake: Lake, table: str, segments: Sequence[Segment], limit: datetime) -> Callable[[], None]:
    def remove() -> None:
        with lake.state.write():
            # A pin may have come since the segments were found.
            unpinned = {each.id for each in lake.catalog.replaced_segments(table, instant_text(limit))}
            chosen = [each for each in segments if each.id in unpinned]
            lake.catalog.mark_cleaned([each.id for each in chosen])
            # A table of an earlier release may name a file in two segments.
            named = lake.catalog.known_files(table)
        lake.files.delete(table, [file.path for each in chosen for file in each.files if file.path not in named])

    return remove


def _orphan_removal(lake: Lake, table: str, paths: Sequence[str]) -> Callable[[], None]:
    def remove() -> None:
        named = lake.catalog.known_files(table)
        lake.files.delete(table, [path for path in paths if path not in named])

    return remove


def _drop(lake: Lake, table: str, partitions: Sequence[str]) -> Callable[[], bool]:
    return lambda: lake.drop_partitions(table, partitions) is not None


def _parents(path: str) -> list[str]:
    """Return the folders that contain ``path``, the innermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
