"""Tables of facts, partitioned by day and only appended to: one writer at a time, and a bounded number of files."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from ml_platform.data.lake import Lake

LOCK_SECONDS = 600.0
"""Time for which a writer waits for another one of the same table."""

COMPACTED_BYTES = 8 * 2**20
"""Stored size from which a segment is not merged with others; for predictions about 50 MB of log."""

MAX_SMALL_SEGMENTS = 8
"""Small segments of a closed day above which they are merged."""


@contextmanager
def writing_facts(lake: Lake, table: str) -> Iterator[None]:
    """Be the only writer of ``table`` in the body.

    Raises :class:`~ml_platform.state.store.StateLockedError`, which names the other writer, after ten minutes.
    """
    with lake.state.lock(f"facts/{table}", seconds=LOCK_SECONDS):
        yield


def compact_closed_days(lake: Lake, table: str, today: date) -> list[str]:
    """Merge the small segments of days before ``today`` (UTC) that have many; return these days.

    Later rows of a closed day are added as usual, and merged when there are many again.
    """
    if not lake.exists(table):
        return []
    with writing_facts(lake, table):
        small = lake.catalog.small_segments(table, COMPACTED_BYTES)
        days = [day for day, count in small.items() if day < today.isoformat() and count > MAX_SMALL_SEGMENTS]
        return [day for day in sorted(days) if lake.compact(table, day, target_bytes=COMPACTED_BYTES) is not None]
