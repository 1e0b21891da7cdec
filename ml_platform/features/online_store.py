"""The online store's protocol: one call returns the last fact of each entity, for all views of a request.

Two implementations exist: `snapshot_store.py` (memory-mapped files, the default) and `valkey_store.py` (a server, for
serving on several machines). Both return the published facts, whatever their age. The reader knows the prediction time
and decides whether a fact is too old: see :meth:`LookupResult.frame`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self

import numpy as np
import polars as pl

from ml_platform.features.exact_values import MAX_EXACT_INTEGER, beyond_float64
from ml_platform.features.key_types import KeyTypeError, require_storable_keys, typed_key
from ml_platform.features.view import AS_OF, INSTANT, KNOWN_AT, FeatureView, ViewError

ABSENT = np.iinfo(np.int64).min
"""The known_at (microseconds) of an entity without a fact."""

FEW_ROWS = 16
"""Up to this many rows, plain Python values are faster than a column at a time."""

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


@dataclass(frozen=True)
class LookupColumns:
    """Positions of selected columns in a lookup, computed once and used by all requests.

    ``positions`` are columns of :attr:`LookupResult.values` (0 for an age); ``views`` are the views of the columns.
    ``ages``, ``float32_positions`` and ``other_positions`` index the selected columns.
    """

    dtypes: dict[str, pl.DataType]
    positions: np.ndarray
    views: np.ndarray
    ages: list[int]
    float32_positions: list[int]
    other_positions: list[tuple[int, str, pl.DataType]]

    @classmethod
    def of(cls, views: Sequence[FeatureView], names: Sequence[str] | None = None) -> Self:
        """Return the columns ``names`` of ``views``, in that order; without names all columns, view by view."""
        entries: list[tuple[str, pl.DataType, int, int, bool]] = []
        start = 0
        for view_position, view in enumerate(views):
            values = list(view.dtypes.items())
            entries += [
                (view.column(name), dtype, start + position, view_position, False)
                for position, (name, dtype) in enumerate(values)
            ]
            entries.append((view.age_column, pl.Float32(), 0, view_position, True))
            start += len(values)
        known = {entry[0]: entry for entry in entries}
        selected = entries if names is None else [known[name] for name in names]
        return cls(
            dtypes={name: dtype for name, dtype, *_ in selected},
            positions=np.array([position for _, _, position, _, _ in selected], dtype=np.int64),
            views=np.array([view_position for _, _, _, view_position, _ in selected], dtype=np.int64),
            ages=[position for position, entry in enumerate(selected) if entry[4]],
            float32_positions=[position for position, entry in enumerate(selected) if entry[1] == pl.Float32],
            other_positions=[
                (position, entry[0], entry[1]) for position, entry in enumerate(selected) if not entry[1].is_float()
            ],
        )

    def __len__(self) -> int:
        return len(self.dtypes)


@dataclass(frozen=True)
class LookupResult:
    """Facts found for n rows and v views.

    ``values`` (n × all columns of all views in order, float64): null is NaN, a category is its position in
    ``categories[column]``, an instant is in microseconds. ``known_at`` (n × v, int64): microseconds since 1970 in UTC,
    or :data:`ABSENT` for an entity without a fact. ``watermarks``: the data clock of each view's snapshot.
    """

    views: Sequence[FeatureView]
    values: np.ndarray
    known_at: np.ndarray
    watermarks: dict[str, datetime]
    categories: dict[str, list[str]]

    def as_of(self, predict_at: pl.Series) -> pl.Series:
        """Return the instant to which the facts belong: the later of ``predict_at`` and the latest watermark, per row.

        The watermark is later for a prediction time in the past: the store has only the facts known today.
        """
        latest_watermark = max(self.watermarks.values(), default=datetime.fromtimestamp(0, UTC))
        latest_microseconds = (latest_watermark - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
        requested_at = predict_at.cast(INSTANT).cast(pl.Int64).to_numpy()
        return pl.Series(AS_OF, np.maximum(requested_at, latest_microseconds)).cast(INSTANT)

    def frame(self, as_of: pl.Series) -> pl.DataFrame:
        """Return the columns ``<view>__…`` and ``<view>__age_minutes``, with ages measured at ``as_of`` (n instants).

        A fact older than its view's tolerance counts as missing: values and age are null.
        """
        return self.table(self.ages(as_of), LookupColumns.of(self.views))

    def ages(self, as_of: pl.Series) -> np.ndarray:
        """Return the age of each usable fact, in minutes (n × v, float64); NaN without a fact or for a stale one."""
        now = as_of.cast(INSTANT).cast(pl.Int64).to_numpy()[:, None]
        tolerance = np.array(
            [np.inf if view.tolerance_minutes is None else view.tolerance_minutes for view in self.views]
        )
        absent = self.known_at == ABSENT
        minutes = (now - np.where(absent, now, self.known_at)) / _MICROSECONDS_PER_MINUTE
        return np.where(absent | (minutes > tolerance), np.nan, minutes)

    def table(self, ages: np.ndarray, columns: LookupColumns) -> pl.DataFrame:
        """Return ``columns`` in their types; a fact whose age in ``ages`` is NaN reads null."""
        rows = len(ages)
        if not len(columns):
            return pl.DataFrame(height=rows)
        if 0 < rows <= FEW_ROWS:
            # For a few rows, building the table from plain values is several times faster than column by column.
            plain_dtypes: dict[str, Any] = {n: pl.Int64() if t == INSTANT else t for n, t in columns.dtypes.items()}
            records = [dict(zip(plain_dtypes, row, strict=True)) for row in self.plain_rows(ages, columns)]
            found = pl.from_dicts(records, schema=plain_dtypes)
            instants = [name for name, dtype in columns.dtypes.items() if dtype == INSTANT]
            for name in instants:
                found.replace_column(found.get_column_index(name), found[name].cast(INSTANT))
            return found
        block = self._block(ages, columns).T
        named = zip(columns.dtypes.items(), block, strict=True)
        return pl.DataFrame([self._series(name, raw, dtype) for (name, dtype), raw in named])

    def plain_rows(self, ages: np.ndarray, columns: LookupColumns) -> list[list[Any]]:
        """Return the values of :meth:`table` as a list per row: null is None, an instant is in microseconds."""
        block = self._block(ages, columns)
        block[:, columns.float32_positions] = block[:, columns.float32_positions].astype(np.float32)
        rows: list[list[Any]] = block.tolist()
        read: list[tuple[int, Callable[[Any], Any]]] = [
            (position, self._reader(name, dtype)) for position, name, dtype in columns.other_positions
        ]
        for row in rows:
            for position, reader in read:
                value = row[position]
                if value == value:
                    row[position] = reader(value)
        return [[None if value != value else value for value in row] for row in rows]

    def _block(self, ages: np.ndarray, columns: LookupColumns) -> np.ndarray:
        block = np.where(np.isnan(ages)[:, columns.views], np.nan, self.values[:, columns.positions])
        block[:, columns.ages] = ages[:, columns.views[columns.ages]]
        return block

    def _reader(self, name: str, dtype: pl.DataType) -> Callable[[Any], Any]:
        if dtype == pl.String:
            known = self.categories.get(name, [])
            return lambda code: known[int(code)]
        return bool if dtype == pl.Boolean else int

    def _series(self, name: str, raw: np.ndarray, dtype: pl.DataType) -> pl.Series:
        if dtype == pl.String:
            known = self.categories.get(name, [])
            return pl.Series(name, [None if code != code else known[int(code)] for code in raw.tolist()], dtype)
        column = pl.Series(name, raw, nan_to_null=True)
        return column.cast(pl.Int64).cast(dtype) if dtype == INSTANT else column.cast(dtype)


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
