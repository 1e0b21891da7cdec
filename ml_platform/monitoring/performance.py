"""Metrics of each served version on the known outcomes, compared with its own evaluation.

Metrics on the known labels can mislead without counts. Every period therefore counts its predictions, known labels,
labels not due yet, and labels that are overdue. Each version is evaluated on its own predictions, also in a month in
which the champion changed. A period whose labels leave doubts is marked, corrected or withheld, as declared.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.monitoring.label_doubts import Doubt, base_rate_doubt, due_rows, maturity_doubt, missing_doubts
from ml_platform.monitoring.label_maturity import MaturityCurve, ages_at, expected_maturity, representative_rows
from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.monitoring.realised_arms import ArmMetrics
from ml_platform.monitoring.realised_fairness import RealisedFairness
from ml_platform.monitoring.realised_slices import SliceMetrics, slice_metrics
from ml_platform.monitoring.sampling_weights import equally_weighted, total_weight
from ml_platform.tasks.metrics import HIGHER_IS_BETTER

MetricFunction = Callable[[pl.DataFrame], dict[str, float]]
"""Metrics by name of labelled outcomes. Use those of the evaluation's task, so that both sides are comparable."""

BASE_RATE = "base_rate"
"""Name of the mean outcome among estimated numbers."""

LabelState = Literal["complete", "marked", "corrected", "withheld"]
"""Whether the labels of a period leave no doubt, or how its metrics are shown."""

_ROW_IDENTITY = ("request_id", "predict_at", "score")


class PerformanceError(PlatformError):
    """Raised when the expected and the realised metrics cannot be compared."""


class PerformanceSettings(Settings):
    """Settings of the comparison of served versions with their evaluation."""

    period: str = Field(default="1mo", pattern=r"^\d+(d|w|mo)$", description="Length of a period: 1d, 1w, 1mo, …")
    minimum_labels: int = Field(
        default=500,
        ge=2,
        description="Known labels that a period needs to be evaluated, and predictions to be estimated.",
    )
    minimum_slice_labels: int = Field(
        default=200,
        ge=2,
        description="Known labels that a slice of an evaluated period, or a candidate or shadow, needs to be measured. "
        "The slices are those of the evaluation.",
    )
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
    immature_labels: Literal["withhold", "correct", "mark"] = Field(
        default="mark",
        description="Metrics of a period whose labels leave doubts: mark shows them with the doubts, correct computes "
        "them from labels that represent all predictions by outcome, age and score, and withhold shows none.",
    )
    minimum_maturity: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Share of the labels that should be known by the age of the predictions, below which a period has "
        "doubts.",
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


@dataclass(frozen=True)
class LabelKnowledge:
    """Knowledge about the labels of one version from before a period.

    ``curve`` says how soon labels become known (None: at the label delay). ``usual_coverage`` is the share of examples
    that get a label at all (None: all). ``estimate`` returns the numbers by name that are expected on predictions,
    without their labels; ``base_rate`` is the mean outcome. ``intervals`` returns those of the metrics.
    """

    curve: MaturityCurve | None = None
    usual_coverage: float | None = None
    estimate: Callable[[pl.DataFrame], ExpectedMetrics] | None = None
    intervals: Callable[[pl.DataFrame], ExpectedMetrics] | None = None


