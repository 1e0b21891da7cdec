"""The last few events of an entity, at each of its events: means over the last 2, 5 or 20, none older than 30 days."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from assets.aviation.features.movements import DAY, NIGHT_UTC, instants

REMEMBERED_DAYS = 30
"""Events before that are not among the last few, however few there were: every build then sees the same ones."""

CODE = "_code"
TIES = ["due", "left", "block"]
"""What orders events of one minute: flights equal in all of these are equal in every delay."""

ORDER = "_order"
MINUTES = 2**32
"""More minutes than there will be: a number times this, plus a minute, sorts by both at once and fast."""


class Sequences:
    """Events in order of entity and minute, so that the events of an entity stand side by side.

    ``rows``: entity…, ``at`` in minutes since 1970, due, left, block, values…; of events in the same minute the one
    that was due later comes later, so that the order of the rows given does not matter.
    """

    def __init__(self, rows: pl.DataFrame, entity: list[str], at: str) -> None:
        self.entity, self.at = entity, at
        order = pl.col(CODE).cast(pl.Int64) * MINUTES + pl.col(at)
        self.rows = coded(rows, entity).with_columns(order.alias(ORDER)).sort(ORDER, *TIES)
        self._codes = self.rows[CODE].to_numpy().astype(np.int64) * MINUTES
        self._ordered = self.rows[ORDER].to_numpy()
        self._place = np.arange(self.rows.height)
        self._oldest = self._first_since(REMEMBERED_DAYS * DAY, "left")

    def means(self, values: Mapping[str, str], counts: Sequence[int]) -> dict[str, np.ndarray]:
        """Return ``<name>_last_<count>`` (float32) for each name and its column: the event itself is the last one."""
        columns = {}
        for name, value in values.items():
            total = np.concatenate([[0], np.cumsum(self.rows[value].to_numpy().astype(np.int64))])
            for count in counts:
                first = np.maximum(self._oldest, self._place - count + 1)
                mean = (total[1:] - total[first]) / (self._place - first + 1)
                columns[f"{name}_last_{count}"] = mean.astype(np.float32)
        return columns

    def within(self, minutes: int) -> np.ndarray:
        """Return how many events of the entity there were in the last ``minutes``, the event itself included."""
        return self._place - self._first_since(minutes, "right") + 1

    def today(self) -> np.ndarray:
        """Return how many events of the entity there were since the last 08:00 UTC, the event itself included."""
        at = self.rows[self.at].to_numpy().astype(np.int64)
        night = (at - NIGHT_UTC) // DAY * DAY + NIGHT_UTC
        return self._place - np.searchsorted(self._ordered, self._codes + night, side="left") + 1

    def facts(self, columns: Mapping[str, np.ndarray], *kept: pl.Expr) -> pl.DataFrame:
        """Return rows (entity…, known_at, kept…, columns…), sorted by known_at and entity."""
        values = [pl.Series(name, array) for name, array in columns.items()]
        known_at = instants(pl.col(self.at)).alias("known_at")
        by_time = (pl.col(self.at).cast(pl.Int64) * MINUTES + pl.col(CODE)).alias(ORDER)
        facts = self.rows.select(*self.entity, known_at, *kept, *values, by_time)
        return facts.sort(ORDER, maintain_order=True).drop(ORDER)

    def _first_since(self, minutes: int, side: str) -> np.ndarray:
        return np.searchsorted(self._ordered, np.maximum(self._ordered - minutes, self._codes), side=side)  # type: ignore[call-overload]


def coded(rows: pl.DataFrame, entity: list[str]) -> pl.DataFrame:
    """Return ``rows`` with a number per entity, in the order of the entities: numbers sort faster than texts."""
    entities = rows.select(entity).unique().sort(entity).with_row_index(CODE)
    return rows.join(entities, on=entity, how="left", maintain_order="left")
