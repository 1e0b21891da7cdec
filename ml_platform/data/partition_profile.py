"""The profile of one partition: a small record of its rows, whose size does not depend on their number.

Profiles are compared with each other later, so nothing has to read the rows of earlier partitions again.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
import polars.selectors as cs
from pydantic import BaseModel, ConfigDict

from ml_platform.data.canonical import value_digest

MAX_CATEGORIES = 100
"""Different values up to which a column of text has categories."""

EXAMPLE_CATEGORIES = 20
"""Categories that are kept of a column with more values."""

MIN_CATEGORY_ROWS = 5
"""Rows that such a category has at least."""

MAX_CATEGORY_LENGTH = 80
"""Characters of a category that are kept."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

_NUMBERS = cs.numeric() | cs.duration()
_CATEGORIES = cs.string() | cs.boolean()


class ColumnProfile(BaseModel):
    """One column of a partition; shares are parts of its rows.

    ``categories`` has the rows of each value of a column with few values (text and booleans), and of the most frequent
    ones of other text. ``quantiles`` are at :data:`QUANTILES` of a number, seconds of a duration. ``top_share`` is the
    share of the most frequent number among those that are not null. Columns that identify a person have neither.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    null_share: float
    distinct: int | None = None
    categories: dict[str, int] | None = None
    quantiles: list[float] | None = None
    top_share: float | None = None

    @property
    def has_all_categories(self) -> bool:
        return self.categories is not None and self.distinct is not None and self.distinct <= MAX_CATEGORIES


class PartitionProfile(BaseModel):
    """The profile of one partition as it landed.

    ``newest`` and ``oldest`` are events in UTC; ``after_landing`` counts events after ``landed_at``. ``part_until`` is
    the time until which a partition has arrived that is not over. ``repeated_keys`` is the share of keys that the
    partition before has too.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    landed_at: datetime
    columns: dict[str, ColumnProfile]
    newest: datetime | None = None
    oldest: datetime | None = None
    after_landing: int = 0
    part_until: datetime | None = None
    repeated_keys: float | None = None

    @property
    def content(self) -> str:
        """A digest of all statistics of the rows; equal rows have equal ones."""
        columns = {name: each.model_dump(mode="json") for name, each in self.columns.items()}
        return value_digest([self.rows, str(self.newest), str(self.oldest), columns])


def profile_partition(
    frame: pl.DataFrame,
    landed_at: datetime,
    clock: Sequence[str] = (),
    pii_columns: Collection[str] = (),
    clock_tolerance: timedelta = timedelta(),
) -> PartitionProfile:
    """Return the profile of the rows ``frame``, which landed at ``landed_at``.

    ``clock`` are the timestamp columns that say when an event happened; of several, the latest value counts. NaN counts
    as null. Events after the landing count from ``clock_tolerance`` on. A column that identifies a person has its type
    and its share of nulls only.
    """
    numbers = frame.select(_NUMBERS).columns
    categories = frame.select(_CATEGORIES).columns
    nulls = frame.select(pl.all().null_count() / max(frame.height, 1)) if frame.width else frame
    shares: Mapping[str, float] = nulls.row(0, named=True) if frame.width else {}
    columns = {}
    for name, dtype in frame.schema.items():
        series = frame[name]
        shown = name not in pii_columns
        if shown and name in numbers:
            columns[name] = _numbers(str(dtype), series)
        elif shown and name in categories:
            columns[name] = _categories(str(dtype), series, shares[name])
        else:
            columns[name] = ColumnProfile(type=str(dtype), null_share=round(shares[name], 9))
    events = [frame[name].drop_nulls() for name in clock if name in frame.columns]
    events = [each for each in events if each.len()]
    newest = max((_instant(each.max()) for each in events), default=None)
    return PartitionProfile(
        rows=frame.height,
        landed_at=landed_at,
        columns=columns,
        newest=newest,
        oldest=min((_instant(each.min()) for each in events), default=None),
        after_landing=max((int((each > landed_at + clock_tolerance).sum()) for each in events), default=0),
    )


def repeated_keys(keys: pl.DataFrame, before: pl.DataFrame) -> float:
    """Return the share of the rows ``keys`` that occur in ``before`` too, from 0 to 1; 0 without rows."""
    if not keys.height:
        return 0.0
    return keys.join(before.unique(), on=keys.columns, how="semi", nulls_equal=True).height / keys.height


def _numbers(dtype: str, series: pl.Series) -> ColumnProfile:
    if series.dtype == pl.Duration:
        series = series.dt.total_microseconds() / 1e6
    values = series.cast(pl.Float64).fill_nan(None)
    present = values.drop_nulls()
    nulls = round(values.null_count() / max(values.len(), 1), 9)
    if not present.len():
        return ColumnProfile(type=dtype, null_share=nulls, distinct=0)
    ordered = present.sort()
    # Of a sorted column, run lengths are the counts of its values.
    runs = ordered.rle().struct.field("len")
    quantiles = [float(ordered.quantile(at, "nearest") or 0.0) for at in QUANTILES]
    top = float(runs.max() or 0) / present.len()  # type: ignore[arg-type]
    return ColumnProfile(
        type=dtype, null_share=nulls, distinct=runs.len(), quantiles=quantiles, top_share=round(top, 9)
    )


def _categories(dtype: str, series: pl.Series, null_share: float) -> ColumnProfile:
    present = series.drop_nulls().cast(pl.String).alias("value")
    counts = present.value_counts(sort=False).sort(["count", "value"], descending=[True, False])
    if counts.height > MAX_CATEGORIES:
        # Values that occur once or twice are names and numbers rather than categories.
        kept = counts.filter(pl.col("count") >= MIN_CATEGORY_ROWS).head(EXAMPLE_CATEGORIES)
    else:
        kept = counts
    categories: dict[str, int] = {}
    for value, count in kept.iter_rows():
        name = value[:MAX_CATEGORY_LENGTH]
        categories[name] = categories.get(name, 0) + count
    return ColumnProfile(type=dtype, null_share=round(null_share, 9), distinct=counts.height, categories=categories)


def _instant(value: object) -> datetime:
    assert isinstance(value, datetime)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
