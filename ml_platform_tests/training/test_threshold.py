"""The decision threshold: each rule equals a brute-force search, and invalid rules are rejected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_platform.training.threshold import ErrorCosts, ThresholdSettings, choose_threshold


def settings(declared: object) -> ThresholdSettings:
    return ThresholdSettings.model_validate(declared)


def rows(count: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels with base rate 0.2 and calibrated scores with ties."""
    rng = np.random.default_rng(seed)
    score = np.clip(rng.beta(1.2, 4.8, count), 0.01, 0.99).round(2)
    return (rng.random(count) < score).astype(np.float64), score


def all_thresholds(score: np.ndarray) -> list[float]:
    return [*np.unique(score), 1.01]


def f_beta(label: np.ndarray, positive: np.ndarray, beta: float) -> float:
    hits, misses, alarms = (label * positive).sum(), (label * ~positive).sum(), ((1 - label) * positive).sum()
    return float((1 + beta**2) * hits / ((1 + beta**2) * hits + beta**2 * misses + alarms))


def cost(label: np.ndarray, positive: np.ndarray, false_positive: float, false_negative: float) -> float:
    return float(false_positive * ((1 - label) * positive).sum() + false_negative * (label * ~positive).sum())


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_beta_chooses_the_highest_score_of_all_thresholds(beta: float):
    label, score = rows()

    chosen = choose_threshold(settings({"f_beta": beta}), label, score)

    best = max(f_beta(label, score >= each, beta) for each in all_thresholds(score))
    assert f_beta(label, score >= chosen.value, beta) == pytest.approx(best)


@pytest.mark.parametrize(("false_positive", "false_negative"), [(1, 1), (1, 3), (5, 1), (1000, 1)])
def test_cost_chooses_the_cheapest_of_all_thresholds(false_positive: float, false_negative: float):
    label, score = rows()
    declared = {"cost": {"false_positive": false_positive, "false_negative": false_negative}}

    chosen = choose_threshold(settings(declared), label, score)

    cheapest = min(cost(label, score >= each, false_positive, false_negative) for each in all_thresholds(score))
    assert cost(label, score >= chosen.value, false_positive, false_negative) == cheapest


def test_cost_of_calibrated_scores_is_near_the_threshold_of_decision_theory():
    label, score = rows(100_000)

    chosen = choose_threshold(settings({"cost": {"false_positive": 1, "false_negative": 3}}), label, score)

    # A positive answer is cheaper if 3 p exceeds 1 - p: Elkan (2001), The foundations of cost-sensitive learning.
    assert chosen.value == pytest.approx(0.25, abs=0.03)


def test_expensive_false_alarms_give_no_positive_answers():
    label = np.array([0.0, 1.0, 0.0, 1.0])
    score = np.array([1.0, 0.4, 0.9, 0.2])

    chosen = choose_threshold(settings({"cost": {"false_positive": 100, "false_negative": 1}}), label, score)

    assert chosen.alert_rate == 0
    assert chosen.precision is None


def test_precision_at_chooses_the_highest_recall_with_that_precision():
    label, score = rows(2000)

    chosen = choose_threshold(settings({"precision_at": 0.4}), label, score)

    keeping = [
        label[score >= each].sum() / label.sum()
        for each in all_thresholds(score)
        if (score >= each).sum() >= 30 and label[score >= each].mean() >= 0.4
    ]
    assert chosen.precision is not None
    assert chosen.precision >= 0.4
    assert chosen.recall == pytest.approx(max(keeping))
    assert chosen.note == ""


def test_precision_that_no_threshold_reaches_is_noted():
    label, score = rows(2000)

    chosen = choose_threshold(settings({"precision_at": 0.999}), label, score)

    assert "No threshold reaches precision 0.999" in chosen.note
    assert chosen.alert_rate * 2000 >= 30


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_rate_gives_that_share_of_positive_answers(rate: float):
    label, score = rows(2000)

    chosen = choose_threshold(settings({"rate": rate}), label, score)

    nearest = min(abs((score >= each).mean() - rate) for each in all_thresholds(score))
    assert abs(chosen.alert_rate - rate) == pytest.approx(nearest)


def test_a_number_is_a_fixed_threshold():
    label, score = rows()

    chosen = choose_threshold(settings(0.3), label, score)

    assert (chosen.value, chosen.rule) == (0.3, "fixed 0.3")
    assert chosen.alert_rate == pytest.approx((score >= 0.3).mean())


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1, allow_subnormal=False)), min_size=2, max_size=60).filter(
        lambda pairs: len({label for label, _ in pairs}) == 2
    ),
    st.sampled_from([{"f_beta": 1.0}, {"cost": {"false_positive": 1, "false_negative": 2}}, {"rate": 0.3}]),
)
def test_quality_of_a_threshold_equals_the_quality_of_its_answers(pairs: list[tuple[bool, float]], declared: object):
    label = np.array([float(label) for label, _ in pairs])
    score = np.array([score for _, score in pairs])

    chosen = choose_threshold(settings(declared), label, score)

    positive = score >= chosen.value
    assert chosen.alert_rate == positive.mean()
    assert chosen.recall == label[positive].sum() / label.sum()


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "exactly one of fixed, f_beta, cost, precision_at, rate; found none"),
        ({"fixed": 0.5, "rate": 0.1}, "found fixed and rate"),
        ({"f_bta": 1}, "Did you mean 'f_beta'"),
        ({"cost": {"false_positive": 0, "false_negative": 1}}, "greater than 0"),
        (1.5, "less than 1"),
        (True, "valid dictionary"),
    ],
)
def test_invalid_rule_is_rejected(declared: object, message: str):
    with pytest.raises(ValidationError, match=message):
        settings(declared)


def test_threshold_that_answers_no_row_as_positive_is_just_above_one() -> None:
    rule = ThresholdSettings(cost=ErrorCosts(false_positive=1000, false_negative=1))
    choice = choose_threshold(rule, np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.5, 0.2]))
    assert (choice.value, choice.alert_rate, choice.recall) == (np.nextafter(1.0, 2.0), 0.0, 0.0)


def test_cost_of_a_row_is_the_mean_over_wrong_answers() -> None:
    label, score = rows()
    costs = ErrorCosts(false_positive=2, false_negative=5)
    pairs = list(zip(label, score >= 0.3, strict=True))
    wrong = sum(2 if answer else 5 for true, answer in pairs if answer != bool(true))
    assert costs.per_row(label, score >= 0.3) == pytest.approx(wrong / len(label))
    assert costs.per_row(label, True) == pytest.approx(2 * (1 - label.mean()))
    assert costs.per_row(label, False) == pytest.approx(5 * label.mean())
