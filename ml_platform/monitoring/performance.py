"""How well each version in service did, as far as outcomes are known, against what its own evaluation promised.

Metrics of the labels that happen to be known say little without how many there are: every number comes with counts of
predictions, of labels known, of labels not due yet, and of labels that should have come and have not. Versions are
judged apart: in a month in which the champion changed, each answers for its own predictions.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.monitoring.outcomes import OUTCOME

Score = Callable[[NDArray[Any], NDArray[Any]], dict[str, float]]
"""Metrics by name from (label, probability); the evaluation's own, so that promise and outcome are the same number."""


class PerformanceError(PlatformError):
    """Raised when a promise and the realised metrics cannot be compared."""


class PerformanceSettings(Settings):
    """When a model is said to break its promise."""

    period: str = Field(default="1mo", pattern=r"^\d+(d|w|mo)$", description="Length of a period: 1d, 1w, 1mo, …")
    minimum_labels: int = Field(default=500, ge=2, description="Known labels a period needs to be judged.")
    minimum_days: int = Field(
        default=7, ge=1, description="Days with known labels a period needs to be judged (all of a shorter period)."
    )
    minimum_coverage: float = Field(
        default=0.5, ge=0, le=1, description="Share of the labels due that must be known for a period to be judged."
    )
    label_delay_hours: float = Field(
        default=48, ge=0, description="Hours after the prediction from which a label still unknown counts as missing."
    )
    higher_is_better: list[str] = Field(
        default=["auc", "average_precision"], description="Metrics that should be high; all others should be low."
    )
    tolerances: dict[str, float] = Field(
        default={"auc": 0.03, "log_loss": 0.05, "ece": 0.03},
        description="By metric, how much worse than promised is let pass; of the defaults those that the task has.",
    )


class Promised(BaseModel):
    """What an evaluation said of one metric, with its interval; without one, both ends are the value."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


Promise = Mapping[str, Promised]
"""Metrics by name, as the evaluation of one version found them."""


def promise_of(numbers: Mapping[str, float]) -> dict[str, Promised]:
    """Return the promise in an evaluation's plain ``numbers``: each metric beside its ``<name>_low`` and ``_high``.

    >>> promise_of({"auc": 0.79, "auc_low": 0.77, "auc_high": 0.81, "rows": 900.0})
    {'auc': Promised(value=0.79, low=0.77, high=0.81)}
    """
    return {
        name: Promised(value=value, low=numbers[f"{name}_low"], high=numbers[f"{name}_high"])
        for name, value in numbers.items()
        if f"{name}_low" in numbers and f"{name}_high" in numbers
    }


class Period(BaseModel):
    """What became of the predictions that one version made in one period."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    version: str
    predictions: int
    labelled: int
    pending: int = Field(description="Unlabelled, and not due yet.")
    missing: int = Field(description="Unlabelled although due: cancelled, lost, or late.")
    coverage: float | None = Field(description="Labelled out of labelled and missing; null while nothing is due.")
    days: int = Field(description="Days with known labels: those of one day share their fate.")
    judged: bool = Field(description="Enough labels, days, and labels of those due, and more than one outcome.")
    mean_score: float
    base_rate: float | None = Field(description="Mean outcome of the labelled; null without labels.")
    metrics: dict[str, float] = Field(description="Over the labelled; empty when not judged.")
    promised: bool = Field(description="Whether an evaluation of this version was found to hold it against.")
    shortfalls: dict[str, float] = Field(description="By metric with a tolerance, how much worse than promised.")
    broken: list[str] = Field(description="Metrics beyond the promised interval, and by more than their tolerance.")


class PerformanceReport(BaseModel):
    """All periods in order of time, and of versions within one."""

    model_config = ConfigDict(frozen=True)

    periods: list[Period]

    @property
    def latest(self) -> Period | None:
        """The newest period that could be judged, or None."""
        return next((period for period in reversed(self.periods) if period.judged), None)

    def table(self) -> pl.DataFrame:
        """Return one row per period and version: counts, base rate, and one column per metric."""
        plain = [period.model_dump(exclude={"metrics", "shortfalls", "broken"}) for period in self.periods]
        rows = [
            {**one, **period.metrics, "broken": ", ".join(period.broken)}
            for one, period in zip(plain, self.periods, strict=True)
        ]
        return pl.from_dicts(rows, infer_schema_length=None) if rows else pl.DataFrame()


