"""Events of a step that are stored together, because each transaction of an SQLite file costs milliseconds.

Dagster stores each event in a transaction of its own, with a connection of its own. A step of ten events would spend
most of its time there, and steps in parallel would wait for one another.
"""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from dagster import EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from sqlalchemy.engine import Connection

FLUSH_SECONDS = 0.3
"""Time for which an event may wait; the UI shows it that much later."""


class BufferedEvents(SqliteEventLogStorage):
    """The event log in the folder ``base_dir``, which stores the events of this process in groups.

    A read of this process sees all its events, because it stores the waiting ones first. They are stored
    :data:`FLUSH_SECONDS` after the first of them, or by :meth:`flush`. A killed process loses those that wait.
    """

    def __init__(self, base_dir: str) -> None:
        self._waiting: list[EventLogEntry] = []
        self._guard = threading.RLock()
        self._timer: threading.Timer | None = None
        self._index: Connection | None = None
        self._tables: dict[str, bool] = {}
        super().__init__(base_dir)

    def store_event(self, event: EventLogEntry) -> None:
        """Store ``event`` together with those before and after it; an event of the run itself is stored at once."""
        if event.dagster_event is not None and event.dagster_event.is_job_event:
            self.flush()
            super().store_event(event)
            return
        with self._guard:
            self._waiting.append(event)
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Store the waiting events."""
        with self._guard:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            events, self._waiting = self._waiting, []
            if events:
                self._store(events)

    def has_table(self, table_name: str) -> bool:
        """Return whether the index has this table; the first answer stays, because no step migrates the index."""
        if table_name not in self._tables:
            self._tables[table_name] = super().has_table(table_name)
        return self._tables[table_name]

    def _store(self, events: Sequence[EventLogEntry]) -> None:
        """Do what `store_event` of the parent class does for each event, in one transaction per file."""
        for run_id in dict.fromkeys(each.run_id for each in events):
            with super()._connect(run_id) as connection:
                for each in events:
                    if each.run_id == run_id:
                        connection.execute(self.prepare_insert_event(each))
        mirrored = [each for each in events if _is_one_of(each, ASSET_EVENTS | ASSET_CHECK_EVENTS)]
        if not mirrored:
            return
        with super()._connect(INDEX_SHARD_NAME) as self._index:
            try:
                for each in mirrored:
                    event_id = self._index.execute(self.prepare_insert_event(each)).inserted_primary_key[0]  # type: ignore[index]
                    if _is_one_of(each, ASSET_EVENTS):
                        self._store_asset_event_tags(self._index, [each], [event_id])
                        self._store_asset_event(self._index, each, event_id)
                    else:
                        self.store_asset_check_event(each, event_id)
            finally:
                self._index = None

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """Open the file of ``shard`` after the waiting events are stored, or join the transaction that stores them."""
        with self._guard:
            if self._index is not None and shard == INDEX_SHARD_NAME:
                yield self._index
                return
        self.flush()
        with super()._connect(shard) as connection:
            yield connection


def _is_one_of(event: EventLogEntry, kinds: Collection[object]) -> bool:
    return event.is_dagster_event and event.dagster_event_type in kinds
