"""Results from Dagster's instance for the pages, read again after some seconds."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

SECONDS_KEPT = 10.0
"""Time for which a result is shown without reading again, so that many open pages cost as much as one."""

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Recent(Generic[Key, Found]):
    """The result of ``read`` for the latest key; only that one is kept."""

    def __init__(self, read: Callable[[Key], Found], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[Key, float, Found] | None = None

    def current(self, key: Key) -> Found:
        """Return the result for ``key``, at most :data:`SECONDS_KEPT` old."""
        with self._lock:
            kept = self._kept
            if kept is None or kept[0] != key or self._clock() - kept[1] >= SECONDS_KEPT:
                found = self._read(key)
                kept = self._kept = (key, self._clock(), found)
            return kept[2]
