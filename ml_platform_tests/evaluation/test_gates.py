"""Every gate passes and fails where it should, and its reason has the numbers."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence, SystemChecks, bootstrap_blocks
from ml_platform.evaluation.gates import (
    BaselineGate,
    CalibrationGate,
    Gate,
    MetricLimitGate,
    PairedTestGate,
    SliceGate,
    evaluate_gates,
)
from ml_platform.evaluation.system_gates import ContractGate, LatencyGate, LeakGate, SizeGate
from ml_platform.tasks.metrics import EvaluationError

random = np.random.default_rng(3)
ROWS = 4000
DAY = np.arange(ROWS) % 20
CHANCE = 1 / (1 + np.exp(-random.normal(-1, 1, ROWS)))
LABEL = (random.random(ROWS) < CHANCE).astype(float)


def blurred(noise: float, seed: int = 1) -> np.ndarray:
    """Return the true chance with noise on its logit; more noise ranks worse."""
    logit = np.log(CHANCE / (1 - CHANCE)) + noise * np.random.default_rng(seed).normal(size=ROWS)
    return 1 / (1 + np.exp(-logit))


def evidence(candidate: np.ndarray = CHANCE, champion: np.ndarray | None = None, **given: Any) -> Evidence:
    """Return evidence on the rows above; ``given`` are further fields, and ``baselines`` by name."""
    predictions = {"candidate": candidate} | ({} if champion is None else {"champion": champion})
    settings = BootstrapSettings(resamples=200)
    return Evidence(LABEL, {**predictions, **given.pop("baselines", {})}, DAY, settings=settings, **given)


def test_better_candidate_passes_the_paired_test() -> None:
    result = PairedTestGate().evaluate(evidence(champion=blurred(1.0)))
    assert result.passed
    assert result.numbers["low"] is not None
    assert result.numbers["low"] > 0


def test_worse_candidate_fails_and_more_labels_would_not_help() -> None:
    result = PairedTestGate().evaluate(evidence(blurred(1.0), CHANCE))
    assert (result.passed, result.undecided, result.labels_needed) == (False, False, None)


def test_slightly_better_candidate_is_undecided_with_the_number_of_labels_needed() -> None:
    compared = evidence(blurred(0.5, seed=6), blurred(0.5, seed=16))
    result = PairedTestGate().evaluate(compared)
    assert (result.passed, result.undecided) == (False, True)
    total = compared.resampled("auc").difference("candidate", "champion", "auc").rows_to_decide(0.0, 0.95)
    assert total is not None
    assert result.labels_needed == total - ROWS > 0
    assert f"About {total - ROWS:,} more labels would decide." in result.reason


def test_reason_mentions_a_champion_that_was_fitted_on_the_rows() -> None:
    fair, favoured = (
        PairedTestGate().evaluate(evidence(champion=blurred(0.5, seed=6), champion_fitted_on_rows=seen))
        for seen in (False, True)
    )
    assert favoured.reason.removeprefix(fair.reason) == (
        " The champion was fitted on some of these rows, which favours it."
    )
    assert favoured.numbers == fair.numbers


def test_margin_lets_an_equally_good_newer_candidate_pass() -> None:
    nearly_equal = {"candidate": blurred(0.1, seed=5), "champion": blurred(0.1, seed=6)}
    assert not PairedTestGate(margin=0.02).evaluate(evidence(**nearly_equal)).passed
    without_margin = PairedTestGate(margin=0.0).evaluate(evidence(**nearly_equal, candidate_is_newer=True))
    assert not without_margin.passed
    assert "not above 0 with confidence" in without_margin.reason
    assert PairedTestGate(margin=0.02).evaluate(evidence(**nearly_equal, candidate_is_newer=True)).passed


def test_paired_test_compares_the_declared_metric() -> None:
    # Squared probabilities have the same order, but are not calibrated.
    distorted = evidence(CHANCE, CHANCE**2)
    assert PairedTestGate(metric="log_loss").evaluate(distorted).passed
    assert not PairedTestGate(metric="auc").evaluate(distorted).passed


def test_first_version_passes_without_a_champion() -> None:
    result = PairedTestGate().evaluate(evidence())
    assert (result.passed, result.reason) == (True, "No champion yet: nothing to beat.")


def test_candidate_that_does_not_beat_the_request_only_baseline_fails() -> None:
    baselines = {"base_rate": np.full(len(LABEL), 0.3), "request_only": CHANCE}
    result = BaselineGate().evaluate(evidence(blurred(0.8), baselines=baselines))
    assert (result.passed, result.undecided) == (False, False)
    assert "better than request_only by -" in result.reason


def test_candidate_that_beats_every_baseline_passes_with_numbers_for_each() -> None:
    baselines = {"base_rate": np.full(len(LABEL), 0.3), "request_only": blurred(1.5)}
    result = BaselineGate().evaluate(evidence(baselines=baselines))
    assert result.passed
    assert {"improvement_over_base_rate", "low_over_request_only"} <= set(result.numbers)


def test_constant_baseline_can_be_beaten_by_auc() -> None:
    baselines = {"base_rate": np.full(len(LABEL), 0.3)}
    result = BaselineGate(metric="auc").evaluate(evidence(baselines=baselines))
    assert result.passed
    assert result.numbers["improvement_over_base_rate"] == pytest.approx(
        evidence().resampled("auc").points["candidate"]["auc"] - 0.5
    )


@pytest.mark.parametrize("baselines", [{}, {"base_rate": np.full(len(LABEL), 0.3)}])
def test_required_baseline_that_was_not_evaluated_fails_the_gate(baselines: dict[str, np.ndarray]) -> None:
    result = BaselineGate(required=["request_only"]).evaluate(evidence(baselines=baselines))
    assert (result.passed, result.reason) == (False, "Baselines not evaluated: request_only.")


def test_baseline_gate_without_any_baseline_fails() -> None:
    result = BaselineGate().evaluate(evidence(champion=blurred(1.5)))
    assert (result.passed, result.undecided, result.labels_needed) == (False, False, None)
    assert result.reason == "Baselines not evaluated: none were given."


@pytest.mark.parametrize(
    ("metric", "limit", "passed"),
    [("auc", 0.6, True), ("auc", 0.9, False), ("log_loss", 0.7, True), ("log_loss", 0.2, False)],
)
def test_limit_is_minimum_or_maximum_by_the_metric(metric: str, limit: float, passed: bool) -> None:
    assert MetricLimitGate(metric=metric, limit=limit).evaluate(evidence()).passed is passed


def test_confident_limit_applies_to_the_worse_end_of_the_interval() -> None:
    interval = evidence().resampled("auc").interval("candidate", "auc")
    limit = (interval.low + interval.value) / 2
    assert MetricLimitGate(metric="auc", limit=limit).evaluate(evidence()).passed
    result = MetricLimitGate(metric="auc", limit=limit, confident=True).evaluate(evidence())
    assert (result.passed, result.undecided) == (False, True)
    # The limit is half way between value and worse end: half the width needs four times the rows.
    assert result.labels_needed == pytest.approx(3 * ROWS, abs=1)


def test_confident_limit_above_the_value_gives_no_number_of_labels() -> None:
    interval = evidence().resampled("auc").interval("candidate", "auc")
    limit = (interval.high + interval.value) / 2
    result = MetricLimitGate(metric="auc", limit=limit, confident=True).evaluate(evidence())
    assert (result.passed, result.undecided, result.labels_needed) == (False, True, None)


@pytest.mark.parametrize(("end", "labels"), [("high", 3 * ROWS), ("low", None)])
def test_confident_limit_of_a_loss_applies_to_the_upper_end(end: str, labels: int | None) -> None:
    interval = evidence().resampled("log_loss").interval("candidate", "log_loss")
    limit = (getattr(interval, end) + interval.value) / 2
    assert MetricLimitGate(metric="log_loss", limit=limit).evaluate(evidence()).passed is (end == "high")
    result = MetricLimitGate(metric="log_loss", limit=limit, confident=True).evaluate(evidence())
    assert (result.passed, result.undecided) == (False, True)
    assert result.labels_needed == (labels and pytest.approx(labels, abs=1))


def test_undecided_baselines_need_the_labels_of_the_hardest_one() -> None:
    candidate = blurred(0.5, seed=6)
    baselines = {"easier": blurred(0.5, seed=16), "easy": blurred(1.5)}
    alone = PairedTestGate().evaluate(evidence(candidate, baselines["easier"]))
    result = BaselineGate(metric="auc").evaluate(evidence(candidate, baselines=baselines))
    assert (result.passed, result.undecided) == (False, True)
    assert result.labels_needed == alone.labels_needed is not None


def test_calibration_error_above_its_limit_fails() -> None:
    stretched = np.where(np.median(CHANCE) < CHANCE, CHANCE + 0.1, CHANCE - np.minimum(CHANCE, 0.1)).clip(0, 1)
    assert CalibrationGate().evaluate(evidence()).passed
    assert not CalibrationGate(maximum_bias=1).evaluate(evidence(stretched)).passed
    assert CalibrationGate(maximum_ece=0.2, maximum_bias=1).evaluate(evidence(stretched)).passed


@pytest.mark.parametrize("shift", [0.08, -0.08], ids=["too high", "too low"])
def test_bias_above_its_limit_fails_in_both_directions(shift: float) -> None:
    shifted = (CHANCE + shift).clip(0, 1)
    result = CalibrationGate(maximum_ece=0.5).evaluate(evidence(shifted))
    assert not result.passed
    assert result.numbers["bias"] == pytest.approx(shifted.mean() - LABEL.mean())
    assert abs(shifted.mean() - LABEL.mean()) > 0.05  # the default limit
    assert CalibrationGate(maximum_ece=0.5, maximum_bias=0.2).evaluate(evidence(shifted)).passed


ORIGIN = pl.DataFrame({"origin": np.array(["JFK", "LGA", "EWR", "EWR"])[np.arange(ROWS) % 4]})


def with_a_bad_slice() -> Evidence:
    """Return evidence of a candidate that is worse than the champion at JFK only."""
    worse_at_jfk = np.where(ORIGIN["origin"].to_numpy() == "JFK", CHANCE**3, CHANCE)
    return evidence(worse_at_jfk, CHANCE, slices=ORIGIN)


def test_slice_that_is_proven_worse_is_named() -> None:
    result = SliceGate(columns=["origin"]).evaluate(with_a_bad_slice())
    assert (result.passed, result.numbers["slices"], result.numbers["proven_worse"]) == (False, 3, 1)
    assert "1 of 3 slices proven worse at margin 0.01 log_loss: origin=JFK" in result.reason


def test_equal_slices_pass() -> None:
    result = SliceGate(columns=["origin"]).evaluate(evidence(CHANCE, CHANCE, slices=ORIGIN))
    assert (result.passed, result.numbers["not_proven_safe"]) == (True, 0)


@pytest.mark.parametrize(
    "settings", [{"margin": 5.0}, {"metric": "auc"}], ids=["larger margin", "metric that ignores calibration"]
)
def test_margin_and_metric_of_the_slice_gate_take_effect(settings: dict[str, Any]) -> None:
    assert SliceGate(columns=["origin"], **settings).evaluate(with_a_bad_slice()).passed


def test_slices_below_the_minimum_support_are_pooled() -> None:
    result = SliceGate(columns=["origin"], minimum_support=1500).evaluate(with_a_bad_slice())
    assert (result.passed, result.numbers["slices"], result.numbers["small_slices"]) == (True, 1, 2)
    result = SliceGate(columns=["origin"], minimum_support=3000).evaluate(with_a_bad_slice())
    assert (result.passed, result.reason[:26]) == (True, "No slice has 3000 rows wit")
    # JFK has rows on 5 days only, too few for a proof by the signs of days.
    assert "3 smaller slices together are not proven worse (p 0.05" in result.reason
    assert "worst: origin=JFK (-" in result.reason


def test_strict_criterion_fails_slices_that_are_not_proven_safe() -> None:
    noisy = evidence(blurred(0.4, seed=7), blurred(0.4, seed=8), slices=ORIGIN)
    assert SliceGate(columns=["origin"], margin=0.001).evaluate(noisy).passed
    result = SliceGate(columns=["origin"], margin=0.001, criterion="proven_not_worse").evaluate(noisy)
    assert (result.passed, result.undecided) == (False, True)
    nearer, near = (
        SliceGate(columns=["origin"], margin=margin, criterion="proven_not_worse").evaluate(noisy)
        for margin in (0.005, 0.01)
    )
    assert nearer.labels_needed is not None
    assert near.labels_needed is not None
    assert nearer.labels_needed > near.labels_needed > 0
    assert f"About {near.labels_needed:,} more labels would decide." in near.reason


def test_smaller_error_rate_needs_stronger_evidence() -> None:
    slightly = np.where(ORIGIN["origin"].to_numpy() == "JFK", blurred(0.8), CHANCE)
    compared = evidence(slightly, CHANCE, slices=ORIGIN)
    loose, strict = SliceGate(columns=["origin"], error_rate=0.5), SliceGate(columns=["origin"], error_rate=1e-9)
    assert not loose.evaluate(compared).passed
    assert strict.evaluate(compared).passed


def test_unknown_slice_column_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(EvaluationError, match=r"Slice column 'orign'.*Did you mean 'origin'"):
        SliceGate(columns=["orign"]).evaluate(with_a_bad_slice())


@pytest.mark.parametrize(
    ("gate", "good", "bad"),
    [
        (LeakGate(), SystemChecks(leaks=[]), SystemChecks(leaks=["weather__visibility"])),
        (
            ContractGate(),
            SystemChecks(contract_violations=[]),
            SystemChecks(contract_violations=["flights.origin: 3 rows"]),
        ),
        (LatencyGate(maximum_p99_ms=5), SystemChecks(latency_p99_ms=4.9), SystemChecks(latency_p99_ms=5.1)),
        (SizeGate(maximum_mb=10), SystemChecks(size_bytes=9_900_000), SystemChecks(size_bytes=10_100_000)),
    ],
    ids=["leak", "contract", "latency", "size"],
)
def test_system_check_passes_or_fails_and_fails_when_not_measured(
    gate: Gate, good: SystemChecks, bad: SystemChecks
) -> None:
    assert gate.evaluate(evidence(system_checks=good)).passed
    assert not gate.evaluate(evidence(system_checks=bad)).passed
    assert not gate.evaluate(evidence()).passed


def test_type_selects_the_gate() -> None:
    gate = TypeAdapter(Gate).validate_python({"type": "metric_limit", "metric": "auc", "limit": 0.7})
    assert gate == MetricLimitGate(metric="auc", limit=0.7)


def test_misspelt_gate_setting_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'limit'"):
        TypeAdapter(Gate).validate_python({"type": "metric_limit", "metric": "auc", "limt": 0.7})


def test_gate_declared_twice_is_rejected() -> None:
    with pytest.raises(EvaluationError, match="twice: metric_limit_auc"):
        evaluate_gates([MetricLimitGate(metric="auc", limit=0.6), MetricLimitGate(metric="auc", limit=0.7)], evidence())


def test_changed_prediction_changes_the_digest_of_the_evidence() -> None:
    changed = CHANCE.copy()
    changed[17] += 1e-9
    assert evidence().digest() == evidence().digest()
    assert evidence(changed).digest() != evidence().digest()
    assert evidence(system_checks=SystemChecks(leaks=[])).digest() != evidence().digest()
    assert evidence(champion_fitted_on_rows=True).digest() != evidence().digest()


def test_new_latency_measurement_does_not_change_the_digest_of_the_evidence() -> None:
    assert (
        evidence(system_checks=SystemChecks(latency_p99_ms=4)).digest()
        == evidence(system_checks=SystemChecks(latency_p99_ms=5)).digest()
    )
    assert (
        evidence(system_checks=SystemChecks(size_bytes=4)).digest()
        != evidence(system_checks=SystemChecks(size_bytes=5)).digest()
    )


def test_models_scored_on_different_rows_are_rejected() -> None:
    with pytest.raises(EvaluationError, match="4000 rows everywhere, one per label, found 3999 in 'champion'"):
        evidence(champion=CHANCE[1:])


def test_day_begins_at_local_midnight() -> None:
    # 03:30 UTC in June is the day before in New York.
    times = pl.DataFrame({"predict_at": ["2013-06-02T03:30", "2013-06-02T04:30", "2013-06-01T12:00"]})
    rows = times.select(pl.col("predict_at").str.to_datetime("%Y-%m-%dT%H:%M", time_unit="us", time_zone="UTC"))
    day = bootstrap_blocks(rows, "day", time="predict_at", time_zone="America/New_York")
    assert [day[0] == day[2], day[0] == day[1]] == [True, False]


def test_unit_may_be_a_column_and_an_unknown_unit_is_rejected() -> None:
    rows = pl.DataFrame({"tailnum": ["N1", "N2"]})
    assert bootstrap_blocks(rows, "tailnum", time="predict_at", time_zone="UTC").tolist() == ["N1", "N2"]
    with pytest.raises(EvaluationError, match=r"Bootstrap unit 'dy'.*Did you mean 'day'"):
        bootstrap_blocks(rows, "dy", time="predict_at", time_zone="UTC")


def test_table_has_labels_blocks_predictions_and_slices() -> None:
    table = evidence(champion=blurred(1.0), slices=ORIGIN).to_table()
    assert table.columns == ["label", "block", "prediction__candidate", "prediction__champion", "origin"]
    assert table["prediction__candidate"].to_list() == CHANCE.tolist()
