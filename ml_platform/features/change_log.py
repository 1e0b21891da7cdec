"""Build a view's change log: run the view's function, validate its result, keep the facts of one window, write them."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.data.names import short_name
from ml_platform.data.pii import shown, shown_error
from ml_platform.data.references import load_function
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.exact_values import InexactValuesError, cast_exactly
from ml_platform.features.key_types import KeyTypeError, require_storable_keys, typed_key
from ml_platform.features.returned_values import stored_values
from ml_platform.features.view import INSTANT, KNOWN_AT, FeatureView, ViewError

if TYPE_CHECKING:
    # A bento carries this module, and reads no lake.
    from ml_platform.data.lake import Lake, TableVersion


@dataclass(frozen=True)
class Window:
    """The time range whose facts a build keeps: ``start`` is included, ``end`` excluded; both have a time zone.

    ``end`` is the data clock of the build: nothing is known at or after it.
    """

    start: datetime
    end: datetime


@dataclass(frozen=True)
class BuildReport:
    """Number of facts that a build kept and left out; ``first_*`` name view, entity and time of the first such fact."""

    rows: int
    duplicates: int
    superseded: int
    before_window: int
    after_clock: int
    first_after_clock: str | None
    late_facts: int = 0
    first_late_fact: str | None = None

    def as_metadata(self) -> dict[str, Any]:
        """Return the numbers under stable names, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ChangeLog:
    """Facts (entity…, known_at, values…) sorted by known_at and then entity; each pair of these occurs once."""

    frame: pl.DataFrame
    report: BuildReport


def build(view: FeatureView, sources: dict[str, pl.LazyFrame], window: Window) -> ChangeLog:
    """Return the facts of ``window`` that the view's function computes from ``sources`` (by dataset name).

    The function sees only the declared columns; a second parameter receives the window. Its result must have exactly
    the columns entity…, known_at and the declared features, in any order. known_at must have a time zone and is stored
    in UTC microseconds. Numbers are cast to the declared types, and NaN becomes null. A vector becomes one column for
    each component, and must be whole; see :mod:`.returned_values`. Keys are stored in the types of
    :data:`.key_types.KEY_DTYPES`. These are errors: a number that does not fit its type or would be cut, an infinite
    value, a null key, a null known_at, and values and keys that an online store cannot keep exactly.

    Facts known before the window are left out, because the lookback belongs to earlier partitions. Facts known at or
    after its end are left out and counted, because the next partition finds them through its lookback. In a view
    without lookback they are an error, because no partition would find them. Rows equal in all columns are one fact.
    Of rows with the same entity and known_at, the last one counts; the others are counted as superseded.

    Raises :class:`ViewError` that names the view, the expected and found values, and the first place. Raises
    :class:`.key_types.KeyTypeError` for a key of another type than declared.
    """
    frame = _typed_facts(view, _call_function(view, _visible_sources(view, sources), window))
    if frame.height:
        _require_time_zone(view, window)
    before = frame[KNOWN_AT] < window.start if frame.height else pl.Series([], dtype=pl.Boolean)
    after = frame[KNOWN_AT] >= window.end if frame.height else pl.Series([], dtype=pl.Boolean)
    late = frame.filter(after)
    if late.height and not view.lookback_days:
        raise ViewError(
            f"Feature view '{view.name}'",
            expected=f"no fact known at or after the data clock {window.end:%Y-%m-%dT%H:%M%z}",
            found=f"{late.height}, the first {_describe_first(view, late)}",
            fix="Declare lookback_days, so that the next partition finds these facts, or correct known_at.",
        )
    inside = frame.filter(~(before | after))
    distinct, current = duplicates(inside, view.entity)
    return ChangeLog(
        current,
        BuildReport(
            rows=current.height,
            duplicates=inside.height - distinct,
            superseded=distinct - current.height,
            before_window=int(before.sum()),
            after_clock=late.height,
            first_after_clock=_describe_first(view, late) if late.height else None,
        ),
    )


def duplicates(facts: pl.DataFrame, entity: list[str]) -> tuple[int, pl.DataFrame]:
    """Return the number of distinct rows of ``facts``, and the last row of each (entity, known_at).

    These rows are sorted by known_at and then entity.
    """
    keys = [KNOWN_AT, *entity]
    after, equal = _compare_neighbours(facts, keys)
    if not (after | equal).all():
        facts = facts.sort(keys, maintain_order=True)
        after, equal = _compare_neighbours(facts, keys)
    if not equal.any():
        return facts.height, facts
    contested = facts.filter(_tied_rows(equal))
    return facts.height - contested.height + contested.n_unique(), facts.filter(~equal.extend_constant(False, 1))


def _compare_neighbours(facts: pl.DataFrame, keys: list[str]) -> tuple[pl.Series, pl.Series]:
    """Return, for each pair of neighbouring rows, whether the second sorts after the first, or ties with it."""
    first, second = facts.select(keys).head(max(facts.height - 1, 0)), facts.select(keys).slice(1)
    after = pl.repeat(False, first.height, eager=True, dtype=pl.Boolean)
    equal = ~after
    for key in reversed(keys):
        tie = first[key] == second[key]
        after = (first[key] < second[key]) | (tie & after)
        equal = equal & tie
    return after, equal


