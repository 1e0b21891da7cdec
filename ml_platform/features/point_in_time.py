"""The point-in-time join: each example gets the facts that the platform had at its prediction time, and no later ones.

The rules, for each view and each example (entity…, predict_at):

- The join reads the last usable fact of the entity. A fact is usable with ``known_at <= predict_at``. If the sources of
  the view declare how they arrive, it must have arrived by predict_at too: see :mod:`ml_platform.data.arrival`.
- Of several facts of one entity with the same ``known_at``, it reads the last row of the log.
- It ignores a fact that is older than the view's tolerance; a fact exactly as old as the tolerance counts.
- Without a fact (entity absent or null, nothing known yet, stale), all values and the age are null.
- Keys of examples and facts have the same type; another one is an error, as in an online store.

The join processes the examples in chunks, in order of predict_at, and reads each row of a log once. Between chunks it
keeps only the last fact of each entity, so memory is bounded by a chunk and by the number of entities.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl
from polars.io.plugins import register_io_source

from ml_platform.data.arrival import cut_offs
from ml_platform.errors import did_you_mean, listed
from ml_platform.features.key_types import KEY_DTYPES, KeyType, key_type_of, typed_key
from ml_platform.features.view import INSTANT, KNOWN_AT, PREDICT_AT, FeatureView, ViewError

CHUNK_ROWS = 500_000
"""Target size of a chunk of examples; the examples of one day are never divided."""

_FACT = "_fact"
_USABLE_UNTIL = "_usable_until"
_MICROSECONDS_PER_MINUTE = 60_000_000


def point_in_time_join(
    examples: pl.LazyFrame,
    logs: Mapping[str, pl.LazyFrame],
    views: Sequence[FeatureView],
    *,
    known_before: Mapping[str, datetime] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> pl.LazyFrame:
    """Return ``examples`` with ``<view>__<column>`` and ``<view>__age_minutes`` (Float32) of every view, lazily.

    ``examples`` have the entity columns of all views and ``predict_at`` (a Datetime with a time zone; the result has it
    in UTC). ``logs`` maps each stored view to its change log, with rows in any order. The result has one row per
    example, sorted by predict_at, ties in the given order. ``known_before`` maps views to an instant: facts known at or
    after it are left out, as in an online store with that watermark. The watermark is the actual arrival, and replaces
    the declared one.

    Raises :class:`ViewError` for a predict_at without a time zone, a null predict_at, a missing log or a missing entity
    column. Raises :class:`.key_types.KeyTypeError` for keys of another type than the facts.
    """
    validate_examples(examples.collect_schema(), views)
    schema = dict(examples.collect_schema()) | {PREDICT_AT: INSTANT}
    for view in views:
        schema |= view.columns

    def batches(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        bounds = chunk_bounds(examples, chunk_rows)
        readers = [AsOfReader(view, change_log_of(view, logs), known_before, single_chunk=not bounds) for view in views]
        for chunk in iterate_chunks(examples, bounds):
            joined = pl.concat([chunk, *(reader.read(chunk) for reader in readers)], how="horizontal")
            yield apply_pushdown(joined, with_columns, predicate)

    return register_io_source(batches, schema=schema)


def chunk_bounds(examples: pl.LazyFrame, chunk_rows: int = CHUNK_ROWS, clock: str = PREDICT_AT) -> list[datetime]:
    """Return the days at which a new chunk starts; only a chunk of one day may exceed ``chunk_rows``.

    The list is empty when all examples fit in one chunk.
    """
    days = (
        examples.group_by(pl.col(clock).dt.convert_time_zone("UTC").dt.truncate("1d").alias("day"))
        .agg(pl.len())
        .drop_nulls()
        .sort("day")
        .collect(engine="streaming")
    )
    bounds: list[datetime] = []
    chunk_height = 0
    for day, rows in days.iter_rows():
        if chunk_height and chunk_height + rows > chunk_rows:
            bounds.append(day)
            chunk_height = 0
        chunk_height += rows
    return bounds


def iterate_chunks(
    examples: pl.LazyFrame, bounds: Sequence[datetime], clock: str = PREDICT_AT
) -> Iterator[pl.DataFrame]:
    """Yield ``examples`` in order of ``clock`` (UTC, ties in the given order), divided at ``bounds``.

    Without examples, one empty chunk is yielded, so that the result has the right columns.
    """
    examples = examples.with_columns(
        pl.col(name).dt.convert_time_zone("UTC").dt.cast_time_unit("us") for name in dict.fromkeys([PREDICT_AT, clock])
    )
    for start, end in zip([None, *bounds], [*bounds, None], strict=True):
        chunk = examples
        if start is not None:
            # Nulls stay in the last chunk, which raises the error below.
            chunk = chunk.filter((pl.col(clock) >= start).fill_null(end is None))
        if end is not None:
            chunk = chunk.filter(pl.col(clock) < end)
        rows = chunk.collect()
        if rows[clock].null_count():
            raise ViewError(
                "Examples",
                expected=f"a {clock} in every row",
                found=f"{rows[clock].null_count()} rows without it",
                fix="Leave out rows for which no prediction is made.",
            )
        yield rows if rows[clock].is_sorted() else rows.sort(clock, maintain_order=True)


class AsOfReader:
    """Reads one log forwards: each call to :meth:`read` takes a chunk of examples later than the chunk before.

    With ``single_chunk`` there is one call only: the whole log is read at once, and a log in memory is not copied.
    """

    def __init__(
        self,
        view: FeatureView,
        log: pl.LazyFrame,
        known_before: Mapping[str, datetime] | None = None,
        *,
        single_chunk: bool = False,
    ) -> None:
        limit = (known_before or {}).get(view.name)
        self._key_types = _fact_key_types(view, log.collect_schema())
        log = log.select(*_key_columns(self._key_types), pl.col(KNOWN_AT).cast(INSTANT), *view.dtypes)
        self._log = log if limit is None else log.filter(pl.col(KNOWN_AT) < limit)
        self._view = view
        self._arrivals = view.arrivals if limit is None else []
        self._single_chunk = single_chunk
        self._until: datetime | None = None
        self._carried_facts: pl.DataFrame | None = None

    def read(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Return the view's columns for ``chunk`` (sorted by predict_at): one row per example, in the same order."""
        usable_until = self._usable_until(chunk[PREDICT_AT])
        return self._as_of(chunk, usable_until, self._facts(chunk, usable_until))

    def _usable_until(self, predict_at: pl.Series) -> pl.Series:
        """Return, for each example, the latest known_at of a usable fact; it rises with predict_at."""
        if not self._arrivals:
            return predict_at
        return cut_offs(self._arrivals, predict_at) - timedelta(microseconds=1)

    def _facts(self, chunk: pl.DataFrame, usable_until: pl.Series) -> pl.DataFrame:
        """Return the facts that ``chunk`` needs: those since the last call, and the last earlier one of each entity."""
        if not chunk.height:
            return self._log.head(0).collect() if self._carried_facts is None else self._carried_facts
        if self._single_chunk:
            return _sorted_by_known_at(self._log.collect())
        start, end = chunk[PREDICT_AT][0], usable_until[-1]
        rows = self._log.filter(pl.col(KNOWN_AT) <= end)
        if self._until is not None:
            rows = rows.filter(pl.col(KNOWN_AT) > self._until)
        elif self._view.tolerance_minutes is not None:
            rows = rows.filter(pl.col(KNOWN_AT) >= start - timedelta(minutes=self._view.tolerance_minutes))
        facts = _sorted_by_known_at(rows.collect())
        if self._carried_facts is not None:
            facts = pl.concat([self._still_usable(self._carried_facts, start), facts])
        self._until, self._carried_facts = end, facts
        return facts

    def _still_usable(self, facts: pl.DataFrame, start: datetime) -> pl.DataFrame:
        """Return the earlier facts that may still be read: the last of each entity, unless it is stale at ``start``."""
        if self._view.tolerance_minutes is not None:
            facts = facts.filter(pl.col(KNOWN_AT) >= start - timedelta(minutes=self._view.tolerance_minutes))
        if not self._view.entity:
            return facts.tail(1)
        return facts.unique(subset=self._view.entity, keep="last", maintain_order=True)

    def _as_of(self, chunk: pl.DataFrame, usable_until: pl.Series, facts: pl.DataFrame) -> pl.DataFrame:
        view = self._view
        # Join only keys and times; then gather the values once, by the row number of the fact.
        numbered = facts.select(*view.entity, KNOWN_AT).with_row_index(_FACT)
        keys = [
            typed_key(chunk[key], key_type, f"Examples for feature view '{view.name}', key '{key}'")
            for key, key_type in self._key_types.items()
        ]
        requests = pl.DataFrame([*keys, chunk[PREDICT_AT], usable_until.alias(_USABLE_UNTIL)])
        found = requests.join_asof(
            numbered,
            left_on=_USABLE_UNTIL,
            right_on=KNOWN_AT,
            by=view.entity or None,
            strategy="backward",
            coalesce=False,
            check_sortedness=False,
        )
        age = (pl.col(PREDICT_AT) - pl.col(KNOWN_AT)).dt.total_microseconds()
        tolerance_minutes = view.tolerance_minutes
        usable = True if tolerance_minutes is None else age <= tolerance_minutes * _MICROSECONDS_PER_MINUTE
        read = found.select(
            pl.when(usable).then(_FACT).alias(_FACT),
            pl.when(usable).then(age / _MICROSECONDS_PER_MINUTE).cast(pl.Float32).alias(view.age_column),
        )
        values = facts.select(*view.dtypes).select(pl.all().gather(read[_FACT]).name.prefix(view.column("")))
        return values.with_columns(read[view.age_column])


