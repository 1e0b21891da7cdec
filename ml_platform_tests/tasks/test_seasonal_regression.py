"""A regression with a seasonal naive forecast: its scaled error, its baseline, and its context."""

import numpy as np
import polars as pl
import pytest

from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gates import BaselineGate, MetricLimitGate
from ml_platform.tasks.regression import RegressionTask
from ml_platform.tasks.seasonal_naive import NAIVE, SEASONAL_NAIVE
from ml_platform.tasks.task import LabelError

TASK = RegressionTask(season_feature="demand__before")
LABEL = np.array([10.0, 20.0, 30.0, 40.0])
PREDICTION = np.array([11.0, 17.0, 30.0, 44.0])
CONTEXT = {NAIVE: np.array([12.0, np.nan, 24.0, 40.0])}


def test_mase_is_the_error_by_that_of_the_naive_forecast_on_the_rows_that_have_one() -> None:
    found = TASK.score(LABEL, PREDICTION, context=CONTEXT)
    assert found["mae"] == pytest.approx((1 + 3 + 0 + 4) / 4)
    assert found["mase"] == pytest.approx((1 + 0 + 4) / (2 + 6 + 0))
    rows = np.array([0, 0, 2, 3])
    codes, counts = np.array([0, 1, 2, 2]), np.array([[2.0, 0.0, 1.0]])
    drawn = TASK.resampled(LABEL, PREDICTION, codes, counts, TASK.metrics, context=CONTEXT)
    expected = TASK.score(LABEL[rows], PREDICTION[rows], context={NAIVE: CONTEXT[NAIVE][rows]})
    assert {name: value[0] for name, value in drawn.items()} == pytest.approx(expected)


def test_regression_without_a_season_has_neither_mase_nor_the_baseline() -> None:
    plain = RegressionTask()
    assert "mase" not in plain.usable_metrics
    assert "mase" not in plain.score(LABEL, PREDICTION)
    assert plain.baseline_names == []
    assert plain.baselines(LABEL, {}, {}) == {}


def test_baseline_is_the_naive_forecast_and_the_mean_of_the_known_labels_where_none_is_known() -> None:
    context = TASK.context(pl.DataFrame({"demand__before": [12, None]}))
    assert TASK.baselines(LABEL, CONTEXT, context)[SEASONAL_NAIVE].tolist() == [12.0, 25.0]


def test_no_prediction_and_no_interval_is_below_the_minimum_and_a_lower_label_is_refused() -> None:
    count = RegressionTask(minimum=0)
    prediction = count.prediction(np.array([[-2.0], [3.0]]))
    assert prediction.tolist() == [0.0, 3.0]
    assert count.answer_details(prediction, np.array([1.0, 5.0])) == [
        {"interval": {"lower": 0.0, "upper": 1.0}},
        {"interval": {"lower": 0.0, "upper": 8.0}},
    ]
    assert RegressionTask().answer_details(prediction, 5.0) == [
        {"interval": {"lower": -5.0, "upper": 5.0}},
        {"interval": {"lower": -2.0, "upper": 8.0}},
    ]
    with pytest.raises(LabelError, match=r"at least 0.*found 1 of 2 below it, for example -3"):
        count.encode(pl.Series([1, -3]), "Training set")


def test_gates_compare_with_the_naive_forecast() -> None:
    random = np.random.default_rng(0)
    label = random.normal(50, 10, 400)
    naive = label + random.normal(0, 10, 400)
    good = label + random.normal(0, 5, 400)
    evidence = Evidence(
        label,
        {"candidate": good, "base_rate": TASK.baseline(label, 400), SEASONAL_NAIVE: naive},
        np.arange(400) % 20,
        task=TASK,
        context={NAIVE: naive},
    )
    assert BaselineGate(metric="rmse", required=[SEASONAL_NAIVE]).evaluate(evidence).passed
    assert MetricLimitGate(metric="mase", limit=0.6).evaluate(evidence).passed
    assert not MetricLimitGate(metric="mase", limit=0.4).evaluate(evidence).passed
