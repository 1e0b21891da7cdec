"""The online store's protocol: the last fact of each entity, for all views of a request in one call.

Two implementations: `snapshot.py` (memory-mapped files, the default) and `valkey.py` (a server, where many machines
serve). Both return what was published, however old; whether it may still be used is decided by the reader, who knows
the time of the prediction: see :meth:`Lookup.frame`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np
import polars as pl

from ml_platform.features.view import AS_OF, INSTANT, KNOWN_AT, FeatureView

ABSENT = np.iinfo(np.int64).min
"""The known_at (microseconds) of an entity of which nothing is known."""

FEW_ROWS = 16
_MICROSECONDS = 60_000_000


@dataclass(frozen=True)
class Snapshot:
    """What is published of one view: the last fact of each entity, all known before ``watermark``."""

    view: FeatureView
    frame: pl.DataFrame
    watermark: datetime

    def known_at(self) -> np.ndarray:
        """Return when each fact became known (n, int64): microseconds since 1970 in UTC."""
        return self.frame[KNOWN_AT].cast(INSTANT).to_physical().to_numpy()

    def matrix(self) -> tuple[np.ndarray, dict[str, list[str]]]:
        """Return the values (n × columns, float64) and the categories of each column of text.

        NaN for null, a category as its place among the categories, an instant in microseconds: all exact in float64.
        """
        values = np.full((self.frame.height, len(self.view.dtypes)), np.nan)
        categories: dict[str, list[str]] = {}
        for place, (name, dtype) in enumerate(self.view.dtypes.items()):
            column = self.frame[name].cast(dtype)
            if dtype == pl.String:
                found = column.drop_nulls().unique().sort()
                categories[name] = found.to_list()
                codes = pl.Series(range(len(found)), dtype=pl.Float64)
                column = column.replace_strict(found, codes, default=None, return_dtype=pl.Float64)
            elif dtype == INSTANT:
                column = column.to_physical()
            values[:, place] = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return values, categories


@dataclass(frozen=True)
class Publication:
    """What became of a snapshot: published, or refused because what stands is of a later watermark."""

    view: str
    published: bool
    entities: int
    watermark: datetime
    size_bytes: int


@dataclass(frozen=True)
class Lookup:
    """The answer for n rows and v views.

    ``values`` (n × all columns of all views in order, float64): NaN for null, a category as its place in
    ``categories[column]``, an instant in microseconds. ``known_at`` (n × v, int64): microseconds since 1970 in UTC,
    :data:`ABSENT` where nothing is known of the entity. ``watermarks``: the data clock of each view's snapshot.
    """

    views: Sequence[FeatureView]
    values: np.ndarray
    known_at: np.ndarray
    watermarks: dict[str, datetime]
    categories: dict[str, list[str]]

    def as_of(self, predict_at: pl.Series) -> pl.Series:
        """Return the instant as of which the answer stands: predict_at, or the newest watermark where that is later.

        The second happens when a flight of last week is asked for: the answer is made with what is known today.
        """
        newest = max(self.watermarks.values(), default=datetime.fromtimestamp(0, UTC))
        floor = (newest - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
        asked = predict_at.cast(INSTANT).cast(pl.Int64).to_numpy()
        return pl.Series(AS_OF, np.maximum(asked, floor)).cast(INSTANT)

    def frame(self, as_of: pl.Series, names: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the columns ``<view>__…`` and ``<view>__age_minutes`` for an ``as_of`` per row (n, instants).

        Only those of the views in ``names`` where these are given. A fact older than its view's tolerance counts as
        missing: values and age are null.
        """
        ages = self.ages(as_of)
        usable = ~np.isnan(ages)
        columns: list[pl.Series] = []
        start = 0
        for place, view in enumerate(self.views):
            dtypes = view.dtypes
            end = start + len(dtypes)
            if names is None or view.name in names:
                block = np.where(usable[:, place, None], self.values[:, start:end], np.nan).T
                for raw, (name, dtype) in zip(block, dtypes.items(), strict=True):
                    columns.append(self._series(view.column(name), raw, dtype))
                columns.append(_numbers(view.age_column, ages[:, place], pl.Float32()))
            start = end
        return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(as_of))

    def ages(self, as_of: pl.Series) -> np.ndarray:
        """Return the age of each fact used, in minutes (n × v, float64); NaN where there is none or it is stale."""
        now = as_of.cast(INSTANT).cast(pl.Int64).to_numpy()[:, None]
        tolerance = np.array(
            [np.inf if view.tolerance_minutes is None else view.tolerance_minutes for view in self.views]
        )
        absent = self.known_at == ABSENT
        minutes = (now - np.where(absent, now, self.known_at)) / _MICROSECONDS
        return np.where(absent | (minutes > tolerance), np.nan, minutes)

    def _series(self, name: str, raw: np.ndarray, dtype: pl.DataType) -> pl.Series:
        if dtype == pl.String:
            known = self.categories.get(name, [])
            return pl.Series(name, [None if code != code else known[int(code)] for code in raw.tolist()], dtype)
        return _numbers(name, raw, dtype)


def _numbers(name: str, raw: np.ndarray, dtype: pl.DataType) -> pl.Series:
    if len(raw) <= FEW_ROWS:
        # For a few rows a list is several times faster than an array.
        listed = pl.Series(name, [None if value != value else value for value in raw.tolist()], pl.Float64)
    else:
        listed = pl.Series(name, raw, nan_to_null=True)
    return listed.cast(pl.Int64).cast(dtype) if dtype == INSTANT else listed.cast(dtype)


class OnlineStore(Protocol):
    """Where serving reads the last facts from."""

    def publish(self, snapshot: Snapshot) -> Publication:
        """Replace the snapshot of a view, unless what stands is of a later watermark. Readers see old or new."""

    def lookup(self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], rows: int) -> Lookup:
        """Return the last facts for ``rows`` rows of ``keys`` (entity column → a value per row, None where unknown)."""


def last_facts(view: FeatureView, log: pl.LazyFrame, watermark: datetime) -> Snapshot:
    """Return the snapshot of ``view``: the last fact of each entity that is known before ``watermark``.

    Facts older than the view's tolerance at the watermark are left out: no later prediction could use them. Of facts
    with the same known_at the last row of the log is taken, as in the point-in-time join.
    """
    facts = log.select(*view.entity, pl.col(KNOWN_AT).cast(INSTANT), *view.dtypes).filter(pl.col(KNOWN_AT) < watermark)
    if view.tolerance_minutes is not None:
        facts = facts.filter(pl.col(KNOWN_AT) >= watermark - timedelta(minutes=view.tolerance_minutes))
    ordered = facts.sort(KNOWN_AT, maintain_order=True)
    if not view.entity:
        return Snapshot(view, ordered.tail(1).collect(), watermark)
    last = ordered.unique(subset=view.entity, keep="last", maintain_order=True)
    return Snapshot(view, last.sort(view.entity).collect(), watermark)
