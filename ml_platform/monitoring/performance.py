"""Metrics of each served version on the known outcomes, compared with its own evaluation.

Metrics on the known labels can mislead without counts. Every period therefore counts its predictions, known labels,
labels not due yet, and labels that are overdue. Each version is evaluated on its own predictions, also in a month in
which the champion changed.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.monitoring.sampling_weights import equally_weighted, total_weight
from ml_platform.tasks.metrics import HIGHER_IS_BETTER

MetricFunction = Callable[[pl.DataFrame], dict[str, float]]
"""Metrics by name of labelled outcomes. Use those of the evaluation's task, so that both sides are comparable."""


class PerformanceError(PlatformError):
    """Raised when the expected and the realised metrics cannot be compared."""


class PerformanceSettings(Settings):
    """Settings of the comparison of served versions with their evaluation."""

    period: str = Field(default="1mo", pattern=r"^\d+(d|w|mo)$", description="Length of a period: 1d, 1w, 1mo, …")
    minimum_labels: int = Field(default=500, ge=2, description="Known labels that a period needs to be evaluated.")
    minimum_days: int = Field(
        default=7,
        ge=1,
        description="Days with known labels that a period needs to be evaluated (all days of a shorter period).",
    )
    minimum_coverage: float = Field(
        default=0.5, ge=0, le=1, description="Share of the due labels that must be known for a period to be evaluated."
    )
    label_delay_hours: float = Field(
        default=48, ge=0, description="Hours after the prediction time from which an unknown label counts as missing."
    )
    higher_is_better: list[str] = Field(
        default_factory=lambda: sorted(HIGHER_IS_BETTER),
        description="Metrics of which a higher value is better. Of all others a lower value is better.",
    )
    tolerances: dict[str, float] = Field(
        default={"auc": 0.03, "log_loss": 0.05, "ece": 0.03, "accuracy": 0.05},
        description="By metric, accepted difference to the worse. Defaults for metrics of other tasks have no effect.",
    )


class ExpectedInterval(BaseModel):
    """The value and interval of one metric in an evaluation; without an interval both ends equal the value."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


ExpectedMetrics = Mapping[str, ExpectedInterval]
"""The metrics of one version's evaluation, by name."""


def expected_metrics(numbers: Mapping[str, float]) -> dict[str, ExpectedInterval]:
    """Return the metrics of an evaluation's ``numbers`` that have both ``<name>_low`` and ``<name>_high``.

    >>> expected_metrics({"auc": 0.79, "auc_low": 0.77, "auc_high": 0.81, "rows": 900.0})
    {'auc': ExpectedInterval(value=0.79, low=0.77, high=0.81)}
    """
    return {
        name: ExpectedInterval(value=value, low=numbers[f"{name}_low"], high=numbers[f"{name}_high"])
        for name, value in numbers.items()
        if f"{name}_low" in numbers and f"{name}_high" in numbers
    }


