"""Counts of predictions and outcomes by the day they were logged on and the day they predict.

Predictions are partitioned by the day on which they were logged, because a client may send any prediction time. These
counts say which partitions contain the predictions of a period, and whether anything about a period changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl
import sqlalchemy as sa

from ml_platform.state.schema import prediction_days
from ml_platform.state.store import StateStore

DAY_FORMAT = "%Y-%m-%d"
"""Form of the partitions of predictions and outcomes."""

_ADD = sa.text(
    "INSERT INTO prediction_days (model, day, predict_day, predictions, outcomes, labelled) "
    "VALUES (:model, :day, :predict_day, :predictions, :outcomes, :labelled) "
    "ON CONFLICT (model, day, predict_day) DO UPDATE SET "
    "predictions = prediction_days.predictions + excluded.predictions, "
    "outcomes = prediction_days.outcomes + excluded.outcomes, "
    "labelled = prediction_days.labelled + excluded.labelled"
)


@dataclass(frozen=True)
class DayCounts:
    """Counts for predictions that were logged on ``day`` and predict ``predict_day``, both in UTC."""

    day: str
    predict_day: str
    predictions: int
    outcomes: int
    labelled: int


def day_name(column: str) -> pl.Expr:
    """Return the UTC day of the time in ``column`` as text, like 2013-06-30."""
    return pl.col(column).dt.strftime(DAY_FORMAT)


def day_of(time: datetime) -> str:
    """Return the UTC day of ``time`` as text, like 2013-06-30."""
    return time.astimezone(UTC).date().isoformat()


def add_predictions(state: StateStore, model: str, predictions: pl.DataFrame) -> None:
    """Count new ``predictions`` (columns ``logged_at`` and ``predict_at``), in the current transaction."""
    counts = _by_days(predictions).agg(predictions=pl.len())
    _add(state, model, counts.with_columns(outcomes=0, labelled=0))


def add_outcomes(state: StateStore, model: str, facts: pl.DataFrame) -> None:
    """Count new ``facts`` about outcomes, in the current transaction.

    Besides ``logged_at`` and ``predict_at``, the column ``labelled`` is 1 where an outcome became known, -1 where it
    was withdrawn, and 0 where it was corrected.
    """
    counts = _by_days(facts).agg(outcomes=pl.len(), labelled=pl.col("labelled").sum())
    _add(state, model, counts.with_columns(predictions=0))


def day_counts(state: StateStore, model: str, first: date | None = None, last: date | None = None) -> list[DayCounts]:
    """Return the counts of ``model`` whose predicted day lies from ``first`` to ``last``, by day and predicted day."""
    columns = prediction_days.c
    query = sa.select(columns.day, columns.predict_day, columns.predictions, columns.outcomes, columns.labelled)
    query = query.where(columns.model == model).order_by(columns.day, columns.predict_day)
    if first is not None:
        query = query.where(columns.predict_day >= first.isoformat())
    if last is not None:
        query = query.where(columns.predict_day <= last.isoformat())
    with state.read() as connection:
        return [DayCounts(*row) for row in connection.execute(query)]


def prediction_count(state: StateStore, model: str, start: datetime, end: datetime) -> int:
    """Return the number of predictions of ``model`` made on the UTC days that begin from ``start`` until ``end``."""
    columns = prediction_days.c
    first, last = (instant.astimezone(UTC).strftime(DAY_FORMAT) for instant in (start, end - timedelta(microseconds=1)))
    query = sa.select(sa.func.sum(columns.predictions)).where(columns.model == model, columns.day.between(first, last))
    with state.read() as connection:
        return int(connection.scalar(query) or 0)


def labelled_count(state: StateStore, model: str) -> int:
    """Return the number of predictions of ``model`` of which the outcome is known."""
    query = sa.select(sa.func.sum(prediction_days.c.labelled)).where(prediction_days.c.model == model)
    with state.read() as connection:
        return int(connection.scalar(query) or 0)


def forget_days(state: StateStore, model: str, days: Sequence[str] | None = None) -> None:
    """Delete the counts of the partitions ``days`` (None: of all), in the current transaction."""
    query = sa.delete(prediction_days).where(prediction_days.c.model == model)
    with state.write() as connection:
        connection.execute(query if days is None else query.where(prediction_days.c.day.in_(list(days))))


def _by_days(rows: pl.DataFrame) -> "pl.dataframe.group_by.GroupBy":
    return rows.group_by(day=day_name("logged_at"), predict_day=day_name("predict_at"))


def _add(state: StateStore, model: str, counts: pl.DataFrame) -> None:
    if counts.height:
        with state.write() as connection:
            connection.execute(_ADD, [{"model": model, **row} for row in counts.to_dicts()])
