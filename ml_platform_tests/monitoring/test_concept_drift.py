"""The change of the loss of a period: what the mix of the predictions explains, and what it does not."""

from typing import Any

import numpy as np
import pytest

from ml_platform.components.performance_results import concept_drift_result
from ml_platform.monitoring.concept_drift import concept_drift
from ml_platform.monitoring.performance import ExpectedInterval, PerformanceReport, Period
from ml_platform.tasks.binary import BinaryTask
from ml_platform_tests.monitoring.test_estimates import binary_days, fitted
from ml_platform_tests.monitoring.test_track_record import period

PROMISED = {"log_loss": ExpectedInterval(value=0.39, low=0.37, high=0.41)}
WORSE, USUAL = 0.43, 0.41
"""Realised losses above and within the interval of the estimate, which is 0.38 to 0.42."""


def periods(*realised: float | None, **changes: Any) -> list[Period]:
    return [period(at, each).model_copy(update={"promised": PROMISED, **changes}) for at, each in enumerate(realised)]


@pytest.mark.parametrize(
    ("realised", "found"),
    [
        ([], False),
        ([WORSE], False),
        ([WORSE, WORSE], True),
        ([WORSE, USUAL, WORSE], True),
        ([WORSE, WORSE, USUAL], False),
        ([WORSE, USUAL, USUAL, WORSE], False),
    ],
)
def test_two_of_three_periods_above_their_estimate_are_concept_drift(realised: list[float], found: bool) -> None:
    assert concept_drift(periods(*realised)).is_found is found
    assert concept_drift_result(PerformanceReport(periods=periods(*realised))).passed is not found


def test_parts_of_the_change_add_up() -> None:
    (change,) = concept_drift(periods(WORSE)).changes
    assert [change.by_inputs, change.by_relation] == pytest.approx([0.01, 0.03])
    result = concept_drift_result(PerformanceReport(periods=periods(WORSE)))
    assert "is 0.430 in place of the promised 0.390: +0.010 by the mix of the predictions, +0.030" in str(
        result.description
    )


@pytest.mark.parametrize("changes", [{"pending": 5}, {"label_state": "marked"}, {"estimates": {}}, {"promised": {}}])
def test_periods_with_doubts_or_without_an_estimate_do_not_count(changes: dict[str, Any]) -> None:
    assert concept_drift(periods(WORSE, WORSE, **changes)).changes == []


def test_periods_of_the_version_before_do_not_count() -> None:
    earlier, latest = periods(WORSE, WORSE)
    changes = concept_drift([earlier.model_copy(update={"version": "6"}), latest]).changes
    assert [each.period.version for each in changes] == ["7"]


def simulated(seed: int, *, mean: float = -1.2, relation: float = 0.0) -> Period:
    """Return a period of simulated predictions: ``mean`` moves their mix.

    ``relation`` is the share of negative outcomes that are positive in place.
    """
    estimator = fitted(BinaryTask(), *binary_days(0))
    label, score, _ = binary_days(seed, mean=mean)
    drawn = np.random.default_rng(seed).random(len(label))
    label = np.where((label == 0) & (drawn < relation), 1.0, label)
    reference = estimator.references["log_loss"].realised
    return period(seed, BinaryTask().score(label, score)["log_loss"]).model_copy(
        update={
            "estimates": estimator.estimate(score, None, days=30),
            "promised": {"log_loss": ExpectedInterval(value=reference, low=reference, high=reference)},
        }
    )


def test_a_harder_mix_is_not_concept_drift() -> None:
    found = concept_drift([simulated(seed, mean=0.4) for seed in (1, 2, 3)])
    assert not found.is_found
    assert all(each.by_inputs > 0.05 for each in found.changes)  # the loss has risen all the same


def test_another_relation_is_concept_drift() -> None:
    found = concept_drift([simulated(seed, relation=0.15) for seed in (1, 2, 3)])
    assert (found.is_found, found.unexplained) == (True, 3)
    assert all(each.by_relation > 0.03 > abs(each.by_inputs) for each in found.changes)