NOTHING_KNOWN = LabelKnowledge()


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
    maturity: float = Field(
        default=1.0, description="Share of the labels that should be known by now, or that is known."
    )
    label_state: LabelState = Field(
        default="complete", description="Whether the labels leave no doubt, or how the metrics are shown."
    )
    doubts: list[Doubt] = Field(default_factory=list, description="Reasons why the known labels may mislead.")
    intervals: dict[str, ExpectedInterval] = Field(
        default_factory=dict, description="Metrics with their confidence intervals, where they have one."
    )
    estimates: dict[str, ExpectedInterval] = Field(
        default_factory=dict, description="Metrics that are expected on all predictions, without using their labels."
    )
    slices: list[SliceMetrics] = Field(
        default_factory=list, description="Metrics in the slices of an evaluated period that have enough labels."
    )
    arms: list[ArmMetrics] = Field(
        default_factory=list,
        description="Metrics of candidates and shadows of the period, with the stable version that predicted most.",
    )
    fairness: list[RealisedFairness] = Field(
        default_factory=list, description="Declared rates of groups in an evaluated period."
    )
    has_expectation: bool = Field(description="Whether this version has an evaluation to compare with.")
    promised: dict[str, ExpectedInterval] = Field(
        default_factory=dict, description="Metrics of the evaluation of this version; empty before the comparison."
    )
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

    @property
    def latest_doubtful(self) -> Period | None:
        """The latest period that is evaluated or withheld, if labels of it that are due are missing; else None."""
        found = (each for each in reversed(self.periods) if each.evaluated or each.label_state == "withheld")
        latest = next(found, None)
        return latest if latest is not None and any(each.is_of_missing_labels for each in latest.doubts) else None

    def table(self) -> pl.DataFrame:
        """Return one row per period and version: counts, base rate, and columns by metric.

        A metric has its value, the ends of its interval (``<metric>_low``, ``<metric>_high``) and, in columns that
        begin with ``estimated_``, the same without labels.
        """
        counts = [period.model_dump(exclude=_LISTED_APART) for period in self.periods]
        rows = [
            {
                **one,
                **period.metrics,
                **_interval_ends(period.intervals),
                **_estimated(period.estimates),
                "doubts": " ".join(each.text for each in period.doubts),
                "regressed_metrics": ", ".join(period.regressed_metrics),
            }
            for one, period in zip(counts, self.periods, strict=True)
        ]
        return pl.from_dicts(rows, infer_schema_length=None) if rows else pl.DataFrame()


_LISTED_APART = {
    *("arms", "fairness", "slices", "metrics", "shortfalls", "regressed_metrics"),
    *("doubts", "intervals", "estimates", "promised"),
}


def measure_performance(
    outcomes: pl.DataFrame,
    *,
    compute_metrics: MetricFunction,
    settings: PerformanceSettings,
    known_by: datetime,
    expected_by_version: Mapping[str, ExpectedMetrics] | None = None,
    knowledge: LabelKnowledge = NOTHING_KNOWN,
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
            measure_period(start, str(version), rows, compute_metrics, settings, known_by, knowledge)
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
    knowledge: LabelKnowledge = NOTHING_KNOWN,
) -> Period:
    """Return the counts and metrics of the ``outcomes`` of one version and period, not yet compared with anything.

    The columns by :func:`~ml_platform.monitoring.realised_slices.slice_column` define slices, which are measured too.
    Counts add up the column ``weight``, if there is one. Metrics and the required numbers of labels and days count rows
    of equal weight. Doubts about the labels follow from ``knowledge`` of earlier ones, and the setting
    ``immature_labels`` says how metrics on such labels are shown.
    """
    delay = settings.label_delay_hours
    counts = _counts(outcomes, settings, known_by)
    rows = equally_weighted(outcomes, ["request_id", "predict_at"]).sort(
        "predict_at", "score", OUTCOME, nulls_last=True
    )
    labelled = rows.drop_nulls(OUTCOME)
    missing = due_rows(rows.filter(pl.col(OUTCOME).is_null()), known_by, delay).height
    coverage = labelled.height / (labelled.height + missing) if labelled.height + missing else None
    # Labels may come sooner than they did, and those of a table without time are known before the prediction.
    maturity = max(
        expected_maturity(ages_at(rows["predict_at"], known_by), knowledge.curve, delay),
        labelled.height / max(1, rows.height),
    )
    pending = maturity_doubt(maturity, settings.minimum_maturity, counts["pending"])
    due = due_rows(rows, known_by, delay)
    doubts = [*([] if pending is None else [pending]), *missing_doubts(due, knowledge.usual_coverage)]
    doubts += _base_rate_doubts(labelled, coverage, knowledge)
    state: LabelState = "complete"
    if doubts:
        state = _STATES[settings.immature_labels]
    if state == "corrected":
        identity = [name for name in _ROW_IDENTITY if name in rows.columns]
        labelled = representative_rows(
            rows, known_by=known_by, curve=knowledge.curve, delay_hours=delay, identity=identity
        )
    days = labelled["predict_at"].dt.date().n_unique()
    enough = (
        labelled.height >= settings.minimum_labels
        and days >= min(settings.minimum_days, _days_in(settings.period))
        and coverage is not None
        and coverage >= settings.minimum_coverage
        and labelled[OUTCOME].n_unique() > 1
    )
    evaluated = enough and state != "withheld"
    return Period(
        start=start,
        version=version,
        predictions=counts["predictions"],
        labelled=counts["labelled"],
        pending=counts["pending"],
        missing=counts["missing"],
        coverage=coverage,
        days=days,
        evaluated=evaluated,
        mean_score=float(np.mean(rows["score"].to_numpy())),
        base_rate=_mean_outcome(labelled[OUTCOME]),
        metrics=compute_metrics(labelled) if evaluated else {},
        maturity=maturity,
        label_state=state,
        doubts=doubts,
        intervals=dict(knowledge.intervals(labelled)) if evaluated and knowledge.intervals else {},
        estimates=_estimates(rows, settings, knowledge),
        slices=slice_metrics(labelled, compute_metrics, settings.minimum_slice_labels) if evaluated else [],
        has_expectation=False,
        shortfalls={},
        regressed_metrics=[],
    )