def _tied_rows(equal: pl.Series) -> pl.Series:
    """Return whether each row ties with the row before or after it; ``equal`` has one value per pair of neighbours."""
    before, following = pl.Series([False], dtype=pl.Boolean), equal.clone()
    return before.append(equal) | following.extend_constant(False, 1)


def write(view: FeatureView, log: ChangeLog, lake: "Lake", partition: str | None) -> "tuple[TableVersion, BuildReport]":
    """Publish ``log`` as ``partition`` of the view's table; return the new version and the report.

    A fact is late if the published partition lacks it and has a later fact. Late facts are published too and counted,
    and the report names the first one. Earlier versions of the table keep the history without them.
    """
    late = _late_facts(view, log.frame, lake, partition)
    report = log.report
    if late.height:
        report = BuildReport(
            **asdict(report) | {"late_facts": late.height, "first_late_fact": _describe_first(view, late)}
        )
    return lake.write(view.table, log.frame, partition), report


def read(
    view: FeatureView, lake: "Lake", version: int | None = None, partitions: Sequence[str] | None = None
) -> pl.LazyFrame:
    """Return the view's change log (entity…, known_at, values…) as of ``version`` of its table (the latest if None).

    ``partitions`` limits the result to these partitions. Raises :class:`ml_platform.data.lake.LakeError` when the
    table, the version or a partition does not exist.
    """
    return lake.scan(view.table, version, partitions).select(*view.entity, KNOWN_AT, *view.dtypes)


def _visible_sources(view: FeatureView, sources: dict[str, pl.LazyFrame]) -> dict[str, pl.LazyFrame]:
    visible: dict[str, pl.LazyFrame] = {}
    for source in view.sources:
        if source.dataset not in sources:
            raise ViewError(
                f"Feature view '{view.name}'",
                expected=f"a source '{source.dataset}'",
                found=listed(sources),
                fix=f"Pass the source, or correct the declaration.{did_you_mean(source.dataset, sources)}",
            )
        existing = sources[source.dataset].collect_schema().names()
        absent = [column for column in source.visible_columns if column not in existing]
        if absent:
            raise ViewError(
                f"Feature view '{view.name}'",
                expected=f"columns {listed(absent)} in '{source.dataset}'",
                found=listed(existing, limit=30),
                fix=f"Correct the declared columns.{did_you_mean(absent[0], existing)}",
            )
        visible[source.dataset] = sources[source.dataset].select(source.visible_columns or pl.all())
    return visible


