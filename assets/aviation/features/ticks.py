"""Windows over events on a regular grid of instants, for example the last 60 minutes at every tenth minute.

An event of minute m counts from the first tick at or after m, and the row of a tick is known at that tick. Sums are
differences of cumulative sums of whole numbers, so they are exact and cost the same for every length of window.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from assets.aviation.features.movements import DAY, NIGHT_UTC
from ml_platform.features.change_log import Window


class Ticks:
    """The ticks of one window, ``step`` minutes apart, for the entities that occur in ``events``.

    ``reach`` is the longest window in minutes; earlier events all count at the first tick. Ticks are ``offset`` minutes
    after whole multiples of ``step``. Arrays of totals have the shape (ticks, entities) and include the ticks of the
    reach. ``now``, ``within`` and ``today`` return only the ticks of the window.
    """

    def __init__(
        self, events: pl.DataFrame, entity: list[str], window: Window, *, step: int, reach: int, offset: int = 0
    ) -> None:
        self.step = step
        self.entity = entity
        self._offset = offset
        first, last = (-(-(int(at.timestamp()) // 60 - offset) // step) for at in (window.start, window.end))
        self._lead = -(-reach // step) + 1
        self._base = first - self._lead
        self._ticks = np.arange(self._base, last)
        self.entities = events.select(entity).unique().sort(entity) if entity else pl.DataFrame({"": [0]})
        self.minutes = self._ticks[self._lead :, None] * step + offset

    def codes(self, events: pl.DataFrame) -> np.ndarray:
        """Return the column of each event's entity, shape (events,)."""
        if not self.entity:
            return np.zeros(events.height, dtype=np.int64)
        numbered = self.entities.with_row_index("_code")
        found = events.select(self.entity).join(numbered, on=self.entity, how="left", maintain_order="left")
        return found["_code"].to_numpy().astype(np.int64)

    def total(self, codes: np.ndarray, minutes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the number of events, or the sum of ``weights``, up to each tick; earlier than the reach included."""
        tick = np.maximum(-(-(minutes.astype(np.int64) - self._offset) // self.step) - self._base, 0)
        seen = tick < len(self._ticks)
        place = tick[seen] * self.entities.height + codes[seen]
        weights = None if weights is None else weights[seen].astype(np.float64)
        shape = (len(self._ticks), self.entities.height)
        # float64 represents whole numbers below 2⁵³ exactly.
        total = np.bincount(place, weights, minlength=shape[0] * shape[1]).astype(np.float64, copy=False).reshape(shape)
        return np.cumsum(total, axis=0, out=total)

    def now(self, total: np.ndarray) -> np.ndarray:
        """Return the total at each tick of the window."""
        return total[self._lead :]

    def within(self, total: np.ndarray, minutes: int) -> np.ndarray:
        """Return the growth of ``total`` in the last ``minutes`` before each tick, the tick included."""
        steps = minutes // self.step
        return total[self._lead :] - total[self._lead - steps : len(total) - steps]  # type: ignore[no-any-return]

    def today(self, total: np.ndarray) -> np.ndarray:
        """Return the growth of ``total`` since the last 08:00 UTC; needs a reach of a day."""
        minute = self.minutes[:, 0]
        night = (minute - NIGHT_UTC) // DAY * DAY + NIGHT_UTC
        return total[self._lead :] - total[-(-(night - self._offset) // self.step) - self._base]  # type: ignore[no-any-return]

    def facts(self, columns: Mapping[str, np.ndarray], selected: np.ndarray | None = None) -> pl.DataFrame:
        """Return rows (entity…, known_at, columns… as Float32), sorted by known_at and entity.

        ``selected`` (flags of shape (ticks, entities)) marks the rows; None means all of them.
        """
        count = self.entities.height
        kept = None if selected is None or selected.all() else np.flatnonzero(selected)
        rows = np.arange(len(self.minutes) * count) if kept is None else kept
        known_at = pl.Series("known_at", self.minutes[rows // count, 0] * 60_000_000).cast(pl.Datetime("us", "UTC"))
        values = {name: _flat(array, kept) for name, array in columns.items()}
        facts = pl.DataFrame([known_at, *(pl.Series(name, array) for name, array in values.items())])
        return self.entities[rows % count].hstack(facts) if self.entity else facts


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return ``total / count``, NaN where ``count`` is 0."""
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)  # type: ignore[no-any-return]


def _flat(array: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    flat = array.astype(np.float32).reshape(-1)
    return flat if kept is None else flat[kept]
