"""Three-way comparisons, rare positives, small slices, and results that are too good to be true."""

import numpy as np
import polars as pl
import pytest

from benchmarks.interval_coverage import promoted_by_chance
from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence, SystemChecks
from ml_platform.evaluation.gates import BaselineGate, CalibrationGate, PairedTestGate, SliceGate
from ml_platform.evaluation.plausibility import PlausibilityGate
from ml_platform.evaluation.verdict import decide
from ml_platform.tasks.catalog import as_task

ROWS = 4000
random = np.random.default_rng(11)
CHANCE = 1 / (1 + np.exp(-random.normal(-1, 1, ROWS)))
LABEL = (random.random(ROWS) < CHANCE).astype(float)
DAY = np.arange(ROWS) * 20 // ROWS
SETTINGS = BootstrapSettings(resamples=200)


def noisy(noise: float, seed: int) -> np.ndarray:
    logit = np.log(CHANCE / (1 - CHANCE)) + noise * np.random.default_rng(seed).normal(size=ROWS)
    return np.asarray(1 / (1 + np.exp(-logit)))


def pair(candidate: np.ndarray, champion: np.ndarray, *, newer: bool = False) -> Evidence:
    predictions = {"candidate": candidate, "champion": champion}
    return Evidence(LABEL, predictions, DAY, candidate_is_newer=newer, settings=SETTINGS)


def test_equally_good_candidate_waits_instead_of_being_rejected() -> None:
    decisions = [
        decide([PairedTestGate().evaluate(pair(noisy(0.4, 2 * seed), noisy(0.4, 2 * seed + 1)))])[0]
        for seed in range(20)
    ]
    assert decisions.count("HOLD") >= 16  # before, half of the equal pairs were rejected


def test_rejected_candidate_is_one_whose_improvement_is_excluded() -> None:
    result = PairedTestGate().evaluate(pair(noisy(1.5, 1), CHANCE))
    assert (result.undecided, result.labels_needed) == (False, None)
    assert "; an improvement above 0 is excluded." in result.reason


def test_margin_ends_the_wait_of_an_equal_candidate() -> None:
    equal = pair(noisy(0.05, 1), noisy(0.05, 2))
    assert PairedTestGate(margin=0.0).evaluate(equal).undecided
    result = PairedTestGate(margin=0.05).evaluate(equal)
    assert (result.passed, result.undecided) == (False, False)
    assert "an improvement above 0.05 is excluded" in result.reason


def test_newer_candidate_is_rejected_only_when_proven_worse_by_more_than_the_margin() -> None:
    worse = pair(noisy(0.35, 1), CHANCE, newer=True)
    result = PairedTestGate(margin=0.01).evaluate(worse)
    low, high = result.numbers["low"], result.numbers["high"]
    assert low is not None
    assert high is not None
    assert (result.passed, result.undecided) == (low > -0.01, low <= -0.01 < high)


def test_worse_candidate_on_hold_says_how_many_labels_exclude_an_improvement() -> None:
    for seed in range(40):
        result = PairedTestGate().evaluate(pair(noisy(0.4, seed), noisy(0.4, 100 + seed)))
        if result.undecided and (result.numbers["improvement"] or 0) < 0 and result.labels_needed:
            assert f"About {result.labels_needed:,} more labels would exclude an improvement above 0." in result.reason
            return
    pytest.fail("no pair with a negative improvement was undecided")


@pytest.mark.parametrize("positives", [1, 3, 10])
@pytest.mark.parametrize("metric", ["auc", "average_precision", "recall_at_rate"])
def test_random_candidate_rarely_beats_a_random_champion_on_few_positives(positives: int, metric: str) -> None:
    found = promoted_by_chance(positives, metric, 60, rows=600)
    # The level is 2.5 %; 5 of 60 would be three standard errors above it.
    assert found["passed"] <= 4 / 60
    if positives < 10:
        assert found == {"passed": 0, "undecided": 1}


def test_too_few_positives_are_undecided_and_the_number_is_shown() -> None:
    label = np.zeros(ROWS)
    label[[10, 900, 2000]] = 1
    evidence = Evidence(label, {"candidate": CHANCE, "champion": noisy(1.0, 1)}, DAY, settings=SETTINGS)
    result = PairedTestGate().evaluate(evidence)
    assert (result.passed, result.undecided, result.labels_needed) == (False, True, 9334)  # 4000 * 10 / 3 - 4000
    assert "3 of 4,000 rows are of the rarer class; the error rate of the comparison holds from 10 on." in result.reason


def test_default_of_the_baseline_gate_compares_the_ranking_of_rare_positives_too() -> None:
    rare = (np.random.default_rng(2).random(ROWS) < CHANCE / 20).astype(float)
    evidence = Evidence(
        rare, {"candidate": CHANCE / 20, "base_rate": np.full(ROWS, rare.mean())}, DAY, settings=SETTINGS
    )
    assert 10 < rare.sum() < ROWS * 0.05
    assert "average_precision_low_over_base_rate" in BaselineGate().evaluate(evidence).numbers
    assert "average_precision_low_over_base_rate" not in BaselineGate(metric="log_loss").evaluate(evidence).numbers


