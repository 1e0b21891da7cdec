"""A period whose labels are missing by their outcome or their score is not judged as good without a word."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.components.performance_results import performance_metadata, performance_regression_result
from ml_platform.monitoring.label_doubts import base_rate_doubt, missing_doubts
from ml_platform.monitoring.performance import (
    ExpectedInterval,
    LabelKnowledge,
    PerformanceReport,
    PerformanceSettings,
    measure_performance,
)
from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.catalog import realised_metrics
from ml_platform.tasks.regression import RegressionTask

JULY = datetime(2013, 7, 1, tzinfo=UTC)
ROWS = 20_000


def predicted(seed: int = 0) -> pl.DataFrame:
    """Return calibrated predictions of a month, a quarter of them positive, with all labels."""
    random = np.random.default_rng(seed)
    score = random.beta(1.2, 3.6, ROWS)
    at = [JULY + timedelta(minutes=2 * n) for n in range(ROWS)]
    return pl.DataFrame(
        {
            "request_id": [f"r{n}" for n in range(ROWS)],
            "version": "7",
            "predict_at": pl.Series(at, dtype=pl.Datetime("us", "UTC")),
            "score": score,
            "outcome": (random.random(ROWS) < score).astype(float),
        }
    )


def without(rows: pl.DataFrame, lost: pl.Expr, share: float) -> pl.DataFrame:
    """Return ``rows`` of which the ``share`` of the labels of the ``lost`` ones is null."""
    drawn = pl.Series(np.random.default_rng(1).random(rows.height)) < share
    return rows.with_columns(outcome=pl.when(~(lost & drawn)).then("outcome"))


def expected_outcome(rows: pl.DataFrame) -> dict[str, ExpectedInterval]:
    mean = float(rows["score"].to_numpy().mean())
    return {"base_rate": ExpectedInterval(value=mean, low=mean - 0.02, high=mean + 0.02)}


def report_of(
    rows: pl.DataFrame,
    *,
    days: float = 90,
    task: Any = None,
    usual_coverage: float | None = 0.975,
    expected: dict[str, float] | None = None,
    **changes: Any,
) -> PerformanceReport:
    settings = PerformanceSettings.model_validate({"tolerances": {"log_loss": 0.05}, **changes})
    promised = {
        name: ExpectedInterval(value=value, low=value - 0.01, high=value + 0.01)
        for name, value in (expected or {"log_loss": 0.5}).items()
    }
    return measure_performance(
        rows,
        compute_metrics=partial(realised_metrics, task or BinaryTask()),
        settings=settings,
        known_by=JULY + timedelta(days=days),
        expected_by_version={"7": promised},
        knowledge=LabelKnowledge(usual_coverage=usual_coverage, estimate=expected_outcome),
    )


def kinds(report: PerformanceReport) -> list[str]:
    return [each.kind for each in report.periods[0].doubts]


def test_period_with_all_labels_has_no_doubt() -> None:
    report = report_of(without(predicted(), pl.lit(True), 0.025))
    assert (kinds(report), report.periods[0].label_state) == ([], "complete")
    assert performance_regression_result(report).passed


def test_missing_labels_of_positives_are_not_judged_as_good() -> None:
    whole = report_of(predicted())
    report = report_of(without(predicted(), pl.col("outcome") == 1, 0.4))
    truth, shown = whole.periods[0].metrics["log_loss"], report.periods[0].metrics["log_loss"]
    assert shown < truth - 0.03  # the labels that are left make the model look better than it is
    assert kinds(report) == ["coverage", "score", "base_rate"]
    check = performance_regression_result(report)
    assert check.passed is False
    assert (check.description or "").startswith("Not judged as good, because labels are missing: version 7")
    metadata = performance_metadata(report)
    assert (metadata["label_state"], len(metadata["doubts"])) == ("marked", 3)


def test_correction_by_score_leaves_the_doubt_about_missing_positives() -> None:
    report = report_of(without(predicted(), pl.col("outcome") == 1, 0.4), immature_labels="correct")
    assert report.periods[0].label_state == "corrected"
    assert "base_rate" in kinds(report)
    assert performance_regression_result(report).passed is False


def test_withheld_period_shows_no_metric_and_is_named_by_the_check() -> None:
    report = report_of(without(predicted(), pl.col("outcome") == 1, 0.4), immature_labels="withhold")
    (period,) = report.periods
    assert (period.evaluated, period.metrics, period.label_state, period.labelled > 0) == (False, {}, "withheld", True)
    assert performance_regression_result(report).passed is False
    assert "Labels are missing by score" in performance_metadata(report)["reason"]


def test_labels_that_are_not_due_are_a_doubt_that_does_not_warn() -> None:
    rows = predicted().with_columns(outcome=pl.when(pl.col("predict_at") < JULY + timedelta(days=15)).then("outcome"))
    report = report_of(rows, days=15)
    assert kinds(report) == ["immature"]
    check = performance_regression_result(report)
    assert check.passed
    assert "54% of the labels are known, or should be known by now" in (check.description or "")
    assert kinds(report_of(rows, days=15, minimum_maturity=0.4)) == []


def test_labels_that_came_sooner_than_expected_are_mature() -> None:
    report = report_of(predicted(), days=0)
    assert (kinds(report), report.periods[0].maturity) == ([], 1.0)


def test_real_change_of_the_outcomes_with_all_labels_is_no_doubt_about_labels() -> None:
    fewer = predicted().with_columns(outcome=pl.col("outcome") * (pl.col("score") > 0.3))
    report = report_of(fewer)
    assert report.periods[0].base_rate < report.periods[0].mean_score - 0.05  # type: ignore[operator]
    assert kinds(report) == []


def test_labels_that_are_usually_missing_are_no_doubt() -> None:
    rows = without(predicted(), pl.lit(True), 0.2)
    assert (kinds(report_of(rows, usual_coverage=0.8)), kinds(report_of(rows, usual_coverage=None))) == (
        [],
        ["coverage"],
    )


def test_missing_labels_of_high_scores_are_found_for_numbers_too() -> None:
    rows = predicted().with_columns(outcome=pl.col("outcome") * 40, score=pl.col("score") * 40)
    report = report_of(
        without(rows, pl.col("score") > 15, 0.5), task=RegressionTask(), expected={"mae": 9.0}, tolerances={"mae": 5}
    )
    assert kinds(report) == ["coverage", "score"]


def test_gap_of_the_base_rate_needs_missing_labels_that_can_explain_it() -> None:
    assert base_rate_doubt(0.15, (0.25, 0.23, 0.27), 0.9, 0.98) is not None
    assert base_rate_doubt(0.15, (0.25, 0.23, 0.27), 0.97, 0.98) is None
    assert base_rate_doubt(0.24, (0.25, 0.23, 0.27), 0.5, 0.98) is None


def test_no_label_at_all_is_left_to_the_counts() -> None:
    rows = predicted().head(10).with_columns(outcome=pl.lit(None, pl.Float64))
    assert missing_doubts(rows, 0.9) == []


def test_few_predictions_are_not_estimated() -> None:
    found = [report_of(predicted().head(rows)).periods[0].estimates for rows in (499, 500)]
    assert [sorted(each) for each in found] == [[], ["base_rate"]]


def test_few_due_predictions_are_no_finding() -> None:
    rows = without(predicted(), pl.col("score") > 0.3, 1.0)
    assert [bool(missing_doubts(rows.head(count), 0.9)) for count in (99, 1000)] == [False, True]


@pytest.mark.parametrize("share", [0.01, 0.02])
def test_few_missing_labels_are_no_doubt(share: float) -> None:
    assert missing_doubts(without(predicted(), pl.lit(True), share), 1.0) == []