def realised_performance(
    outcomes: pl.DataFrame,
    *,
    score: Score,
    settings: PerformanceSettings,
    known_by: datetime,
    promises: Mapping[str, Promise] | None = None,
) -> PerformanceReport:
    """Judge ``outcomes`` (of one model and role) by period and version.

    ``outcomes`` has ``version``, ``predict_at`` (UTC), ``score`` and ``outcome`` (null: unknown), as ``join_outcomes``
    returns them. Periods are calendar days, weeks or months in UTC, by ``predict_at``. ``promises`` are, by version,
    the metrics of its evaluation; without one nothing is broken. A metric is broken when it lies beyond the worse end
    of the promised interval, so that the evaluation's own doubt does not explain it, *and* is worse than the promised
    value by more than its tolerance. A period with too few labels or days, too little coverage or a single class is
    counted but not judged. Raises :class:`PerformanceError` when a tolerance is set for a metric that the promise or
    the realised metrics lack.
    """
    periods = outcomes.sort("predict_at").with_columns(
        pl.col("predict_at").dt.truncate(settings.period).alias("period_start")
    )
    return PerformanceReport(
        periods=[
            _period(start, str(version), rows, score, settings, known_by, (promises or {}).get(str(version)))
            for (start, version), rows in sorted(
                periods.group_by("period_start", "version"), key=lambda group: (group[0][0], _in_order(group[0][1]))
            )
        ]
    )


def _in_order(version: Any) -> tuple[int, str]:
    return (int(version), "") if str(version).isdigit() else (0, str(version))


def _period(
    start: Any,
    version: str,
    rows: pl.DataFrame,
    score: Score,
    settings: PerformanceSettings,
    known_by: datetime,
    promise: Promise | None,
) -> Period:
    labelled = rows.drop_nulls(OUTCOME)
    due = pl.col("predict_at") + timedelta(hours=settings.label_delay_hours) <= known_by
    missing = rows.filter(pl.col(OUTCOME).is_null(), due).height
    coverage = labelled.height / (labelled.height + missing) if labelled.height + missing else None
    days = labelled["predict_at"].dt.date().n_unique()
    judged = (
        labelled.height >= settings.minimum_labels
        and days >= min(settings.minimum_days, _days_in(settings.period))
        and coverage is not None
        and coverage >= settings.minimum_coverage
        and labelled[OUTCOME].n_unique() > 1
    )
    metrics = score(labelled[OUTCOME].to_numpy(), labelled["score"].to_numpy()) if judged else {}
    shortfalls = _shortfalls(metrics, promise, settings) if judged and promise else {}
    return Period(
        start=start,
        version=version,
        predictions=rows.height,
        labelled=labelled.height,
        pending=rows.height - labelled.height - missing,
        missing=missing,
        coverage=coverage,
        days=days,
        judged=judged,
        mean_score=float(np.mean(rows["score"].to_numpy())),
        base_rate=float(np.mean(labelled[OUTCOME].to_numpy())) if labelled.height else None,
        metrics=metrics,
        promised=promise is not None,
        shortfalls=shortfalls,
        broken=[
            name
            for name, gap in shortfalls.items()
            if gap > settings.tolerances[name] and _beyond(metrics[name], (promise or {})[name], name, settings)
        ],
    )


def _days_in(period: str) -> int:
    """Return the days in the shortest period of a length like 2w."""
    count, unit = int(period.rstrip("dwmo")), period.lstrip("0123456789")
    return count * {"d": 1, "w": 7, "mo": 28}[unit]


def _beyond(value: float, promised: Promised, name: str, settings: PerformanceSettings) -> bool:
    return value < promised.low if name in settings.higher_is_better else value > promised.high


def _shortfalls(metrics: Mapping[str, float], promise: Promise, settings: PerformanceSettings) -> dict[str, float]:
    common = [name for name in metrics if name in promise]
    unknown = [name for name in settings.tolerances if name not in common]
    if unknown and "tolerances" in settings.model_fields_set:
        raise PerformanceError(
            f"Tolerance for '{unknown[0]}'",
            expected=f"one of the metrics both promised and realised: {listed(common, 12)}",
            found=f"{len(unknown)} without: {listed(unknown)}",
            mend=f"Mend the tolerances of the monitor.{did_you_mean(unknown[0], common)}",
        )
    worse = {name: promise[name].value - metrics[name] for name in settings.tolerances if name in common}
    return {name: gap if name in settings.higher_is_better else -gap for name, gap in worse.items()}
