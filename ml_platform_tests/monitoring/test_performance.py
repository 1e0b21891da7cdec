"""Realised metrics by period, on outcomes whose metrics are computed by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ml_platform.monitoring.performance import (
    ExpectedInterval,
    PerformanceError,
    PerformanceReport,
    PerformanceSettings,
    expected_metrics,
    measure_performance,
)
from ml_platform.monitoring.realised_slices import MOST_SLICES

JULY = datetime(2013, 7, 1, tzinfo=UTC)
LATER = datetime(2013, 12, 1, tzinfo=UTC)


def share_right(labelled: pl.DataFrame) -> dict[str, float]:
    """Return a metric that is easy to count by hand: the share on the correct side of one half, and its complement."""
    right = float(((labelled["score"] > 0.5) == (labelled["outcome"] > 0.5)).to_numpy().mean())
    return {"share_right": right, "share_wrong": 1 - right}


def month(right: int, wrong: int, unknown: int = 0, start: datetime = JULY, version: str = "7") -> pl.DataFrame:
    """Return ``right`` and ``wrong`` labelled predictions (outcomes alternate) and ``unknown`` ones, at ``start``."""
    truth = [float(at % 2) for at in range(right + wrong)]
    scores = [abs(one - 0.1) for one in truth[:right]] + [abs(one - 0.9) for one in truth[right:]]
    return pl.DataFrame(
        {
            "version": version,
            "predict_at": start,
            "score": scores + [0.5] * unknown,
            "outcome": truth + [None] * unknown,
        },
        schema={
            "version": pl.String,
            "predict_at": pl.Datetime("us", "UTC"),
            "score": pl.Float64,
            "outcome": pl.Float64,
        },
    )


def performance_of(
    outcomes: pl.DataFrame, expected: dict[str, float] | None = None, known_by: datetime = LATER, **changes: Any
) -> PerformanceReport:
    defaults = {
        "minimum_labels": 10,
        "minimum_days": 1,
        "tolerances": {"share_right": 0.05},
        "higher_is_better": ["share_right"],
    }
    settings = PerformanceSettings.model_validate({**defaults, **changes})
    intervals = {name: ExpectedInterval(value=value, low=value, high=value) for name, value in (expected or {}).items()}
    expected_by_version = {"7": intervals} if expected else {}
    return measure_performance(
        outcomes,
        compute_metrics=share_right,
        settings=settings,
        known_by=known_by,
        expected_by_version=expected_by_version,
    )


def test_metrics_are_computed_on_the_labelled_rows() -> None:
    period = performance_of(month(right=80, wrong=20, unknown=50)).periods[0]
    assert (period.metrics["share_right"], period.base_rate) == (0.8, 0.5)


def test_slices_with_enough_labels_are_measured_apart() -> None:
    rows = pl.concat(
        [
            month(right=30, wrong=10).with_columns(pl.lit("EWR").alias("slice.origin")),
            month(right=10, wrong=30).with_columns(pl.lit(None, pl.String).alias("slice.origin")),
            month(right=9, wrong=0).with_columns(pl.lit("LGA").alias("slice.origin")),
        ]
    )
    (period,) = performance_of(rows, minimum_slice_labels=10).periods
    assert [(each.field, each.value, each.labelled, each.metrics["share_right"]) for each in period.slices] == [
        ("origin", "EWR", 40, 0.75),
        ("origin", "null", 40, 0.25),
    ]
    assert [each.base_rate for each in period.slices] == [0.5, 0.5]


def test_slices_of_a_field_with_many_values_are_bounded() -> None:
    rows = month(right=1_200, wrong=0).with_columns((pl.int_range(pl.len()) // 2 % 50).alias("slice.station"))
    (period,) = performance_of(rows, minimum_slice_labels=10).periods
    assert len(period.slices) == MOST_SLICES


def test_slices_of_a_period_that_is_not_evaluated_are_not_measured() -> None:
    rows = month(right=40, wrong=0).with_columns(pl.lit("EWR").alias("slice.origin"))
    (period,) = performance_of(rows, minimum_labels=50, minimum_slice_labels=10).periods
    assert period.slices == []


def test_coverage_counts_missing_labels_but_not_pending_ones() -> None:
    rows = pl.concat([month(60, 0, unknown=40), month(0, 0, unknown=30, start=JULY + timedelta(days=20))])
    period = performance_of(rows, known_by=JULY + timedelta(days=21)).periods[0]
    assert (period.predictions, period.labelled, period.missing, period.pending) == (130, 60, 40, 30)
    assert period.coverage == 0.6


def test_metric_regresses_only_beyond_its_tolerance() -> None:
    assert performance_of(month(80, 20), expected={"share_right": 0.84}).periods[0].regressed_metrics == []
    assert performance_of(month(80, 20), expected={"share_right": 0.86}).periods[0].regressed_metrics == ["share_right"]


def test_better_value_than_expected_is_no_regression() -> None:
    period = performance_of(month(80, 20), expected={"share_right": 0.5}).periods[0]
    assert period.regressed_metrics == []
    assert period.shortfalls["share_right"] == pytest.approx(-0.3)


@pytest.mark.parametrize(("low", "regressed_metrics"), [(0.79, []), (0.81, ["share_right"])])
def test_metric_within_the_expected_interval_has_not_regressed(low: float, regressed_metrics: list[str]) -> None:
    expected = {"share_right": ExpectedInterval(value=0.9, low=low, high=0.95)}
    settings = PerformanceSettings(
        minimum_labels=10, minimum_days=1, tolerances={"share_right": 0.05}, higher_is_better=["share_right"]
    )
    report = measure_performance(
        month(80, 20),
        compute_metrics=share_right,
        settings=settings,
        known_by=LATER,
        expected_by_version={"7": expected},
    )
    assert report.periods[0].regressed_metrics == regressed_metrics


def test_expected_metrics_are_read_from_the_numbers_of_an_evaluation() -> None:
    numbers = {"auc": 0.79, "auc_low": 0.77, "auc_high": 0.81, "base_rate": 0.3, "rows": 900.0}
    assert expected_metrics(numbers) == {"auc": ExpectedInterval(value=0.79, low=0.77, high=0.81)}


def test_versions_of_one_month_are_each_compared_with_their_own_evaluation() -> None:
    rows = pl.concat([month(60, 40, version="10"), month(80, 20, version="9"), month(50, 50, version="11")])
    expected_by_version = {
        version: {"share_right": ExpectedInterval(value=value, low=value, high=value)}
        for version, value in {"9": 0.9, "10": 0.6}.items()
    }
    settings = PerformanceSettings(
        minimum_labels=10, minimum_days=1, tolerances={"share_right": 0.05}, higher_is_better=["share_right"]
    )
    report = measure_performance(
        rows, compute_metrics=share_right, settings=settings, known_by=LATER, expected_by_version=expected_by_version
    )
    assert [
        (one.version, one.metrics["share_right"], one.regressed_metrics, one.has_expectation) for one in report.periods
    ] == [
        ("9", 0.8, ["share_right"], True),
        ("10", 0.6, [], True),
        ("11", 0.5, [], False),
    ]


def test_default_tolerances_for_metrics_of_another_task_are_no_error() -> None:
    expected = {"share_right": ExpectedInterval(value=0.9, low=0.9, high=0.9)}
    settings = PerformanceSettings(minimum_labels=10, minimum_days=1)
    report = measure_performance(
        month(80, 20),
        compute_metrics=share_right,
        settings=settings,
        known_by=LATER,
        expected_by_version={"7": expected},
    )
    assert report.periods[0].regressed_metrics == []


def test_without_an_evaluation_no_metric_regresses() -> None:
    assert performance_of(month(0, 100)).periods[0].regressed_metrics == []


def test_one_class_is_counted_but_not_evaluated() -> None:
    rows = month(100, 0).with_columns(outcome=pl.lit(1.0))
    period = performance_of(rows, expected={"share_right": 1.0}).periods[0]
    assert (period.evaluated, period.metrics, period.base_rate, period.labelled) == (False, {}, 1.0, 100)


def test_latest_is_the_last_evaluated_period() -> None:
    rows = pl.concat([month(80, 20), month(1, 1, start=datetime(2013, 8, 1, tzinfo=UTC))])
    report = performance_of(rows)
    assert report.latest is not None
    assert (report.latest.start, [period.evaluated for period in report.periods]) == (JULY, [True, False])


def test_no_predictions_give_no_period() -> None:
    report = performance_of(month(0, 0))
    assert (report.periods, report.latest, report.table().height) == ([], None, 0)


def test_table_has_one_row_per_period_with_its_metrics() -> None:
    rows = pl.concat([month(80, 20), month(60, 40, start=datetime(2013, 8, 1, tzinfo=UTC))])
    assert performance_of(rows).table().select("labelled", "share_right").rows() == [(100, 0.8), (100, 0.6)]


def test_report_survives_json() -> None:
    report = performance_of(month(80, 20), expected={"share_right": 0.9})
    assert PerformanceReport.model_validate_json(report.model_dump_json()) == report


# Settings.


def test_period_decides_how_predictions_are_grouped() -> None:
    rows = pl.concat([month(20, 0), month(20, 0, start=JULY + timedelta(days=1))])
    assert [len(performance_of(rows, period=length).periods) for length in ("1mo", "1d")] == [1, 2]


def test_minimum_labels_decides_which_period_is_evaluated() -> None:
    assert [performance_of(month(80, 20), minimum_labels=least).periods[0].evaluated for least in (100, 101)] == [
        True,
        False,
    ]


def test_minimum_days_decides_which_period_is_evaluated() -> None:
    rows = pl.concat([month(20, 0), month(20, 0, start=JULY + timedelta(days=1))])
    evaluated = [performance_of(rows, minimum_days=least).periods[0] for least in (2, 3)]
    assert [(period.days, period.evaluated) for period in evaluated] == [(2, True), (2, False)]
    assert (
        performance_of(rows, minimum_days=7, period="1d").periods[0].evaluated
    )  # a period of one day needs only that day


def test_minimum_coverage_decides_which_period_is_evaluated() -> None:
    rows = month(60, 0, unknown=40)
    assert [performance_of(rows, minimum_coverage=least).periods[0].evaluated for least in (0.6, 0.61)] == [True, False]


def test_label_delay_decides_which_labels_are_missing() -> None:
    rows, known_by = month(60, 0, unknown=40), JULY + timedelta(hours=24)
    assert [performance_of(rows, known_by=known_by, label_delay_hours=h).periods[0].missing for h in (24, 25)] == [
        40,
        0,
    ]


def test_higher_is_better_decides_which_side_is_worse() -> None:
    tolerances = {"share_wrong": 0.05}
    right = performance_of(month(80, 20), expected={"share_wrong": 0.1}, tolerances=tolerances)
    reverse = performance_of(
        month(80, 20), expected={"share_wrong": 0.1}, tolerances=tolerances, higher_is_better=["share_wrong"]
    )
    assert [report.periods[0].regressed_metrics for report in (right, reverse)] == [["share_wrong"], []]


def test_tolerance_decides_whether_a_metric_regresses() -> None:
    reports = [
        performance_of(month(80, 20), {"share_right": 0.9}, tolerances={"share_right": most}) for most in (0.05, 0.15)
    ]
    assert [report.periods[0].regressed_metrics for report in reports] == [["share_right"], []]


def test_tolerance_for_an_unknown_metric_is_rejected() -> None:
    with pytest.raises(PerformanceError, match=r"Tolerance for 'share_rigth'.* Did you mean 'share_right'\?"):
        performance_of(month(80, 20), expected={"share_right": 0.8}, tolerances={"share_rigth": 0.1})
