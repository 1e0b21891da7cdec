"""The online store's protocol: one call returns the last fact of each entity, for all views of a request.

Two implementations exist: `snapshot_store.py` (memory-mapped files, the default) and `valkey_store.py` (a server, for
serving on several machines). Both return the published facts, whatever their age. The reader knows the prediction time
and decides whether a fact is too old: see :meth:`LookupResult.ages`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from ml_platform.data.instants import microseconds_of
from ml_platform.features.exact_values import MAX_EXACT_INTEGER, beyond_float64
from ml_platform.features.key_types import KeyTypeError, require_storable_keys, typed_key
from ml_platform.features.row_columns import Numbers
from ml_platform.features.view import INSTANT, KNOWN_AT, FeatureView, ViewError

ABSENT = np.iinfo(np.int64).min
"""The known_at (microseconds) of an entity without a fact."""

_MICROSECONDS_PER_MINUTE = 60_000_000


@dataclass(frozen=True)
class Snapshot:
    """The facts of one view to publish: the last fact of each entity that is known before ``watermark``."""

    view: FeatureView
    frame: pl.DataFrame
    watermark: datetime

    def keys(self) -> list[pl.Series]:
        """Return the key columns in the order of the entity, in the types of :data:`.key_types.KEY_DTYPES`.

        Raises :class:`KeyTypeError` for keys of another type than the view declares, for a type that no key can have,
        and for keys that a store cannot keep exactly.
        """
        columns = []
        for name in self.view.entity:
            subject = f"Snapshot of feature view '{self.view.name}', key '{name}'"
            keys = typed_key(self.frame[name], self.view.key_types.get(name), subject)
            if keys.null_count() or keys.dtype == pl.Null:
                raise KeyTypeError(
                    subject,
                    expected="keys of type string, int or bool in every row",
                    found=f"{keys.null_count()} of {len(keys)} rows without one, in a column of {keys.dtype}",
                    fix="Leave out rows without an entity, and give the column a type.",
                )
            require_storable_keys(keys, subject)
            columns.append(keys)
        return columns

    def known_at(self) -> np.ndarray:
        """Return when each fact became known (n, int64): microseconds since 1970 in UTC."""
        return self.frame[KNOWN_AT].cast(INSTANT).to_physical().to_numpy()

    def matrix(self) -> tuple[np.ndarray, dict[str, list[str]]]:
        """Return the values (n × columns, float64) and the categories of each text column.

        Null is NaN, a category is its position among the sorted categories, an instant is in microseconds. Float64
        represents all of them exactly. Raises :class:`ViewError` for a whole number or an instant that it does not.
        """
        values = np.full((self.frame.height, len(self.view.dtypes)), np.nan)
        categories: dict[str, list[str]] = {}
        for position, (name, dtype) in enumerate(self.view.dtypes.items()):
            column = self.frame[name].cast(dtype)
            if dtype == pl.String:
                found = column.drop_nulls().unique().sort()
                categories[name] = found.to_list()
                codes = pl.Series(range(len(found)), dtype=pl.Float64)
                column = column.replace_strict(found, codes, default=None, return_dtype=pl.Float64)
            elif dtype in (INSTANT, pl.Int64):
                inexact = beyond_float64(column)
                if inexact.any():
                    raise ViewError(
                        f"Snapshot of feature view '{self.view.name}', column '{name}'",
                        expected=f"values within ±{MAX_EXACT_INTEGER}, which both reads keep exactly",
                        found=f"{inexact.sum()} beyond, the first {column.filter(inexact)[0]}",
                        fix="Declare the column as a category or a float, or return a smaller number.",
                    )
                column = column.to_physical()
            values[:, position] = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return values, categories


@dataclass(frozen=True)
class Publication:
    """Result of publishing a snapshot; ``published`` is False when the current snapshot has a later watermark.

    ``entities`` and ``watermark`` are those of the current snapshot after the call.
    """

    view: str
    published: bool
    entities: int
    watermark: datetime
    size_bytes: int


class LookupResult(NamedTuple):
    """Facts found for n rows and v views.

    ``values`` (n × all columns of all views in order, float64): null is NaN, a category is its position in
    ``categories[column]``, an instant is in microseconds. ``known_at`` (n × v, int64): microseconds since 1970 in UTC,
    or :data:`ABSENT` for an entity without a fact. ``watermarks``: the data clock of each view's snapshot, and
    ``latest_watermark`` the latest of them (see :func:`latest_of`).
    """

    views: Sequence[FeatureView]
    values: np.ndarray
    known_at: np.ndarray
    watermarks: dict[str, datetime]
    categories: dict[str, list[str]]
    latest_watermark: int

    def as_of(self, predict_at: Numbers) -> Numbers:
        """Return the instant to which the facts belong: the later of ``predict_at`` and the latest watermark, per row.

        Both are in microseconds (n, float64). The watermark is later for a prediction time in the past: the store has
        only the facts known today.
        """
        return np.maximum(predict_at, float(self.latest_watermark))

    def ages(self, as_of: Numbers, tolerances: Numbers) -> Numbers:
        """Return the age at ``as_of`` of each usable fact, in minutes (n × v); NaN without a fact or for a stale one.

        ``tolerances`` (v) are the greatest ages of the views, in minutes.
        """
        known_at = self.known_at.astype(np.float64)
        known_at[self.known_at == ABSENT] = np.nan
        minutes = (as_of[:, np.newaxis] - known_at) / _MICROSECONDS_PER_MINUTE
        minutes[minutes > tolerances] = np.nan
        return minutes


def latest_of(watermarks: Mapping[str, datetime]) -> int:
    """Return the latest of ``watermarks`` in microseconds since 1970, and the earliest int64 without any."""
    return microseconds_of(max(watermarks.values())) if watermarks else ABSENT


class OnlineStore(Protocol):
    """The store from which serving reads the last facts. Implementations are safe to share between threads."""

    remote: bool
    """Whether a lookup waits for another process; an asynchronous server then runs it in a thread."""

    @property
    def location(self) -> str:
        """Address with which :func:`~ml_platform.features.stores.open_store` opens the same store, from any folder."""

    def publish(self, snapshot: Snapshot) -> Publication:
        """Replace the snapshot of a view, unless the current one has a later watermark.

        Readers see the old snapshot or the new one, never a mixture.
        """

    def require(self, views: Sequence[FeatureView]) -> None:
        """Raise the error of :meth:`lookup` for a view without a snapshot; it reads no facts."""

    def lookup(self, views: Sequence[FeatureView], keys: Mapping[str, Sequence[Any]], rows: int) -> LookupResult:
        """Return the last facts for ``rows`` rows of ``keys`` (entity column → one value per row, None if unknown).

        Raises :class:`KeyTypeError` for a value of another type than the published keys of its column.
        """


def latest_facts(view: FeatureView, log: pl.LazyFrame, watermark: datetime) -> Snapshot:
    """Return the snapshot of ``view``: the last fact of each entity that is known before ``watermark``.

    Facts older than the view's tolerance at the watermark are left out, because no later prediction could use them. Of
    facts with the same known_at, the last row of the log counts, as in the point-in-time join.
    """
    facts = log.select(*view.entity, pl.col(KNOWN_AT).cast(INSTANT), *view.dtypes).filter(pl.col(KNOWN_AT) < watermark)
    if view.tolerance_minutes is not None:
        facts = facts.filter(pl.col(KNOWN_AT) >= watermark - timedelta(minutes=view.tolerance_minutes))
    ordered = facts.sort(KNOWN_AT, maintain_order=True)
    if not view.entity:
        return Snapshot(view, ordered.tail(1).collect(), watermark)
    last = ordered.unique(subset=view.entity, keep="last", maintain_order=True)
    return Snapshot(view, last.sort(view.entity).collect(), watermark)
