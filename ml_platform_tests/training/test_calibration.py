"""Calibration maps equal naive oracles and scikit-learn, never reverse the order of scores, and reject bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from bento.predictor import half_width_function
from ml_platform.training import calibration
from ml_platform.training.calibration import (
    Calibration,
    CalibrationError,
    CalibrationMethod,
    fit_calibration,
    fit_interval,
)


def scores_and_labels(rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return overconfident scores of two decimals, with ties, and their labels."""
    rng = np.random.default_rng(2)
    score = rng.random(rows).round(2)
    return score, (rng.random(rows) < 0.25 + 0.5 * score).astype(np.float64)


def test_isotonic_is_the_highest_of_the_lowest_means_around_each_score():
    score, label = scores_and_labels()
    levels = np.unique(score)
    count = np.array([(score == level).sum() for level in levels])
    positives = np.array([label[score == level].sum() for level in levels])

    def mean(first: int, last: int) -> float:
        return positives[first : last + 1].sum() / count[first : last + 1].sum()

    # The max-min formula of isotonic regression: Barlow, Bartholomew, Bremner and Brunk (1972).
    expected = [
        max(min(mean(first, last) for last in range(at, len(levels))) for first in range(at + 1))
        for at in range(len(levels))
    ]
    queried = np.linspace(-0.1, 1.1, 201)

    found = fit_calibration("isotonic", score, label).apply(queried)

    assert np.allclose(found, np.interp(queried, levels, expected), atol=1e-6)


def test_platt_is_a_logistic_regression_on_the_log_odds():
    score, label = scores_and_labels()
    inner = (score > 0) & (score < 1)
    score, label = score[inner], label[inner]
    odds = np.log(score / (1 - score)).reshape(-1, 1)
    oracle = LogisticRegression(C=1e9, tol=1e-10).fit(odds, label)

    fitted = fit_calibration("platt", score, label)

    # Platt's targets are slightly inside 0 and 1, so the two fits are close but not equal.
    assert fitted.slope == pytest.approx(oracle.coef_[0, 0], abs=5e-3)
    assert fitted.intercept == pytest.approx(oracle.intercept_[0], abs=5e-3)


def sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("shift", [-4.0, -2.0, 0.0, 2.0, 4.0])
def test_platt_corrects_scores_that_are_overconfident_underconfident_or_shifted(factor: float, shift: float):
    rng = np.random.default_rng(0)
    truth = 1.2 * rng.normal(size=3000) - 1.2
    label = (rng.random(3000) < sigmoid(truth)).astype(np.float64)
    score = sigmoid(np.clip(factor * truth + shift, -13, 13))
    odds = np.log(score / (1 - score)).reshape(-1, 1)
    high, low = (label.sum() + 1) / (label.sum() + 2), 1 / (3000 - label.sum() + 2)
    target = np.where(label > 0, high, low)
    # A row with a target between 0 and 1 is a weighted pair of rows, one of each class.
    oracle = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(
        np.vstack([odds, odds]), np.repeat([1, 0], 3000), sample_weight=np.concatenate([target, 1 - target])
    )

    fitted = fit_calibration("platt", score, label)

    assert fitted.slope == pytest.approx(oracle.coef_[0, 0], rel=2e-3)
    assert fitted.intercept == pytest.approx(oracle.intercept_[0], abs=5e-3)
    # At the minimum of the loss, the fitted probabilities have the mean of the targets.
    assert fitted.apply(score).mean() == pytest.approx(target.mean(), abs=1e-7)


def test_platt_of_constant_or_reversed_scores_is_the_base_rate():
    label = np.repeat([1.0, 0.0], [30, 70])
    rate = (30 * 31 / 32 + 70 * 1 / 72) / 100

    for score in (np.full(100, 0.9), np.repeat([0.2, 0.8], [30, 70])):
        assert fit_calibration("platt", score, label).apply(score) == pytest.approx(np.full(100, rate))


def test_platt_that_does_not_converge_is_rejected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "NEWTON_STEPS", 1)

    with pytest.raises(CalibrationError, match=r"expected a minimum of the log loss within 1 steps, found a slope of"):
        fit_calibration("platt", *scores_and_labels())


