"""The tests between candidate and stable version: false alarms at any look, and answers until a bad one is found."""

import numpy as np
import pytest

from ml_platform.serving.arm_comparison import bet, rate_values, score_values
from ml_platform.tasks.betting import evidence, no_wealth

LOOKS = 200


def highest_evidence(seed: int, candidate_rate: float, stable_rate: float, tolerance: float) -> float:
    """Return the highest evidence of 200 looks at ten answers of the candidate and forty of the stable version."""
    generator, wealth, highest = np.random.default_rng(seed), no_wealth(1), 1.0
    for _ in range(LOOKS):
        candidate = rate_values(int(generator.binomial(10, candidate_rate)), 10)
        stable = rate_values(int(generator.binomial(40, stable_rate)), 40)
        wealth = bet(wealth, candidate, stable, tolerance, generator)
        highest = max(highest, evidence(wealth))
    return highest


def test_evidence_against_an_equal_candidate_seldom_reaches_twenty_at_any_look() -> None:
    reached = [highest_evidence(seed, 0.3, 0.3, 0.0) >= 20 for seed in range(200)]
    # At most one in twenty by Ville's inequality; 18 of 200 would be four standard deviations more.
    assert sum(reached) <= 18


def test_candidate_that_differs_within_the_tolerance_collects_no_evidence() -> None:
    assert max(highest_evidence(seed, 0.025, 0.02, 0.02) for seed in range(50)) < 20


def test_candidate_that_always_fails_is_found_within_twelve_answers() -> None:
    generator, wealth, answers = np.random.default_rng(1), no_wealth(1), 0
    while evidence(wealth) < 400:
        wealth = bet(wealth, rate_values(1, 1), rate_values(0, 4), 0.01, generator)
        answers += 1
    assert 10 <= answers <= 13


def test_wealth_of_one_block_is_the_product_by_hand() -> None:
    wealth = bet(no_wealth(1), np.array([[1.0]]), np.array([[0.0], [1.0]]), 0.25, np.random.default_rng(0))
    # The stable mean is 0.5, so the gain is 1 - 0.5 - 0.25, and the largest stake is 1 / 1.25.
    expected = [1 + 0.25 * stake / 1.25 for stake in (0.02, 0.1, 0.3, 0.6, 0.9)]
    assert np.exp(wealth[0]) == pytest.approx(expected)
    assert evidence(wealth) == pytest.approx(sum(expected) / 5)


def test_look_without_an_answer_of_one_arm_changes_nothing() -> None:
    wealth = no_wealth(1)
    assert bet(wealth, rate_values(1, 1), rate_values(0, 0), 0.0, np.random.default_rng(0)) is wealth


def test_score_values_are_both_sides_of_each_inner_limit() -> None:
    assert score_values([1, 0, 1]).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_equal_scores_are_found_although_their_mean_is_the_same() -> None:
    generator, wealth = np.random.default_rng(2), no_wealth(18)
    for _ in range(20):
        spread = np.bincount(generator.integers(0, 10, 20), minlength=10).tolist()
        wealth = bet(wealth, score_values([0] * 5 + [10] + [0] * 4), score_values(spread), 0.15, generator)
    assert evidence(wealth) > 400