def with_slices(candidate: np.ndarray, *, champion: np.ndarray | None = CHANCE) -> Evidence:
    """Return evidence with 62 rows of carrier OO, spread over the days, and 20 other small carriers."""
    carrier = np.full(ROWS, "AA", dtype="U3")
    carrier[:: ROWS // 62][:62] = "OO"
    carrier[1 :: ROWS // 300][:300] = [f"C{at % 20:02d}" for at in range(300)]
    other = {"base_rate": np.full(ROWS, LABEL.mean())} if champion is None else {"champion": champion}
    return Evidence(
        LABEL, {"candidate": candidate, **other}, DAY, slices=pl.DataFrame({"carrier": carrier}), settings=SETTINGS
    )


def inverted(evidence: Evidence) -> np.ndarray:
    assert evidence.slices is not None
    return np.where(evidence.slices["carrier"].to_numpy() == "OO", 1 - CHANCE, CHANCE)


@pytest.mark.parametrize("champion", [CHANCE, None], ids=["champion", "first version"])
def test_inverted_slice_of_62_rows_is_noticed(champion: np.ndarray | None) -> None:
    candidate = inverted(with_slices(CHANCE, champion=champion))
    result = SliceGate(columns=["carrier"]).evaluate(with_slices(candidate, champion=champion))
    assert (result.passed, result.undecided, result.numbers["small_slices"]) == (False, False, 21)
    assert "21 smaller slices together are proven worse" in result.reason
    assert "worst: carrier=OO (-" in result.reason


def test_equal_candidates_rarely_fail_by_their_small_slices() -> None:
    failed = []
    for seed in range(12):
        evidence = with_slices(noisy(0.4, 2 * seed), champion=noisy(0.4, 2 * seed + 1))
        failed.append(not SliceGate(columns=["carrier"]).evaluate(evidence).passed)
    assert sum(failed) <= 2


def test_perfect_candidate_is_too_good_to_be_true() -> None:
    leaked = Evidence(LABEL, {"candidate": 0.1 + 0.8 * LABEL}, DAY, settings=SETTINGS)
    result = PlausibilityGate().evaluate(leaked)
    assert (result.passed, result.undecided) == (False, False)
    assert "AUC 1.0000, not below 0.995. Look for a feature that contains the label" in result.reason
    assert PlausibilityGate(maximum_auc=1.01).evaluate(leaked).passed
    assert PlausibilityGate().evaluate(Evidence(LABEL, {"candidate": CHANCE}, DAY, settings=SETTINGS)).passed


def test_perfect_regression_is_too_good_to_be_true() -> None:
    value = np.arange(ROWS) / 10
    for candidate, passed in ((value + 0.01, False), (value + 50, True)):
        evidence = Evidence(value, {"candidate": candidate}, DAY, task=as_task("regression"), settings=SETTINGS)
        assert PlausibilityGate().evaluate(evidence).passed is passed


def test_calibration_test_decides_where_it_is_declared() -> None:
    raised = pair(np.minimum(CHANCE + 0.08, 1), CHANCE)
    assert CalibrationGate(maximum_ece=0.1, maximum_bias=0.1).evaluate(raised).passed
    result = CalibrationGate(maximum_ece=0.1, maximum_bias=0.1, minimum_p_value=0.01).evaluate(raised)
    assert not result.passed
    assert result.numbers["p_value"] is not None
    assert result.numbers["p_value"] < 0.01
    assert CalibrationGate(minimum_p_value=0.01).evaluate(pair(CHANCE, CHANCE)).passed


@pytest.mark.parametrize(
    ("importance", "noise", "passed", "text"),
    [
        ({"leak": 0.95, "other": 0.05}, 0.4, False, "'leak' alone has 95% of the importance. Look for a feature"),
        ({"leak": 0.95, "other": 0.05}, 1.5, True, "'leak' alone has 95% of the importance."),
        ({"leak": 0.6, "other": 0.4}, 0.4, True, "below 0.995."),
        ({"only": 1.0}, 0.4, True, "below 0.995."),
        (None, 0.4, True, "below 0.995."),
    ],
)
def test_limit_is_lower_where_one_feature_is_nearly_the_whole_model(
    importance: dict[str, float] | None, noise: float, passed: bool, text: str
) -> None:
    random = np.random.default_rng(8)
    label = (random.random(3000) < 0.5).astype(np.float64)
    score = 1 / (1 + np.exp(-(label - 0.5 + noise * random.normal(size=3000))))
    checks = SystemChecks(importance=importance)
    evidence = Evidence(label, {"candidate": score}, np.arange(3000) % 30, system_checks=checks)
    result = PlausibilityGate(maximum_auc=0.995, maximum_auc_of_one_feature=0.9).evaluate(evidence)
    assert (result.passed, text in result.reason) == (passed, True), result.reason
    assert result.numbers["largest_share"] == (max(importance.values()) if importance and len(importance) > 1 else None)
    assert evidence.digest() == Evidence(label, {"candidate": score}, np.arange(3000) % 30).digest()
