"""Metrics and gates of a team's own are resampled, compared and recorded like built-in ones."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter

from ml_platform.data.extensions import ExtensionError
from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.gates import Gate, MetricLimitGate, PairedTestGate, evaluate_gates
from ml_platform.evaluation.own_gate import OwnGate
from ml_platform.evaluation.slices import SliceSettings, compare_slices
from ml_platform.evaluation.summary import flat_metrics, summarize_metrics
from ml_platform.tasks.metrics import Array
from ml_platform.tasks.own_metric import MeanMetric, Metric, own_scores

ROWS = 400
RANDOM = np.random.default_rng(5)
LABEL = (RANDOM.random(ROWS) < 0.3).astype(np.float64)
GOOD = np.clip(0.3 + 0.4 * (LABEL - 0.3) + RANDOM.normal(0, 0.1, ROWS), 0.01, 0.99)
POOR = np.clip(0.3 + RANDOM.normal(0, 0.1, ROWS), 0.01, 0.99)


class SquaredError(MeanMetric):
    """The Brier score again, as a metric of a team's own."""

    higher_is_better = False
    lowest, highest = 0.0, 1.0

    def row_values(self, label: Array, prediction: Array) -> Array:
        return (label - prediction) ** 2


class WeightedError(Metric):
    """The same by a weighted mean."""

    higher_is_better = False

    def value(self, label: Array, prediction: Array, weight: Array) -> float:
        return float((weight * (label - prediction) ** 2).sum() / weight.sum())


class NoNumber(Metric):
    def value(self, label: Array, prediction: Array, weight: Array) -> float:
        return math.nan


class Profit(MeanMetric):
    def row_values(self, label: Array, prediction: Array) -> Array:
        return (prediction > 0.4) * (3 * label - 1) * 100.0


class Named(OwnGate):
    """Pass for every candidate."""

    result: str = "named"

    def evaluate(self, evidence: Evidence) -> GateResult:
        return GateResult(name=self.result, passed=True, numbers={}, reason="Always.")


def evidence(**more: Any) -> Evidence:
    predictions = {"candidate": GOOD, "champion": POOR, "base_rate": np.full(ROWS, LABEL.mean())}
    metrics = {"own": SquaredError(), "loop": WeightedError(), "profit": Profit()}
    settings = BootstrapSettings(resamples=100)
    return Evidence(LABEL, predictions, np.arange(ROWS) % 20, settings=settings, metrics=metrics, **more)


def test_own_metric_has_the_values_intervals_and_differences_of_the_built_in_twin() -> None:
    given = evidence()
    twin, own, loop = (given.resampled(metric) for metric in ("brier", "own", "loop"))
    for metric, found in (("own", own), ("loop", loop)):
        interval, expected = found.interval("candidate", metric), twin.interval("candidate", "brier")
        assert [interval.value, interval.low, interval.high] == pytest.approx(
            [expected.value, expected.low, expected.high]
        )
        assert found.difference("candidate", "champion", metric).value == pytest.approx(
            twin.difference("candidate", "champion", "brier").value
        )


def test_range_and_direction_are_those_of_the_class() -> None:
    profit = evidence().resampled("profit")
    interval = profit.interval("candidate", "profit")
    assert interval.high > 1.0  # not clipped as a share
    assert profit.difference("candidate", "champion", "profit").value == pytest.approx(
        profit.points["candidate"]["profit"] - profit.points["champion"]["profit"]
    )


def test_gates_and_summaries_take_own_metrics() -> None:
    gates: list[Gate] = [
        PairedTestGate(metric="own"),
        MetricLimitGate(metric="own", limit=0.15),
        MetricLimitGate(metric="profit", limit=0),
    ]
    assert [each.passed for each in evaluate_gates(gates, evidence())] == [True, True, True]
    assert not MetricLimitGate(metric="own", limit=0.01).evaluate(evidence()).passed
    flat = flat_metrics(summarize_metrics(evidence()))
    assert flat["own"] == pytest.approx(flat["brier"])
    assert {"profit_low", "profit_high"} <= set(flat)


def test_slices_are_compared_by_an_own_metric() -> None:
    given = evidence(slices=pl.DataFrame({"side": ["left", "right"] * (ROWS // 2)}))
    (left, right), _ = compare_slices(given, SliceSettings(columns=["side"], metric="own", minimum_support=10))
    assert left.difference.value > 0
    assert right.difference.value > 0


def test_metric_without_a_value_is_named_with_its_class() -> None:
    with pytest.raises(ExtensionError, match="NoNumber': expected a finite value of 'none' on 400 rows, found nan"):
        own_scores({"none": NoNumber()}, LABEL, GOOD)


def test_own_gate_is_declared_by_its_class_and_returns_a_result_of_its_name() -> None:
    gate: Gate = TypeAdapter(Gate).validate_python({"type": f"{__name__}:Named"})
    assert isinstance(gate, Named)
    assert [each.name for each in evaluate_gates([gate], evidence())] == ["named"]
    with pytest.raises(ExtensionError, match="expected a GateResult with the name 'named', found 'other'"):
        evaluate_gates([Named(result="other")], evidence())


def test_digest_of_the_evidence_changes_with_the_metrics_and_not_without() -> None:
    plain = Evidence(LABEL, {"candidate": GOOD}, np.arange(ROWS) % 20)
    with_metric = Evidence(LABEL, {"candidate": GOOD}, np.arange(ROWS) % 20, metrics={"profit": Profit()})
    assert plain.digest() != with_metric.digest()
    again = Evidence.from_table(
        with_metric.to_table(), task="binary", settings=BootstrapSettings(), metrics={"profit": Profit()}
    )
    assert again.digest() == with_metric.digest()
