"""The ids of the stored predictions of a few days in memory, so that no line is stored twice.

An id takes eight bytes: the 64-bit hash of its text. Two of ten million different ids of one day have the same hash
with a probability of 3 in a million; the later one would count as a duplicate.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

MAX_IDS = 32_000_000
"""Ids in memory above which the day that was used least recently is forgotten; 256 MB."""

PREDICTION_ID = "prediction_id"

_Hashes = NDArray[np.uint64]


def hashed_ids() -> pl.Expr:
    """Return the 64-bit hash of the column ``prediction_id``."""
    return pl.col(PREDICTION_ID).hash(seed=0)


class KnownIds:
    """Hashes of ids by day; ``read`` returns those that are stored for a day, on the first query for it."""

    def __init__(self, read: Callable[[str], pl.Series], max_ids: int = MAX_IDS) -> None:
        self._read = read
        self._max_ids = max_ids
        self._days: OrderedDict[str, list[_Hashes]] = OrderedDict()

    def are_new(self, day: str, rows: pl.DataFrame) -> pl.Series:
        """Return for each row of ``rows`` whether its id is not yet known for ``day``."""
        hashes = _hashes(rows)
        known = np.zeros(len(hashes), dtype=bool)
        for part in self._parts(day):
            at = np.searchsorted(part, hashes)
            known |= part[np.minimum(at, len(part) - 1)] == hashes
        return pl.Series(~known)

    def add(self, day: str, rows: pl.DataFrame) -> None:
        """Remember the ids of ``rows``, which were stored."""
        parts = self._parts(day)
        parts.append(np.sort(_hashes(rows)))
        # Merge parts of similar size, so that a day has few parts and each id is merged few times.
        while len(parts) > 1 and len(parts[-2]) < 2 * len(parts[-1]):
            last = parts.pop()
            parts[-1] = np.sort(np.concatenate([parts[-1], last]))
        while len(self._days) > 1 and sum(len(part) for each in self._days.values() for part in each) > self._max_ids:
            self._days.popitem(last=False)

    def _parts(self, day: str) -> list[_Hashes]:
        if day not in self._days:
            stored = np.sort(self._read(day).to_numpy())
            self._days[day] = [stored] if len(stored) else []
        self._days.move_to_end(day)
        return self._days[day]


def _hashes(rows: pl.DataFrame) -> _Hashes:
    return rows.select(hashed_ids()).to_series().to_numpy()