def _estimates(
    rows: pl.DataFrame, settings: PerformanceSettings, knowledge: LabelKnowledge
) -> dict[str, ExpectedInterval]:
    """Return the estimates of as many predictions as a period needs labels; fewer have intervals that say nothing."""
    if knowledge.estimate is None or rows.height < settings.minimum_labels:
        return {}
    return dict(knowledge.estimate(rows))


_STATES: Mapping[str, LabelState] = {"mark": "marked", "correct": "corrected", "withhold": "withheld"}


def _base_rate_doubts(labelled: pl.DataFrame, coverage: float | None, knowledge: LabelKnowledge) -> list[Doubt]:
    """Return the doubt about the mean outcome of a task whose outcomes are 0 and 1; empty for other tasks."""
    base_rate = _mean_outcome(labelled[OUTCOME])
    if base_rate is None or coverage is None or knowledge.estimate is None:
        return []
    if not labelled[OUTCOME].cast(pl.Float64).is_in([0.0, 1.0]).all():
        return []
    expected = knowledge.estimate(labelled).get(BASE_RATE)
    if expected is None:
        return []
    ends = (expected.value, expected.low, expected.high)
    found = base_rate_doubt(base_rate, ends, coverage, knowledge.usual_coverage)
    return [] if found is None else [found]


def _interval_ends(intervals: ExpectedMetrics) -> dict[str, float]:
    return {
        f"{name}_{end}": value
        for name, each in intervals.items()
        for end, value in (("low", each.low), ("high", each.high))
    }


def _estimated(estimates: ExpectedMetrics) -> dict[str, float]:
    values = {f"estimated_{name}": each.value for name, each in estimates.items()}
    return values | _interval_ends({f"estimated_{name}": each for name, each in estimates.items()})


def _counts(outcomes: pl.DataFrame, settings: PerformanceSettings, known_by: datetime) -> dict[str, int]:
    unknown = outcomes.filter(pl.col(OUTCOME).is_null())
    missing = total_weight(due_rows(unknown, known_by, settings.label_delay_hours))
    return {
        "predictions": total_weight(outcomes),
        "labelled": total_weight(outcomes.drop_nulls(OUTCOME)),
        "pending": total_weight(unknown) - missing,
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
            "promised": dict(expected or {}),
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
