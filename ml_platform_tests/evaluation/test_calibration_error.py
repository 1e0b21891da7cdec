"""The calibration error of a calibrated model contains 0, and that of another model does not."""

import numpy as np

from benchmarks.interval_coverage import Population, simulated
from ml_platform.evaluation.calibration_error import CalibrationError, calibration_error


def error_of(label: np.ndarray, probability: np.ndarray, day: np.ndarray) -> CalibrationError:
    codes = np.unique(day, return_inverse=True)[1]
    return calibration_error(label, probability, codes, ordered=True, confidence=0.95, draws=300, seed=1)


def test_interval_of_a_calibrated_model_contains_zero_as_often_as_declared() -> None:
    random = np.random.default_rng(3)
    for days, autocorrelation in ((15, 0.0), (30, 0.5), (90, 0.26)):
        population = Population(days, 60 * days, autocorrelation)
        errors = [error_of(*simulated(population, random)) for _ in range(150)]
        assert np.mean([each.low == 0 for each in errors]) >= 0.90  # 95 % less three standard errors
        assert np.mean([each.p_value <= 0.05 for each in errors]) <= 0.10


def test_error_of_a_calibrated_model_is_near_zero() -> None:
    random = np.random.default_rng(4)
    population = Population(days=30, rows=3000)
    values = []
    for _ in range(50):
        label, probability, day = simulated(population, random)
        values.append(error_of(label, probability, day).value)
    assert np.median(values) < 0.01  # the plug-in error of these rows is about 0.03


def test_error_of_an_overconfident_model_is_found_and_covered() -> None:
    random = np.random.default_rng(5)
    covered = []
    for _ in range(60):
        label, probability, day = simulated(Population(days=30, rows=9000), random)
        raised = np.minimum(probability + 0.1, 1)
        found = error_of(label, raised, day)
        assert found.p_value < 0.05
        covered.append(found.low <= 0.1 <= found.high)
    assert np.mean(covered) >= 0.9
