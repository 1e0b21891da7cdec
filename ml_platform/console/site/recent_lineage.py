"""The recorded lineage of views for the pages, read from Dagster again after some seconds."""

import threading
import time
from collections.abc import Callable, Collection, Mapping

import dagster as dg

from ml_platform.console.lineage import RecordedLineage, recorded_lineage

SECONDS_KEPT = 10.0
"""Time for which a record is shown without reading again, so that many open pages cost as much as one."""


class RecentLineage:
    """The lineage that materializations recorded in ``instance``."""

    def __init__(self, instance: dg.DagsterInstance, clock: Callable[[], float] = time.monotonic) -> None:
        self._instance = instance
        self._clock = clock
        self._lock = threading.Lock()
        self._read: dict[frozenset[str], tuple[float, Mapping[str, RecordedLineage]]] = {}

    def current(self, views: Collection[str]) -> Mapping[str, RecordedLineage]:
        """Return the record of each of ``views`` by name, at most :data:`SECONDS_KEPT` old."""
        wanted = frozenset(views)
        with self._lock:
            at, found = self._read.get(wanted, (float("-inf"), {}))
            if self._clock() - at >= SECONDS_KEPT:
                found = recorded_lineage(self._instance, sorted(wanted))
                # Only the latest set is kept: there is one for all views of the project.
                self._read = {wanted: (self._clock(), found)}
            return found