def test_none_does_not_change_scores():
    score, label = scores_and_labels()

    assert np.array_equal(fit_calibration("none", score, label).apply(score), score)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60),
    st.sampled_from(["isotonic", "platt"]),
)
def test_calibration_never_reverses_the_order_of_scores(rows: list[tuple[float, bool]], method: CalibrationMethod):
    score, label = np.array([each[0] for each in rows]), np.array([float(each[1]) for each in rows])
    if label.min() == label.max():
        label[0] = 1 - label[0]

    probability = fit_calibration(method, score, label).apply(np.sort(score))

    assert (np.diff(probability) >= -1e-12).all()
    assert ((probability >= 0) & (probability <= 1)).all()


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_calibration_read_from_json_gives_the_same_probabilities(method: CalibrationMethod):
    score, label = scores_and_labels()
    fitted = fit_calibration(method, score, label)

    read = Calibration.model_validate_json(fitted.model_dump_json())

    assert np.array_equal(read.apply(score), fitted.apply(score))


def test_constant_label_is_rejected():
    with pytest.raises(CalibrationError, match="expected labels of both classes in validation, found 3 times 1"):
        fit_calibration("platt", np.array([0.1, 0.2, 0.3]), np.ones(3))


def test_nan_score_is_rejected():
    with pytest.raises(CalibrationError, match="expected scores that are numbers, found 1 of 2 that are not"):
        fit_calibration("isotonic", np.array([np.nan, 0.2]), np.array([0.0, 1.0]))


def test_interval_covers_the_declared_share_of_unseen_rows():
    rng = np.random.default_rng(3)
    value = rng.normal(size=4000)
    label = value + rng.standard_t(4, size=4000)

    fitted = fit_interval(0.8, value[:2000], label[:2000])
    bounds = fitted.bounds(value[2000:])

    assert bounds is not None
    lower, upper = bounds
    assert 0.77 < ((lower <= label[2000:]) & (label[2000:] <= upper)).mean() < 0.83
    assert np.array_equal(fitted.apply(value), value)
    assert fit_calibration("none", value, label).bounds(value) is None


def test_interval_uses_one_rank_more_for_the_finite_sample():
    # Of the residuals 1 to 9, rank 0.9 * (9 + 1) is the largest. With eight residuals, none is large enough.
    assert fit_interval(0.9, np.zeros(9), np.arange(1.0, 10.0)).half_width == 9
    with pytest.raises(CalibrationError, match="at least 9, found 8"):
        fit_interval(0.9, np.zeros(8), np.arange(1.0, 9.0))


def test_large_values_that_err_more_have_wider_intervals_and_each_group_is_covered():
    random = np.random.default_rng(3)
    value = random.uniform(0, 100, 6000)
    label = value + random.normal(0, 1 + value / 10)
    fitted = fit_interval(0.9, value[:1000], label[:1000])
    assert len(fitted.half_widths) == 5
    assert fitted.half_widths == sorted(fitted.half_widths)
    for low, high in ((0, 20), (40, 60), (80, 100)):
        part = (value >= low) & (value < high) & (np.arange(6000) >= 1000)
        bounds = fitted.bounds(value[part])
        assert bounds is not None
        lower, upper = bounds
        assert 0.85 < ((lower <= label[part]) & (label[part] <= upper)).mean() < 0.95
    served = half_width_function(fitted.model_dump())(value)
    assert np.array_equal(np.asarray(served), np.asarray(fitted.half_width_at(value)))


def test_interval_groups_keep_equal_values_together_and_enough_rows():
    random = np.random.default_rng(4)
    # 150 equal values fill one group; the 60 others are too few for a group.
    few = fit_interval(0.9, np.repeat([1.0, 2.0], [150, 60]), random.normal(size=210))
    assert (few.half_widths, few.edges) == ([], [])
    assert np.array_equal(np.asarray(few.half_width_at(np.zeros(2))), np.full(2, few.half_width))
    two = fit_interval(0.9, np.repeat([1.0, 2.0, 3.0], [150, 10, 190]), random.normal(size=350))
    assert two.edges == [1.5]
    assert fit_interval(0.9, np.ones(1000), random.normal(size=1000)).edges == []
