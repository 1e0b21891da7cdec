"""The gate on fairness compares rates of groups with hand-computed numbers, and keeps its error rates."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence, SystemChecks
from ml_platform.evaluation.fairness import FairnessSettings, compare_groups
from ml_platform.evaluation.fairness_gate import FairnessGate
from ml_platform.tasks.metrics import EvaluationError

RESAMPLING = BootstrapSettings(resamples=200, unit="row")
SIX = pl.DataFrame({"sex": ["f", "f", "f", "m", "m", "m", "m", None]})
LABEL = np.array([1, 1, 0, 1, 0, 0, 1, 1.0])
ANSWER = np.array([1, 0, 0, 1, 1, 0, 1, 1.0])


def rates(metric: str, answer: np.ndarray = ANSWER) -> dict[str, tuple[int, float]]:
    settings = FairnessSettings.model_validate(
        {"groups": ["sex"], "metric": metric, "maximum_difference": 0.5, "minimum_support": 2}
    )
    found = compare_groups(LABEL, answer, SIX, np.arange(8), settings, RESAMPLING)
    assert found.too_small == ["sex=null"] or metric == "false_positive_rate"
    return {each.value: (each.rows, round(each.rate, 6)) for each in found.rates}


def test_rates_are_those_of_the_rows_that_count() -> None:
    assert rates("selection_rate") == {"f": (3, round(1 / 3, 6)), "m": (4, 0.75)}
    assert rates("true_positive_rate") == {"f": (2, 0.5), "m": (2, 1.0)}
    assert rates("false_positive_rate") == {"m": (2, 0.5)}
    assert rates("mean_error", LABEL + np.array([1, 2, 3, 0, 0, 0, 4, 9.0])) == {"f": (3, 2.0), "m": (4, 1.0)}


def drawn(rows: int, chance: dict[str, float], seed: int, **more: object) -> Evidence:
    """Return evidence with groups of equal size, whose positives are answered as true with this chance."""
    random = np.random.default_rng(seed)
    names = np.array(list(chance))[np.arange(rows) % len(chance)]
    label = (random.random(rows) < 0.5).astype(float)
    answered = random.random(rows) < np.array([chance[name] for name in names])
    return Evidence(
        label=label,
        predictions={"candidate": np.where(answered, 0.9, 0.1)},
        block=np.arange(rows) % 40,
        slices=pl.DataFrame({"sex": names}),
        settings=BootstrapSettings(resamples=200, unit="day"),
        system_checks=SystemChecks(threshold=0.5),
        **more,  # type: ignore[arg-type]
    )


def gate(**settings: object) -> FairnessGate:
    return FairnessGate.model_validate({"groups": ["sex"], "minimum_support": 50, **settings})


def test_large_difference_is_proven_and_fails_for_good() -> None:
    evidence = drawn(4000, {"f": 0.5, "m": 0.8}, seed=1)
    result = gate(maximum_difference=0.1).evaluate(evidence)
    assert (result.passed, result.undecided) == (False, False)
    assert "proven" in result.reason
    label, answer, names = evidence.label, evidence.predictions["candidate"], evidence.slices["sex"].to_numpy()  # type: ignore[index]
    expected = [float((answer[(label == 1) & (names == name)] > 0.5).mean()) for name in ("f", "m")]
    assert all(f"({each:.3f})" in result.reason for each in expected)
    assert (result.numbers["lowest"], result.numbers["highest"]) == pytest.approx(tuple(expected))


def test_two_small_groups_are_compared_with_each_other() -> None:
    # Both are within the limit of the largest group.
    evidence = drawn(8000, {"a": 0.5, "b": 0.4, "c": 0.5, "d": 0.6}, seed=8)
    result = gate(maximum_difference=0.12).evaluate(evidence)
    assert (result.passed, result.undecided) == (False, False)
    assert "sex b (" in result.reason
    assert " and d (" in result.reason
    assert " and a (" not in result.reason


def test_four_fifths_rule_compares_the_ratio_in_both_directions() -> None:
    for chance in ({"f": 0.3, "m": 0.6}, {"f": 0.6, "m": 0.3}):
        unfair = gate(metric="selection_rate", minimum_ratio=0.8).evaluate(drawn(4000, chance, seed=2))
        assert (unfair.passed, unfair.undecided) == (False, False)
        assert "(at least 0.8)" in unfair.reason
    fair = gate(metric="selection_rate", minimum_ratio=0.8).evaluate(drawn(4000, {"f": 0.57, "m": 0.6}, seed=2))
    assert fair.passed
    assert "None of 2 groups is beyond the limit" in fair.reason


def test_difference_beyond_the_limit_without_proof_waits_for_more_labels() -> None:
    result = gate(maximum_difference=0.1).evaluate(drawn(400, {"f": 0.6, "m": 0.75}, seed=4))
    assert (result.passed, result.undecided) == (False, True)
    assert result.labels_needed is not None
    assert result.labels_needed > 0
    assert "more labels would decide" in result.reason


def test_group_with_too_few_rows_is_named_and_not_judged() -> None:
    evidence = drawn(3000, {"f": 0.7, "m": 0.7}, seed=5)
    assert evidence.slices is not None
    names = evidence.slices["sex"].to_list()
    names[:20] = ["x"] * 20
    few = replace(evidence, slices=pl.DataFrame({"sex": names}))
    result = gate(maximum_difference=0.1).evaluate(few)
    assert result.passed
    assert "Too few rows to judge: 'sex=x'." in result.reason
    alone = gate(maximum_difference=0.1, minimum_support=5000).evaluate(evidence)
    assert (alone.passed, alone.undecided) == (False, True)
    assert "none was compared" in alone.reason


def test_difference_that_is_as_large_as_the_limit_is_rarely_proven_to_be_larger() -> None:
    settings = gate(maximum_difference=0.1)
    rows = BootstrapSettings(resamples=100, unit="row")
    found = [settings.evaluate(replace(drawn(1500, {"f": 0.5, "m": 0.6}, seed), settings=rows)) for seed in range(20)]
    assert sum(not each.passed and not each.undecided for each in found) <= 3  # 5 % of 20 are 1


def test_mean_error_of_a_regression_needs_no_threshold() -> None:
    random = np.random.default_rng(3)
    names = np.array(["f", "m"])[np.arange(2000) % 2]
    label = random.normal(size=2000)
    off = label + random.normal(size=2000) + np.where(names == "f", 0.5, 0.0)
    evidence = Evidence(
        label,
        {"candidate": off},
        np.arange(2000) % 30,
        slices=pl.DataFrame({"sex": names}),
        task="regression",  # type: ignore[arg-type]
        settings=BootstrapSettings(resamples=200),
    )
    result = gate(metric="mean_error", maximum_difference=0.2).evaluate(evidence)
    assert (result.passed, result.undecided) == (False, False)
    assert gate(metric="mean_error", maximum_difference=0.8).evaluate(evidence).passed


def test_number_of_compared_groups_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_platform.evaluation.fairness.MOST_GROUPS", 2)
    result = gate(maximum_difference=0.3).evaluate(drawn(3000, {"a": 0.6, "b": 0.6, "c": 0.6}, seed=1))
    assert result.numbers["groups"] == 2
    assert result.passed


def test_missing_column_and_threshold_are_refused() -> None:
    evidence = drawn(400, {"f": 0.6, "m": 0.6}, seed=6)
    with pytest.raises(EvaluationError, match=r"'sx'.*Did you mean 'sex'"):
        FairnessGate(groups=["sx"], maximum_difference=0.1).evaluate(evidence)
    without = replace(evidence, system_checks=SystemChecks())
    with pytest.raises(EvaluationError, match="decision threshold"):
        gate(maximum_difference=0.1).evaluate(without)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "maximum_difference, minimum_ratio or both"),
        ({"metric": "mean_error", "minimum_ratio": 0.8}, "compares shares"),
    ],
)
def test_declaration_without_a_usable_limit_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FairnessSettings.model_validate({"groups": ["sex"], **settings})


def test_threshold_is_no_part_of_the_digest_that_people_approve() -> None:
    evidence = drawn(400, {"f": 0.6, "m": 0.6}, seed=6)
    other = replace(evidence, system_checks=SystemChecks())
    assert evidence.digest() == other.digest()