def _call_function(view: FeatureView, sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    function = load_function(view.function)
    sources = {short_name(name): frame for name, frame in sources.items()}
    takes_window = len(inspect.signature(function).parameters) > 1
    try:
        result = function(sources, window) if takes_window else function(sources)
        result = result.lazy().collect() if isinstance(result, pl.LazyFrame | pl.DataFrame) else result
    except Exception as error:
        if not view.pii_columns or isinstance(error, PlatformError):
            raise
        raise ViewError(
            f"Feature view '{view.name}', function {view.function}",
            expected="a frame of facts",
            found=shown_error(error, view.pii_columns),
            fix="Fix the function. Its message is hidden, because its sources have columns that identify a person.",
        ) from None
    if not isinstance(result, pl.DataFrame):
        raise ViewError(
            f"Feature view '{view.name}', function {view.function}",
            expected="a Polars frame of facts",
            found=type(result).__name__,
            fix="Return a LazyFrame (entity…, known_at, values…).",
        )
    frame = result
    expected = [*view.entity, KNOWN_AT, *view.returned_columns]
    absent = [name for name in expected if name not in frame.columns]
    extra = [name for name in frame.columns if name not in expected]
    if absent or extra:
        hint = did_you_mean(absent[0], extra) if absent else ""
        raise ViewError(
            f"Feature view '{view.name}', function {view.function}",
            expected=f"the columns {listed(expected, limit=50)}",
            found=f"{len(absent)} missing ({listed(absent)}) and {len(extra)} not declared ({listed(extra)})",
            fix=f"Fix the function or the declared features.{hint}",
        )
    return frame.select(expected)


def _typed_facts(view: FeatureView, frame: pl.DataFrame) -> pl.DataFrame:
    known = frame.schema[KNOWN_AT]
    if not isinstance(known, pl.Datetime) or known.time_zone is None:
        raise ViewError(
            f"Feature view '{view.name}', column '{KNOWN_AT}'",
            expected="instants with a time zone",
            found=f"{known}"
            + (f", the first {_describe_first(view, frame)}" if frame.height and known.is_temporal() else ""),
            fix="Add the zone with .dt.replace_time_zone(zone); a time without a zone is ambiguous.",
        )
    frame = frame.with_columns(pl.col(KNOWN_AT).dt.convert_time_zone("UTC").dt.cast_time_unit("us").cast(INSTANT))
    for column in [*view.entity, KNOWN_AT]:
        if frame[column].null_count():
            rows = frame.filter(pl.col(column).is_null())
            raise ViewError(
                f"Feature view '{view.name}', column '{column}'",
                expected="no nulls",
                found=f"{rows.height} of {frame.height} rows without it, the first {_describe_first(view, rows)}",
                fix="Leave out rows without an entity or without a known_at.",
            )
    keys = [_typed_key(view, frame[name]) for name in view.entity]
    subject = f"Feature view '{view.name}'"
    stored = stored_values(view, frame, subject, lambda wrong: _describe_first(view, frame.filter(wrong)))
    values = [_cast(view, column, dtype, frame) for column, dtype in zip(stored, view.dtypes.values(), strict=True)]
    return pl.DataFrame([*keys, frame[KNOWN_AT], *values])


def _typed_key(view: FeatureView, column: pl.Series) -> pl.Series:
    subject = f"Feature view '{view.name}', key '{column.name}'"
    try:
        keys = typed_key(column, view.key_types.get(column.name), subject)
        require_storable_keys(keys, subject)
    except KeyTypeError as error:
        if column.name not in view.pii_names:
            raise
        found = f"{shown(error.found, column.name, view.pii_names)}"
        raise KeyTypeError(subject, expected=error.expected, found=found, fix=error.fix) from None
    return keys


def _cast(view: FeatureView, column: pl.Series, dtype: pl.DataType, frame: pl.DataFrame) -> pl.Series:
    # A finite sum rules out NaN and infinite values in one pass.
    if column.dtype == dtype and dtype.is_float() and math.isfinite(column.sum() or 0.0):
        return column
    subject = f"Feature view '{view.name}', column '{column.name}'"
    if dtype == INSTANT and isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is None:
        raise ViewError(
            subject,
            expected="instants with a time zone",
            found="times without one",
            fix="Add the zone with .dt.replace_time_zone(zone).",
        )
    if (
        column.dtype.is_numeric() != dtype.is_numeric()
        and column.dtype not in (pl.Null, pl.Boolean)
        and not isinstance(column.dtype, pl.Categorical | pl.Enum)
    ):
        raise ViewError(
            subject, expected=str(dtype), found=str(column.dtype), fix="Fix the function or the declared type."
        )
    try:
        cast = cast_exactly(column.fill_nan(None) if column.dtype.is_float() else column, dtype)
    except InexactValuesError as error:
        rows, first = frame.filter(error.rows), shown(column.filter(error.rows)[0], column.name, view.pii_names)
        raise ViewError(
            subject,
            expected=error.expected,
            found=f"{rows.height} of {frame.height} that are not, the first {first} of {_describe_first(view, rows)}",
            fix="Declare another type, or round the values in the function.",
        ) from error
    except pl.exceptions.InvalidOperationError as error:
        reason = shown(str(error).split("\n")[0], column.name, view.pii_names)
        raise ViewError(subject, expected=f"values of {dtype}", found=f"{reason}", fix="Declare a wider type.") from (
            None if column.name in view.pii_names else error
        )
    if cast.dtype.is_float() and not math.isfinite(cast.sum() or 0.0) and cast.is_infinite().any():
        rows = frame.filter(cast.is_infinite().fill_null(False))
        raise ViewError(
            subject,
            expected="finite values",
            found=f"{rows.height} infinite, the first {_describe_first(view, rows)}",
            fix="Return null where there is no value, for example for a division by zero.",
        )
    return cast


def _require_time_zone(view: FeatureView, window: Window) -> None:
    if window.start.tzinfo is None or window.end.tzinfo is None:
        raise ViewError(
            f"Window of feature view '{view.name}'",
            expected="bounds with a time zone",
            found=f"{window.start} to {window.end}",
            fix="Compute the window with ml_platform.data.partitions.PartitionScheme.bounds.",
        )


def _late_facts(view: FeatureView, facts: pl.DataFrame, lake: "Lake", partition: str | None) -> pl.DataFrame:
    if not lake.exists(view.table) or (partition is not None and partition not in lake.partitions(view.table)):
        return facts.clear()
    keys = [*view.entity, KNOWN_AT]
    published = lake.scan(view.table, partitions=None if partition is None else [partition])
    existing = published.select(keys).collect()
    if not existing.height:
        return facts.clear()
    return facts.filter(pl.col(KNOWN_AT) < existing[KNOWN_AT].max()).join(
        existing, on=keys, how="anti", maintain_order="left"
    )


def _describe_first(view: FeatureView, rows: pl.DataFrame) -> str:
    """Return ``origin=JFK at 2013-03-01T10:00+0000`` for the first of ``rows``."""
    row = rows.row(0, named=True)
    entity = ", ".join(f"{name}={shown(row[name], name, view.pii_names)}" for name in view.entity) or "the system"
    known = row[KNOWN_AT]
    return f"view '{view.name}', {entity} at {known:%Y-%m-%dT%H:%M%z}" if known else f"view '{view.name}', {entity}"
