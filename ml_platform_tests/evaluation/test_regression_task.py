"""Gates, verdicts and summaries of a regression, whose label is a number of minutes."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gates import BaselineGate, MetricLimitGate, PairedTestGate, SliceGate, evaluate_gates
from ml_platform.evaluation.summary import summarize_metrics
from ml_platform.evaluation.verdict import decide
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.metrics import EvaluationError

random = np.random.default_rng(8)
DELAY = random.gamma(2.0, 10.0, 3000)
BETTER, WORSE = DELAY + 3 * random.normal(size=3000), DELAY + 6 * random.normal(size=3000)
EVIDENCE = Evidence(
    DELAY,
    {"candidate": BETTER, "champion": WORSE, "median": np.full(3000, np.median(DELAY))},
    np.arange(3000) % 15,
    slices=pl.DataFrame({"origin": ["JFK", "LGA", "EWR"] * 1000}),
    bounds={"candidate": (BETTER - 6, BETTER + 6)},
    task=as_task("regression"),
    settings=BootstrapSettings(resamples=200),
)


def test_better_regression_model_passes_its_gates() -> None:
    gates = [
        PairedTestGate(metric="mae"),
        BaselineGate(metric="rmse"),
        MetricLimitGate(metric="coverage", limit=0.9),
        SliceGate(columns=["origin"], metric="mae", margin=0.1),
    ]
    assert decide(evaluate_gates(gates, EVIDENCE))[0] == "PROMOTE"  # type: ignore[arg-type]


def test_interval_with_too_low_coverage_fails_the_gate() -> None:
    assert not MetricLimitGate(metric="coverage", limit=0.99).evaluate(EVIDENCE).passed


def test_summary_has_every_metric_and_coverage_only_of_models_with_intervals() -> None:
    lines = {line.metric: line for line in summarize_metrics(EVIDENCE)}
    assert list(lines) == ["mae", "rmse", "pinball", "coverage"]
    assert lines["mae"].candidate.value == pytest.approx(np.abs(BETTER - DELAY).mean())
    assert set(lines["mae"].others) == {"champion", "median"}
    assert lines["coverage"].others == {}


def test_coverage_without_predicted_bounds_is_rejected() -> None:
    with pytest.raises(EvaluationError, match=r"Metric 'coverage' of 'candidate'.*needs the bounds"):
        MetricLimitGate(metric="coverage", limit=0.9).evaluate(dataclasses.replace(EVIDENCE, bounds={}))
