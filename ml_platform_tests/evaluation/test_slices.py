"""The worst slices by metric, and p-values adjusted for the number of slices."""

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.multitest import multipletests

from ml_platform.evaluation.slices import holm, worst_slices
from ml_platform.tasks.metrics import score

LABEL = np.array([0, 1, 0, 1, 0, 1, 0, 1, 1])
CHANCE = np.array([0.1, 0.9, 0.2, 0.8, 0.6, 0.4, 0.5, 0.5, 0.5])
SLICES = pl.DataFrame({"origin": ["JFK"] * 4 + ["EWR"] * 4 + [None], "hour": [6, 7] * 4 + [6]})


def test_worst_slice_comes_first_with_its_own_score() -> None:
    found = worst_slices(LABEL, CHANCE, SLICES, minimum_support=2)
    assert (found[0].column, found[0].value, found[0].rows) == ("origin", "EWR", 4)
    assert found[0].score == score(LABEL[4:8], CHANCE[4:8])["log_loss"]


def test_lowest_score_is_worst_for_a_metric_where_higher_is_better() -> None:
    found = worst_slices(LABEL, CHANCE, SLICES.select("origin"), metric="auc", minimum_support=2)
    assert [(one.value, one.score) for one in found] == [("EWR", 0.125), ("JFK", 1.0)]


def test_slice_with_one_class_or_too_few_rows_is_left_out() -> None:
    assert "null" not in [one.value for one in worst_slices(LABEL, CHANCE, SLICES, minimum_support=1)]
    assert worst_slices(LABEL, CHANCE, SLICES, minimum_support=10) == []


def test_regression_slices_are_scored_by_their_error() -> None:
    found = worst_slices(LABEL, CHANCE, SLICES.select("origin"), metric="mae", minimum_support=1, task="regression")
    assert [(one.value, round(one.score, 3)) for one in found] == [("EWR", 0.55), ("null", 0.5), ("JFK", 0.15)]


def test_holm_adjusts_each_p_value_by_the_hypotheses_that_are_left() -> None:
    p_values = np.random.default_rng(0).random(25) ** 3
    order = np.argsort(p_values)
    steps = [min(1.0, (25 - rank) * p_values[index]) for rank, index in enumerate(order)]
    expected = np.empty(25)
    expected[order] = [max(steps[: rank + 1]) for rank in range(25)]
    assert holm(p_values.tolist()) == pytest.approx(expected)
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []
