"""The unresolved failures of the Dagster instance for the home page, read again after some seconds."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from ml_platform.console.failures import unresolved_failures

SECONDS_KEPT = 10.0
"""Time for which the failures are shown without reading again, so that many open pages cost as much as one."""

FAILURES_SHOWN = 8


class RecentFailures:
    """The failures of ``instance``, as :func:`~ml_platform.console.failures.unresolved_failures` returns them."""

    def __init__(self, instance: dg.DagsterInstance, clock: Callable[[], float] = time.monotonic) -> None:
        self._instance = instance
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._failures: Sequence[Mapping[str, Any]] = ()

    def current(self) -> Sequence[Mapping[str, Any]]:
        """Return the failures, at most :data:`SECONDS_KEPT` old."""
        with self._lock:
            if self._clock() - self._read_at >= SECONDS_KEPT:
                self._failures = unresolved_failures(self._instance, FAILURES_SHOWN)
                self._read_at = self._clock()
            return self._failures
