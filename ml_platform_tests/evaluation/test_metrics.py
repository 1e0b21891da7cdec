"""Every metric equals scikit-learn's or a number computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.metrics import EvaluationError, improvement, recall_at_rate, score, score_regression

labels_and_scores = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=60).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=200, deadline=None)
@given(labels_and_scores)
def test_metrics_with_many_ties_equal_scikit_learn(rows: list[tuple[int, int]]) -> None:
    label = np.array([label for label, _ in rows])
    probability = np.array([value / 20 for _, value in rows])
    found = score(label, probability)
    expected = {
        "auc": oracle.roc_auc_score(label, probability),
        "average_precision": oracle.average_precision_score(label, probability),
        "log_loss": oracle.log_loss(label, probability),
        "brier": oracle.brier_score_loss(label, probability),
        "base_rate": label.mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_calibration_error_is_the_weighted_gap_per_bin() -> None:
    # Bins have width 1/15: 0.10 and 0.12 share a bin (mean 0.11, share 0.5), and 0.90 has its own (share 1).
    assert score([0, 1, 1], [0.10, 0.12, 0.90])["ece"] == pytest.approx((2 * 0.39 + 0.10) / 3)


def test_regression_equals_scikit_learn() -> None:
    label, predicted = np.array([1.0, 2.0, 4.0]), np.array([1.5, 1.0, 9.0])
    found = score_regression(label, predicted, quantile=0.8)
    assert found == pytest.approx(
        {
            "mae": oracle.mean_absolute_error(label, predicted),
            "rmse": oracle.root_mean_squared_error(label, predicted),
            "pinball": oracle.mean_pinball_loss(label, predicted, alpha=0.8),
        }
    )


def test_coverage_is_the_share_of_rows_inside_the_bounds_with_both_ends() -> None:
    found = score_regression([1.0, 2.0, 3.0, 4.0], [0.0] * 4, lower=[1.0, 2.5, 0.0, 5.0], upper=[9.0, 9.0, 3.0, 9.0])
    assert found["coverage"] == 0.5


def test_constant_label_is_rejected_with_its_value() -> None:
    with pytest.raises(EvaluationError, match="both classes among the rows, found the constant 0 in all 2 rows"):
        score([0, 0], [0.1, 0.2])


def test_empty_month_is_rejected() -> None:
    with pytest.raises(EvaluationError, match="at least one row with a label, found none"):
        score([], [])


def test_missing_prediction_is_rejected_with_a_count() -> None:
    with pytest.raises(EvaluationError, match="1 of 3 rows null, NaN or infinite"):
        score([0, 1, 1], [0.1, float("nan"), 0.3])


def test_raw_margin_instead_of_probability_is_rejected() -> None:
    with pytest.raises(EvaluationError, match="values from 0 to 1, found 2 of 3 rows outside"):
        score([0, 1, 1], [-1.2, 0.5, 3.4])


def test_label_other_than_0_and_1_is_rejected() -> None:
    with pytest.raises(EvaluationError, match="0 or 1, found the values '0', '2'"):
        score([0, 2], [0.1, 0.2])


@pytest.mark.parametrize(("metric", "better", "worse"), [("auc", 0.8, 0.7), ("log_loss", 0.3, 0.4)])
def test_improvement_is_positive_when_better(metric: str, better: float, worse: float) -> None:
    assert improvement(metric, better, worse) == pytest.approx(0.1)


def test_pinball_loss_of_the_median_is_half_the_mean_absolute_error() -> None:
    # The errors are 1, 3 and -2: the mean of their absolute values is 2.
    found = score_regression([2, 5, 1], [1, 2, 3])
    assert (found["mae"], found["pinball"]) == (2.0, 1.0)


def test_task_selects_the_metrics() -> None:
    label, prediction = np.array([0.0, 1.0, 1.0]), np.array([0.5, 0.5, 0.75])
    assert as_task("binary").score(label, prediction) == score(label, prediction)
    # The errors are 0.5, 0.5 and 0.25; two of three labels lie within 0.5 and one within 0.25.
    assert as_task("regression").score(label, prediction)["mae"] == pytest.approx(1.25 / 3)
    assert "coverage" not in as_task("regression").score(label, prediction)
    bounds = (prediction - 0.25, prediction + 0.25)
    assert as_task("regression").score(label, prediction, bounds)["coverage"] == pytest.approx(1 / 3)


def test_quantile_weighs_errors_of_both_directions() -> None:
    # At the quantile 0.9, one too low by 2 costs 1.8, and one too high by 2 costs 0.2.
    assert score_regression([3.0, 1.0], [1.0, 3.0], quantile=0.9)["pinball"] == pytest.approx(1.0)
    assert score_regression([3.0, 3.0], [1.0, 1.0], quantile=0.9)["pinball"] == pytest.approx(1.8)


def test_recall_at_rate_shares_the_last_alerts_among_ties() -> None:
    label, probability = np.array([1.0, 0, 1, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1, 0.1])
    # Two alerts: the first row, and one of the two rows with 0.5, of which one is positive.
    assert recall_at_rate(label, probability, rate=0.4) == 0.75
    assert recall_at_rate(label, np.full(5, 0.2), rate=0.4) == pytest.approx(0.4)
    assert recall_at_rate(label, probability, rate=0.6) == 1.0
