"""Means over the last events of an entity, at each of its events, without events older than 30 days."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from assets.aviation.features.movements import DAY, NIGHT_UTC, instants

REMEMBERED_DAYS = 30
"""Events before that are not among the last few, however few there were: every build then sees the same ones."""

CODE = "_code"
TIES = ["due", "left", "block"]
"""Columns that order the events of one minute: flights equal in all of these are equal in every delay."""

ORDER = "_order"
MINUTES = 2**32
"""More minutes than there will be: a number times this, plus a minute, sorts by both at once and fast."""


class Sequences:
    """Events sorted by entity and minute, so that the events of an entity are adjacent.

    ``rows`` has the columns of ``entity``, ``at`` in minutes since 1970, due, left, block and the values. Of events in
    the same minute, the one that was due later comes later, so the order of ``rows`` does not matter.
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
        """Return ``<name>_last_<count>`` (float32, shape (events,)) per name and its column, the event included."""
        columns = {}
        for name, value in values.items():
            total = np.concatenate([[0], np.cumsum(self.rows[value].to_numpy().astype(np.int64))])
            for count in counts:
                first = np.maximum(self._oldest, self._place - count + 1)
                mean = (total[1:] - total[first]) / (self._place - first + 1)
                columns[f"{name}_last_{count}"] = mean.astype(np.float32)
        return columns

    def within(self, minutes: int) -> np.ndarray:
        """Return the number of events of the entity in the last ``minutes``, the event included; shape (events,)."""
        return self._place - self._first_since(minutes, "right") + 1  # type: ignore[no-any-return]

    def today(self) -> np.ndarray:
        """Return the number of events of the entity since the last 08:00 UTC, the event included; shape (events,)."""
        at = self.rows[self.at].to_numpy().astype(np.int64)
        night = (at - NIGHT_UTC) // DAY * DAY + NIGHT_UTC
        return self._place - np.searchsorted(self._ordered, self._codes + night, side="left") + 1

    def facts(self, columns: Mapping[str, np.ndarray], *kept: pl.Expr) -> pl.DataFrame:
        """Return one row per event (entity…, known_at, kept…, columns…), sorted by known_at and entity."""
        values = [pl.Series(name, array) for name, array in columns.items()]
        known_at = instants(pl.col(self.at)).alias("known_at")
        by_time = (pl.col(self.at).cast(pl.Int64) * MINUTES + pl.col(CODE)).alias(ORDER)
        facts = self.rows.select(*self.entity, known_at, *kept, *values, by_time)
        return facts.sort(ORDER, maintain_order=True).drop(ORDER)

    def _first_since(self, minutes: int, side: str) -> np.ndarray:
        return np.searchsorted(self._ordered, np.maximum(self._ordered - minutes, self._codes), side=side)  # type: ignore[call-overload, no-any-return]


def coded(rows: pl.DataFrame, entity: list[str]) -> pl.DataFrame:
    """Return ``rows`` with a number per entity, in the order of the entities, because numbers sort faster than text."""
    entities = rows.select(entity).unique().sort(entity).with_row_index(CODE)
    return rows.join(entities, on=entity, how="left", maintain_order="left")