class Period(BaseModel):
    """Predictions, labels and metrics of one version in one period."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    version: str
    predictions: int
    labelled: int
    pending: int = Field(description="Predictions without a label that is not due yet.")
    missing: int = Field(description="Predictions without a label that is due: cancelled, lost or late.")
    coverage: float | None = Field(description="Labelled divided by labelled plus missing; null while no label is due.")
    days: int = Field(description="Days with known labels. Labels of one day are not independent.")
    evaluated: bool = Field(
        description="Whether there are enough labels, days and coverage, and more than one outcome."
    )
    mean_score: float
    base_rate: float | None = Field(
        description="Mean outcome of the labelled predictions; null without labels, and for outcomes that are classes."
    )
    metrics: dict[str, float] = Field(description="Metrics of the labelled predictions; empty if not evaluated.")
    has_expectation: bool = Field(description="Whether this version has an evaluation to compare with.")
    shortfalls: dict[str, float] = Field(
        description="By metric with a tolerance, how much worse than expected; negative: better."
    )
    regressed_metrics: list[str] = Field(
        description="Metrics that are outside the expected interval and worse by more than their tolerance."
    )


class PerformanceReport(BaseModel):
    """All periods in order of time, then of version."""

    model_config = ConfigDict(frozen=True)

    periods: list[Period]

    @property
    def latest(self) -> Period | None:
        """The latest evaluated period, or None."""
        return next((period for period in reversed(self.periods) if period.evaluated), None)

    def table(self) -> pl.DataFrame:
        """Return one row per period and version: counts, base rate, and one column per metric."""
        counts = [period.model_dump(exclude={"metrics", "shortfalls", "regressed_metrics"}) for period in self.periods]
        rows = [
            {**one, **period.metrics, "regressed_metrics": ", ".join(period.regressed_metrics)}
            for one, period in zip(counts, self.periods, strict=True)
        ]
        return pl.from_dicts(rows, infer_schema_length=None) if rows else pl.DataFrame()


def measure_performance(
    outcomes: pl.DataFrame,
    *,
    compute_metrics: MetricFunction,
    settings: PerformanceSettings,
    known_by: datetime,
    expected_by_version: Mapping[str, ExpectedMetrics] | None = None,
) -> PerformanceReport:
    """Evaluate ``outcomes`` of one model and role by period and version.

    ``outcomes`` has ``version``, ``predict_at`` (UTC), ``score`` and ``outcome`` (null: unknown), as ``with_outcomes``
    returns them. Periods are calendar days, weeks or months in UTC, by ``predict_at``. A period with too few labels or
    days, too little coverage or a single class is counted but not evaluated.

    ``expected_by_version`` maps a version to the metrics of its evaluation. A metric has regressed when it is worse
    than the worse end of its expected interval, *and* worse than its expected value by more than its tolerance. No
    metric of a version without an evaluation has regressed.
    Raises :class:`PerformanceError` when a tolerance is set for a metric that either side lacks.
    """
    periods = outcomes.with_columns(pl.col("predict_at").dt.truncate(settings.period).alias("period_start"))
    return performance_report(
        [
            measure_period(start, str(version), rows, compute_metrics, settings, known_by)
            for (start, version), rows in periods.group_by("period_start", "version", maintain_order=True)
        ],
        settings,
        expected_by_version,
    )


def performance_report(
    periods: Iterable[Period],
    settings: PerformanceSettings,
    expected_by_version: Mapping[str, ExpectedMetrics] | None = None,
) -> PerformanceReport:
    """Return measured ``periods`` in order, each compared with the evaluation of its version.

    Raises :class:`PerformanceError` as :func:`measure_performance`.
    """
    ordered = sorted(periods, key=lambda period: (period.start, _version_sort_key(period.version)))
    return PerformanceReport(
        periods=[_compared(period, (expected_by_version or {}).get(period.version), settings) for period in ordered]
    )


def measure_period(
    start: Any,
    version: str,
    outcomes: pl.DataFrame,
    compute_metrics: MetricFunction,
    settings: PerformanceSettings,
    known_by: datetime,
) -> Period:
    """Return the counts and metrics of the ``outcomes`` of one version and period, not yet compared with anything.

    Counts add up the column ``weight``, if there is one. Metrics and the required numbers of labels and days count rows
    of equal weight.
    """
    counts = _counts(outcomes, settings, known_by)
    rows = equally_weighted(outcomes, ["request_id", "predict_at"]).sort(
        "predict_at", "score", OUTCOME, nulls_last=True
    )
    labelled = rows.drop_nulls(OUTCOME)
    due = pl.col("predict_at") + timedelta(hours=settings.label_delay_hours) <= known_by
    missing = rows.filter(pl.col(OUTCOME).is_null(), due).height
    coverage = labelled.height / (labelled.height + missing) if labelled.height + missing else None
    days = labelled["predict_at"].dt.date().n_unique()
    evaluated = (
        labelled.height >= settings.minimum_labels
        and days >= min(settings.minimum_days, _days_in(settings.period))
        and coverage is not None
        and coverage >= settings.minimum_coverage
        and labelled[OUTCOME].n_unique() > 1
    )
    return Period(
        start=start,
        version=version,
        **counts,
        coverage=coverage,
        days=days,
        evaluated=evaluated,
        mean_score=float(np.mean(rows["score"].to_numpy())),
        base_rate=_mean_outcome(labelled[OUTCOME]),
        metrics=compute_metrics(labelled) if evaluated else {},
        has_expectation=False,
        shortfalls={},
        regressed_metrics=[],
    )


def _counts(outcomes: pl.DataFrame, settings: PerformanceSettings, known_by: datetime) -> dict[str, int]:
    due = pl.col("predict_at") + timedelta(hours=settings.label_delay_hours) <= known_by
    unknown = outcomes.filter(pl.col(OUTCOME).is_null())
    missing = total_weight(unknown.filter(due))
    return {
        "predictions": total_weight(outcomes),
        "labelled": total_weight(outcomes.drop_nulls(OUTCOME)),
        "pending": total_weight(unknown.filter(~due)),
        "missing": missing,
    }


def _mean_outcome(outcome: pl.Series) -> float | None:
    return float(np.mean(outcome.to_numpy())) if len(outcome) and outcome.dtype.is_numeric() else None


def _version_sort_key(version: Any) -> tuple[int, str]:
    return (int(version), "") if str(version).isdigit() else (0, str(version))


def _compared(period: Period, expected: ExpectedMetrics | None, settings: PerformanceSettings) -> Period:
    shortfalls = _shortfalls(period.metrics, expected, settings) if period.evaluated and expected else {}
    regressed = [
        name
        for name, gap in shortfalls.items()
        if gap > settings.tolerances[name]
        and _is_worse_than_interval(period.metrics[name], (expected or {})[name], name, settings)
    ]
    return period.model_copy(
        update={
            "has_expectation": expected is not None,
            "shortfalls": shortfalls,
            "regressed_metrics": regressed,
        }
    )


def _days_in(period: str) -> int:
    """Return the number of days in the shortest period of a length such as 2w."""
    count, unit = int(period.rstrip("dwmo")), period.lstrip("0123456789")
    return count * {"d": 1, "w": 7, "mo": 28}[unit]


def _is_worse_than_interval(value: float, expected: ExpectedInterval, name: str, settings: PerformanceSettings) -> bool:
    return value < expected.low if name in settings.higher_is_better else value > expected.high


def _shortfalls(
    metrics: Mapping[str, float], expected: ExpectedMetrics, settings: PerformanceSettings
) -> dict[str, float]:
    common = [name for name in metrics if name in expected]
    unknown = [name for name in settings.tolerances if name not in common]
    if unknown and "tolerances" in settings.model_fields_set:
        raise PerformanceError(
            f"Tolerance for '{unknown[0]}'",
            expected=f"one of the metrics that are both expected and realised: {listed(common, 12)}",
            found=f"{len(unknown)} other: {listed(unknown)}",
            fix=f"Correct monitors.performance.tolerances.{did_you_mean(unknown[0], common)}",
        )
    gaps = {name: expected[name].value - metrics[name] for name in settings.tolerances if name in common}
    return {name: gap if name in settings.higher_is_better else -gap for name, gap in gaps.items()}
