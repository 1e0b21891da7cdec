"""Standard errors of autocorrelated blocks, by hand and by simulation."""

import numpy as np
import pytest
from scipy.special import stdtrit

from benchmarks.interval_coverage import Population, autoregression, coverage
from ml_platform.evaluation.bootstrap import MAX_BLOCKS, BootstrapSettings, bootstrap, merge_blocks
from ml_platform.evaluation.serial_dependence import cosines, serial_dependence


def test_blocks_without_an_order_are_independent() -> None:
    found = serial_dependence(np.arange(10.0), ordered=False)
    assert (found.inflation, found.degrees_of_freedom) == (1.0, 9)


def test_blocks_without_variance_are_independent() -> None:
    assert serial_dependence(np.full(10, 0.3), ordered=True).inflation == 1.0


def test_alternating_days_are_taken_as_at_most_four_times_as_many() -> None:
    found = serial_dependence(np.tile([1.0, -1.0], 10), ordered=True)
    assert found.inflation == 0.25
    assert found.degrees_of_freedom == 6


def test_inflation_of_a_short_trend_is_that_computed_by_hand() -> None:
    values = np.arange(9.0)
    found = serial_dependence(values, ordered=True)

    centred, basis = values - 4, cosines(9)
    # The autocorrelation of a trend is above the limit 0.7.
    covariance = 0.7 ** np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    missed = covariance.sum() / 9 / np.mean(np.diag(basis @ covariance @ basis.T))
    variance = np.mean((basis @ centred) ** 2) * missed
    assert missed > 1.5
    assert found.inflation == pytest.approx(variance / centred.var(ddof=1))
    assert found.degrees_of_freedom == 4


@pytest.mark.parametrize(("blocks", "count"), [(3, 2), (5, 4), (10, 4), (15, 5), (24, 8), (90, 8), (180, 13)])
def test_number_of_cosines_grows_with_the_blocks(blocks: int, count: int) -> None:
    assert len(cosines(blocks)) == count


def test_cosines_are_orthonormal_and_blind_to_the_mean() -> None:
    basis = cosines(90)
    assert len(basis) == 8  # 0.4 * 90 ** (2 / 3) is 8.03
    assert basis @ basis.T == pytest.approx(np.eye(8), abs=1e-12)
    assert basis.sum(axis=1) == pytest.approx(np.zeros(8), abs=1e-12)


@pytest.mark.parametrize("days", [15, 30, 90])
@pytest.mark.parametrize("autocorrelation", [0.0, 0.26, 0.5])
def test_interval_of_a_mean_of_days_covers_as_declared(days: int, autocorrelation: float) -> None:
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(2000):
        values = autoregression(days, autocorrelation, random)
        found = serial_dependence(values, ordered=True)
        error = np.sqrt(found.inflation * values.var(ddof=1) / days)
        covered += abs(values.mean()) <= stdtrit(found.degrees_of_freedom, 0.975) * error
    # The error of 2,000 repetitions is half a percentage point.
    assert 0.93 <= covered / 2000 <= 0.97


def test_intervals_of_metrics_cover_as_declared_when_days_are_alike() -> None:
    found = coverage(Population(days=30, rows=9000, autocorrelation=0.5), ("log_loss", "brier", "auc"), 200)
    assert all(0.90 <= share <= 0.995 for share in found.values()), found


def test_independent_days_would_cover_far_less() -> None:
    """The correction acts: the same days as groups without an order give intervals that are too narrow."""
    random = np.random.default_rng(7)
    values = np.repeat(np.abs(5 + autoregression(30, 0.5, random)), 10)
    block = np.repeat(np.arange(30), 10)

    def width(unit: str) -> float:
        settings = BootstrapSettings(resamples=300, unit=unit)
        found = bootstrap(np.zeros(300), {"a": values}, block, settings, task="regression", metrics=["mae"])
        interval = found.interval("a", "mae")
        return interval.high - interval.low

    assert width("day") > 1.5 * width("group")


@pytest.mark.parametrize("ordered", [True, False])
def test_many_blocks_are_merged_to_blocks_of_equal_size(ordered: bool) -> None:
    codes, blocks = merge_blocks(np.arange(4 * MAX_BLOCKS), 4 * MAX_BLOCKS, ordered=ordered, seed=1)
    assert blocks == MAX_BLOCKS
    assert np.bincount(codes).tolist() == [4] * MAX_BLOCKS
    assert bool((np.diff(codes) >= 0).all()) is ordered
