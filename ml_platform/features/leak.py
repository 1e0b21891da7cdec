"""The leak test: after all values known later than T are scrambled, no feature predicted by T may change by a bit.

This is a metamorphic test (Chen, Cheung and Yiu, 1998, Metamorphic testing: a new approach for generating next test
cases). It needs no oracle; it needs to know when each source column becomes known, and the views declare this. It finds
a wrong known_at, an aggregate that includes the row itself, an encoding over the whole table, and a join by date.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from ml_platform.data.pii import shown_rows
from ml_platform.errors import PlatformError, listed
from ml_platform.features import change_log
from ml_platform.features.change_log import Window
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.view import INSTANT, PREDICT_AT, ViewError

EXAMPLES_SHOWN = 5
SCRAMBLED_SPAN = timedelta(days=3)
"""Scrambled times lie up to this long after the cut."""

DROPPED_SHARE = 0.3
"""Share of dropped rows, among the rows that exist only after the cut."""

VANISHED_SHARE = 0.2
"""Share of nulls among scrambled values of a column that has nulls."""

_ROW = "_row"


class LeakFoundError(PlatformError):
    """Raised by :meth:`LeakReport.raise_if_failed` when a feature changes with values that were not known yet."""


@dataclass(frozen=True)
class ColumnAvailability:
    """When the columns of a dataset become known: upfront, or some minutes after the time in another column.

    ``available_from`` maps a column to its time column and the delay in minutes.
    """

    known_upfront: frozenset[str]
    available_from: dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Leak:
    """A feature that uses the future: the number of changed examples, and up to five of them, before and after."""

    view: str
    feature: str
    cut: datetime
    rows: int
    examples: list[dict[str, object]]


@dataclass(frozen=True)
class LeakReport:
    """The leaks that the test found, its cuts, and the number of features and examples that it compared."""

    leaks: list[Leak]
    cuts: list[datetime]
    features: int
    examples: int

    @property
    def passed(self) -> bool:
        return not self.leaks

    def raise_if_failed(self) -> None:
        """Raise :class:`LeakFoundError` when there is a leak."""
        if self.leaks:
            names = list(dict.fromkeys(leak.feature for leak in self.leaks))
            raise LeakFoundError(
                "Leak test",
                expected="features that do not change when later values are scrambled",
                found=f"{len(names)} that do: {listed(names)}",
                fix="Correct known_at in the functions of these views: it is the time at which each fact became known.",
            )


def run_leak_test(
    feature_set: FeatureSet,
    sources: Mapping[str, pl.LazyFrame],
    examples: pl.LazyFrame,
    window: Window,
    cuts: Sequence[datetime],
    seed: int = 0,
) -> LeakReport:
    """Rebuild the views for each cut T on scrambled ``sources`` and compare the features predicted at or before T.

    ``sources`` are the datasets by name, for the window and its lookback. ``examples`` have the request fields and
    predict_at. Features of examples predicted at or before a cut must equal those of the original sources, bit by bit.
    Raises :class:`ViewError` in three cases: no declaration says when a column becomes known, two views disagree about
    a column, or no example lies before a cut (a test without examples would pass).
    """
    known = column_availability(feature_set)
    frames = {name: sources[name].select(_columns(known[name])).collect() for name in known}
    rows = examples.with_row_index(_ROW).collect()
    truth = _read(feature_set, frames, rows, window)
    leaks: list[Leak] = []
    for index, cut in enumerate(cuts):
        past = rows.filter(pl.col(PREDICT_AT) <= cut)
        if not past.height:
            raise ViewError(
                "Leak test",
                expected=f"examples predicted by {cut:%Y-%m-%dT%H:%M%z}",
                found="none",
                fix="Choose a later cut.",
            )
        random = np.random.default_rng([seed, index])
        scrambled = {name: scramble(frame, known[name], cut, random) for name, frame in frames.items()}
        after = _read(feature_set, scrambled, past, window)
        leaks += _differences(feature_set, truth, after, cut)
    return LeakReport(leaks, list(cuts), len(feature_set.feature_names), rows.height)


def choose_cuts(examples: pl.LazyFrame, count: int = 3) -> list[datetime]:
    """Return ``count`` prediction times that divide the examples evenly; the choice is deterministic."""
    times = examples.select(pl.col(PREDICT_AT).sort()).collect()[PREDICT_AT]
    return [times[int(len(times) * (index + 1) / (count + 1))] for index in range(count)]


def column_availability(feature_set: FeatureSet) -> dict[str, ColumnAvailability]:
    """Return, by dataset, when its columns become known, as the views of the set declare it.

    Raises :class:`ViewError` when a column has no declaration, or two that differ.
    """
    declared: dict[str, dict[str, tuple[str, int] | None]] = {}
    for view in feature_set.stored:
        for source in view.sources:
            columns = declared.setdefault(source.dataset, {})
            named: dict[str, tuple[str, int] | None] = dict.fromkeys(source.known_upfront)
            for time_column, names in source.available_from.items():
                named |= dict.fromkeys(names, (time_column, source.available_after_minutes))
            undeclared = [column for column in source.columns if column not in named]
            if undeclared or not source.visible_columns:
                raise ViewError(
                    f"Feature view '{view.name}', source '{source.dataset}'",
                    expected="for every column, when it becomes known",
                    found=f"nothing about {listed(undeclared) if undeclared else 'any column'}",
                    fix="Move columns from 'columns' to 'known_upfront', or to 'available_from' under a time column.",
                )
            conflicting = [column for column, when in named.items() if columns.get(column, when) != when]
            if conflicting:
                raise ViewError(
                    f"Feature view '{view.name}', source '{source.dataset}'",
                    expected="views that agree when a column becomes known",
                    found=f"another view with another declaration for {listed(conflicting)}",
                    fix="Correct one of the two declarations.",
                )
            columns |= named
    return {
        dataset: ColumnAvailability(
            frozenset(column for column, when in columns.items() if when is None),
            {column: when for column, when in columns.items() if when is not None},
        )
        for dataset, columns in declared.items()
    }


def scramble(
    frame: pl.DataFrame, known: ColumnAvailability, cut: datetime, random: np.random.Generator
) -> pl.DataFrame:
    """Return ``frame`` with every value replaced that becomes known after ``cut``, or never did.

    A replacement is a value of another such row; a time becomes a random time after the cut. In a column with nulls,
    one replaced value in five becomes null. If no column is known upfront, three in ten rows of the future vanish,
    because their existence was not known either.
    """
    times = sorted(set(known.available_from.values()))
    late = {(at, delay): _is_late(frame[at], cut - timedelta(minutes=delay)) for at, delay in times}
    columns = {
        column: _scramble_column(frame[column], late[when], cut, random, is_key=column == when[0])
        for column, when in known.available_from.items()
    }
    scrambled = frame.with_columns(**columns)
    if known.known_upfront or not late:
        return scrambled
    unknown = np.logical_and.reduce(list(late.values()))
    return scrambled.filter(pl.Series(~(unknown & (random.random(frame.height) < DROPPED_SHARE))))


def _is_late(times: pl.Series, cut: datetime) -> np.ndarray:
    # An event without a time may still happen, so null counts as late.
    return (times > cut).fill_null(True).to_numpy()


def _scramble_column(
    column: pl.Series, late: np.ndarray, cut: datetime, random: np.random.Generator, *, is_key: bool
) -> pl.Series:
    positions = np.flatnonzero(late)
    if not len(positions):
        return column
    if isinstance(column.dtype, pl.Datetime) and is_key:
        base = column.fill_null(cut).dt.convert_time_zone("UTC").cast(INSTANT)
        minutes = random.integers(1, int(SCRAMBLED_SPAN.total_seconds() // 60), len(positions))
        values = base.to_physical().to_numpy().copy()
        values[positions] = int(cut.timestamp() * 1_000_000) + minutes * 60_000_000
        scrambled_values = pl.Series(column.name, values).cast(INSTANT)
    else:
        order = np.arange(len(column))
        order[positions] = random.permutation(positions)
        scrambled_values = column.gather(order)
    if not column.null_count():
        return scrambled_values
    vanished = np.zeros(len(column), dtype=bool)
    vanished[positions] = random.random(len(positions)) < VANISHED_SHARE
    return pl.select(pl.when(pl.Series(~vanished)).then(scrambled_values)).to_series().alias(column.name)


def _columns(known: ColumnAvailability) -> list[str]:
    times = [at for at, _ in known.available_from.values()]
    return sorted({*known.known_upfront, *known.available_from, *times})


def _read(
    feature_set: FeatureSet, sources: Mapping[str, pl.DataFrame], rows: pl.DataFrame, window: Window
) -> pl.DataFrame:
    lazy = {name: frame.lazy() for name, frame in sources.items()}
    logs = {view.name: change_log.build(view, lazy, window).frame.lazy() for view in feature_set.stored}
    return feature_set.as_of(rows.lazy(), logs).collect().sort(_ROW)


def _differences(feature_set: FeatureSet, truth: pl.DataFrame, after: pl.DataFrame, cut: datetime) -> list[Leak]:
    before = truth.join(after.select(_ROW), on=_ROW, how="semi", maintain_order="left")
    leaks = []
    for view in feature_set.views:
        for feature in (name for name in view.feature_names if name in feature_set.feature_names):
            differs = before[feature].ne_missing(after[feature])
            if differs.any():
                shown = before.filter(differs).head(EXAMPLES_SHOWN)
                changed = after.filter(differs).head(EXAMPLES_SHOWN)[feature]
                pii = feature_set.pii_columns
                hidden = {*pii, *(("before", "after") if feature in pii else ())}
                context = shown.select(*feature_set.fields, PREDICT_AT, before=feature).with_columns(after=changed)
                leaks.append(Leak(view.name, feature, cut, int(differs.sum()), shown_rows(context, hidden)))
    return leaks