def validate_examples(schema: Mapping[str, pl.DataType], views: Sequence[FeatureView]) -> None:
    """Raise :class:`ViewError` when ``schema`` lacks a predict_at with a time zone or an entity column of a view."""
    dtype = schema.get(PREDICT_AT)
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise ViewError(
            f"Examples, column '{PREDICT_AT}'",
            expected="instants with a time zone",
            found=str(dtype) if dtype is not None else "no such column",
            fix="Add the zone with .dt.replace_time_zone(zone).",
        )
    for view in views:
        absent = [key for key in view.entity if key not in schema]
        if absent:
            raise ViewError(
                f"Examples for feature view '{view.name}'",
                expected=f"the entity columns {listed(view.entity)}",
                found=f"no {listed(absent)} among {listed(schema, limit=30)}",
                fix=f"Add the columns, or a request view that derives them.{did_you_mean(absent[0], schema)}",
            )


def change_log_of(view: FeatureView, logs: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the log of ``view``. Raises :class:`ViewError` when ``logs`` has none."""
    if view.name not in logs:
        raise ViewError(
            f"Feature view '{view.name}'",
            expected="its change log",
            found=f"logs of {listed(logs, limit=30)}",
            fix=f"Materialize features/{view.name} first.",
        )
    return logs[view.name]


def facts_for_keys(view: FeatureView, log: pl.LazyFrame, keys: pl.DataFrame) -> pl.LazyFrame:
    """Return the facts of ``log`` that a join of ``view`` may read for ``keys``, in the order of the log.

    ``keys`` have the entity columns and, in ``predict_at``, the times of the reads.
    """
    types = _fact_key_types(view, log.collect_schema())
    known_at, times = pl.col(KNOWN_AT).cast(INSTANT), keys.select(pl.col(PREDICT_AT).cast(INSTANT))
    facts = log.filter(known_at <= times.max().item())
    if view.tolerance_minutes is not None:
        oldest = times.min().select(pl.col(PREDICT_AT) - timedelta(minutes=view.tolerance_minutes)).item()
        facts = facts.filter(known_at >= oldest)
    for key, key_type in types.items():
        wanted = typed_key(keys[key], key_type, f"Examples for feature view '{view.name}', key '{key}'")
        facts = facts.filter(pl.col(key).cast(KEY_DTYPES[key_type]).is_in(wanted.drop_nulls().unique().implode()))
    return facts


def apply_pushdown(frame: pl.DataFrame, with_columns: list[str] | None, predicate: pl.Expr | None) -> pl.DataFrame:
    """Return ``frame`` with the filter and the projection that Polars pushes down to a lazy source."""
    if predicate is not None:
        frame = frame.filter(predicate)
    return frame if with_columns is None else frame.select(with_columns)


def _fact_key_types(view: FeatureView, schema: Mapping[str, pl.DataType]) -> dict[str, KeyType]:
    """Return the type of each key of a log, as declared, or as found if the view declares none."""
    found: dict[str, KeyType] = {}
    for key in view.entity:
        keys = pl.Series(key, [], dtype=schema[key])
        typed = typed_key(keys, view.key_types.get(key), f"Change log of feature view '{view.name}', key '{key}'")
        found[key] = key_type_of(typed.dtype) or "string"
    return found


def _key_columns(key_types: Mapping[str, KeyType]) -> list[pl.Expr]:
    return [pl.col(key).cast(KEY_DTYPES[key_type]) for key, key_type in key_types.items()]


def _sorted_by_known_at(facts: pl.DataFrame) -> pl.DataFrame:
    return facts if facts[KNOWN_AT].is_sorted() else facts.sort(KNOWN_AT, maintain_order=True)
