"""The maturity curve of a model, learnt from its outcomes and stored until a further day of predictions is due."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.monitoring.label_maturity import AGE_HOURS, MaturityCurve, learn_curve
from ml_platform.monitoring.outcomes import OUTCOME, OUTCOME_KNOWN_AT, current_outcomes
from ml_platform.monitoring.prediction_days import DayCounts, day_counts, day_name
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.store import StateStore

LEARNT_DAYS = 92
"""Days of predictions, the last ones whose labels are due, from which a curve is learnt."""

LEARNT_LABELS = 50_000
"""Labels from which on no earlier day is read."""

LABEL_MATURITY = "label_maturity/"
"""Start of the cursors of maturity curves, which go on with the model."""


def maturity_curve(
    lake: Lake, model: str, *, known_by: datetime, delay_hours: float, outcome_type: pl.DataType | None = None
) -> MaturityCurve | None:
    """Return the curve of the labels of ``model`` whose predictions are due at ``known_by``; None for too few labels.

    Labels count wherever their predictions were served. The curve is learnt again when a further day is due.
    """
    last = (known_by.astimezone(UTC) - timedelta(hours=delay_hours)).date() - timedelta(days=1)
    stored = read_maturity_curve(lake.state, model)
    if stored is not None and stored.until == last.isoformat():
        return stored
    parts: list[pl.DataFrame] = []
    for day in _days_before(lake.state, model, last):
        parts.append(_ages_of_day(lake, model, day, outcome_type))
        if sum(part.height for part in parts) >= LEARNT_LABELS:
            break
    curve = learn_curve(pl.concat(parts), last.isoformat()) if parts else None
    if curve is not None:
        write_cursor(lake.state, f"{LABEL_MATURITY}{model}", curve.model_dump(mode="json"))
    return curve


def read_maturity_curve(state: StateStore, model: str) -> MaturityCurve | None:
    """Return the stored curve of ``model``; None before the first one."""
    found: Any = read_cursor(state, f"{LABEL_MATURITY}{model}")
    return None if found is None else MaturityCurve.model_validate(found)


def _days_before(state: StateStore, model: str, last: date) -> Iterator[list[DayCounts]]:
    """Yield the counts of each predicted day with outcomes until ``last``, latest first."""
    by_day: dict[str, list[DayCounts]] = {}
    for each in day_counts(state, model, first=last - timedelta(days=LEARNT_DAYS), last=last):
        if each.labelled:
            by_day.setdefault(each.predict_day, []).append(each)
    for day in sorted(by_day, reverse=True):
        yield by_day[day]


def _ages_of_day(lake: Lake, model: str, counts: list[DayCounts], outcome_type: pl.DataType | None) -> pl.DataFrame:
    facts = current_outcomes(lake, model, [each.day for each in counts], outcome_type)
    own = facts.filter(day_name("predict_at") == counts[0].predict_day)
    age = (pl.col(OUTCOME_KNOWN_AT) - pl.col("predict_at")).dt.total_seconds() / 3600.0
    return own.select(OUTCOME, age.alias(AGE_HOURS))
