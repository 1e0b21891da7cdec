"""The point-in-time join: what was known about each example at its prediction time, and nothing later.

The rule, for each view and each example (entity…, predict_at):

- the fact read is the last one of the entity with ``known_at <= predict_at``;
- of facts of one entity with the same ``known_at``, the last row of the log is the one read;
- a fact older than the view's tolerance is not used (exactly as old as the tolerance is still used);
- without a fact (entity absent or null, nothing known yet, stale) all values and the age are null.

Examples are walked in order of predict_at, in chunks, and each row of a log is read once: between chunks only the last
fact of each entity is carried along. So memory is bounded by a chunk and by the number of entities.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl
from polars.io.plugins import register_io_source

from ml_platform.errors import did_you_mean, listed
from ml_platform.features.view import INSTANT, KNOWN_AT, PREDICT_AT, FeatureView, ViewError

CHUNK_ROWS = 500_000
"""Examples that are joined at a time; one day's are never divided."""

_FACT = "_fact"
_MICROSECONDS = 60_000_000


def point_in_time_join(
    examples: pl.LazyFrame,
    logs: Mapping[str, pl.LazyFrame],
    views: Sequence[FeatureView],
    *,
    known_before: Mapping[str, datetime] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> pl.LazyFrame:
    """Return ``examples`` with ``<view>__<column>`` and ``<view>__age_minutes`` (Float32) of every view, lazily.

    ``examples`` have the entity columns of all views and ``predict_at`` (a Datetime with a time zone; it comes back in
    UTC). ``logs`` holds the change log of each stored view under its name, in any order of rows. The result has the
    height of ``examples``, sorted by predict_at, ties in the order given. ``known_before`` leaves out facts of a view
    known at or after an instant: what an online store of that watermark could not have held.

    Raises :class:`ViewError` for a naive predict_at, a null one, a missing log or a missing entity column.
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
    """Return the days at which a new chunk starts, so that none but a single day's exceeds ``chunk_rows``.

    Empty where all examples are one chunk.
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
    """Yield ``examples`` in order of ``clock`` (UTC, ties in the order given), divided at ``bounds``.

    At least one chunk is yielded, so that no examples give an empty table of the right columns.
    """
    examples = examples.with_columns(
        pl.col(name).dt.convert_time_zone("UTC").dt.cast_time_unit("us") for name in dict.fromkeys([PREDICT_AT, clock])
    )
    for start, end in zip([None, *bounds], [*bounds, None], strict=True):
        chunk = examples
        if start is not None:
            # Nulls stay in the last chunk, where they are refused.
            chunk = chunk.filter((pl.col(clock) >= start).fill_null(end is None))
        if end is not None:
            chunk = chunk.filter(pl.col(clock) < end)
        rows = chunk.collect()
        if rows[clock].null_count():
            raise ViewError(
                "Examples",
                expected=f"a {clock} in every row",
                found=f"{rows[clock].null_count()} without",
                fix="Leave out rows for which no prediction is made.",
            )
        yield rows if rows[clock].is_sorted() else rows.sort(clock, maintain_order=True)


class AsOfReader:
    """Reads one log forwards: each call answers a chunk of examples that is no earlier than the one before.

    ``whole`` says that there will be one chunk only: the log is then read at once, without copying one that is in
    memory already.
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
        log = log.select(*view.entity, pl.col(KNOWN_AT).cast(INSTANT), *view.dtypes)
        self._log = log if limit is None else log.filter(pl.col(KNOWN_AT) < limit)
        self._view = view
        self._single_chunk = single_chunk
        self._until: datetime | None = None
        self._carried_facts: pl.DataFrame | None = None

    def read(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Return the view's columns for ``chunk`` (sorted by predict_at), in its order and of its height."""
        return self._as_of(chunk, self._facts(chunk))

    def _facts(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Return what is needed of the log: the facts from the last call to the chunk's end, and the last before."""
        if not chunk.height:
            return self._log.head(0).collect() if self._carried_facts is None else self._carried_facts
        if self._single_chunk:
            return _sorted_by_known_at(self._log.collect())
        start, end = chunk[PREDICT_AT][0], chunk[PREDICT_AT][-1]
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
        """Return what earlier facts can still say: the last of each entity that is not stale at ``start``."""
        if self._view.tolerance_minutes is not None:
            facts = facts.filter(pl.col(KNOWN_AT) >= start - timedelta(minutes=self._view.tolerance_minutes))
        if not self._view.entity:
            return facts.tail(1)
        return facts.unique(subset=self._view.entity, keep="last", maintain_order=True)

    def _as_of(self, chunk: pl.DataFrame, facts: pl.DataFrame) -> pl.DataFrame:
        view = self._view
        # Only keys and times are joined; the values are gathered once, by the number of the fact.
        numbered = facts.select(*view.entity, KNOWN_AT).with_row_index(_FACT)
        requests = chunk.select(*(pl.col(key).cast(facts.schema[key]) for key in view.entity), PREDICT_AT)
        found = requests.join_asof(
            numbered,
            left_on=PREDICT_AT,
            right_on=KNOWN_AT,
            by=view.entity or None,
            strategy="backward",
            coalesce=False,
            check_sortedness=False,
        )
        age = (pl.col(PREDICT_AT) - pl.col(KNOWN_AT)).dt.total_microseconds()
        usable = age <= (view.tolerance_minutes or 0) * _MICROSECONDS if view.tolerance_minutes is not None else True
        read = found.select(
            pl.when(usable).then(_FACT).alias(_FACT),
            pl.when(usable).then(age / _MICROSECONDS).cast(pl.Float32).alias(view.age_column),
        )
        values = facts.select(*view.dtypes).select(pl.all().gather(read[_FACT]).name.prefix(f"{view.name}__"))
        return values.with_columns(read[view.age_column])


def validate_examples(schema: Mapping[str, pl.DataType], views: Sequence[FeatureView]) -> None:
    """Raise :class:`ViewError` when ``schema`` has no predict_at with a time zone, or lacks an entity column."""
    dtype = schema.get(PREDICT_AT)
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise ViewError(
            f"Examples, column '{PREDICT_AT}'",
            expected="instants with a time zone",
            found=str(dtype) if dtype is not None else "no such column",
            fix="Use .dt.replace_time_zone(zone) where the zone is known.",
        )
    for view in views:
        absent = [key for key in view.entity if key not in schema]
        if absent:
            raise ViewError(
                f"Examples for feature view '{view.name}'",
                expected=f"the entity columns {listed(view.entity)}",
                found=f"no {listed(absent)} among {listed(schema, limit=30)}",
                fix=f"Add them to the examples, or a request view that derives them.{did_you_mean(absent[0], schema)}",
            )


def change_log_of(view: FeatureView, logs: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the log of ``view``; raise :class:`ViewError` when there is none."""
    if view.name not in logs:
        raise ViewError(
            f"Feature view '{view.name}'",
            expected="its change log",
            found=f"logs of {listed(logs, limit=30)}",
            fix=f"Materialize features/{view.name} first.",
        )
    return logs[view.name]


def apply_pushdown(frame: pl.DataFrame, with_columns: list[str] | None, predicate: pl.Expr | None) -> pl.DataFrame:
    """Return what a query asked of a lazy source: the rows that ``predicate`` keeps and the columns named."""
    if predicate is not None:
        frame = frame.filter(predicate)
    return frame if with_columns is None else frame.select(with_columns)


def _sorted_by_known_at(facts: pl.DataFrame) -> pl.DataFrame:
    return facts if facts[KNOWN_AT].is_sorted() else facts.sort(KNOWN_AT, maintain_order=True)
