"""Levels of repeated tests keep the error over all looks, and windows are pooled with their blocks apart."""

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr, ndtri, stdtr

from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.sequential import nominal_levels, pool_windows, split_windows
from ml_platform.evaluation.serial_dependence import serial_dependence
from ml_platform.tasks.metrics import EvaluationError


def test_single_look_has_the_level_of_a_single_test() -> None:
    assert nominal_levels([5000], 0.05) == [pytest.approx(0.025, abs=1e-6)]


def test_second_level_is_that_of_the_bivariate_normal_distribution() -> None:
    # Brute force: scores of two looks with half the rows each, from two million pairs of normal increments.
    first, second = nominal_levels([100, 200], 0.05)
    random = np.random.default_rng(1)
    one, two = random.normal(size=(2, 2_000_000))
    passed_first = one > -ndtri(first)
    passed_later = ~passed_first & ((one + two) / np.sqrt(2) > -ndtri(second))
    assert passed_first.mean() == pytest.approx(0.025, abs=4e-4)
    assert passed_later.mean() == pytest.approx(0.0125, abs=4e-4)


def test_levels_use_what_earlier_looks_already_rejected() -> None:
    levels = nominal_levels([1, 2, 3, 4, 5], 0.05)
    spent = [0.05 / 2**look for look in range(1, 6)]
    assert all(level > share for level, share in zip(levels[1:], spent[1:], strict=True))
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("autocorrelation", [0.0, 0.26])
def test_equal_candidate_passes_at_any_of_six_looks_at_most_at_the_declared_rate(autocorrelation: float) -> None:
    from benchmarks.interval_coverage import autoregression

    random, days, passed = np.random.default_rng(2), 30, 0
    levels = nominal_levels([days * look for look in range(1, 7)], 0.05)
    for _ in range(1500):
        improvement = autoregression(6 * days, autocorrelation, random)
        for look, level in enumerate(levels, start=1):
            seen = improvement[: look * days]
            found = serial_dependence(seen, ordered=True)
            error = np.sqrt(found.inflation * seen.var(ddof=1) / len(seen))
            if 1 - stdtr(found.degrees_of_freedom, seen.mean() / error) < level:
                passed += 1
                break
    assert passed / 1500 <= 0.05 + 0.012  # two standard errors


def test_gates_promote_an_equal_candidate_over_six_windows_at_most_at_the_declared_rate() -> None:
    from benchmarks.repeated_looks import simulate

    outcomes = simulate(300, better_by=0.0, autocorrelation=0.26, resamples=100)
    promoted = [each.looks for each in outcomes if each.decision == "PROMOTE"]
    assert len(promoted) / 300 <= 0.05 + 0.025  # two standard errors
    assert any(looks > 1 for looks in promoted)  # an error that later looks could not make would test nothing


def test_windows_are_split_as_they_were_pooled() -> None:
    windows = [window(1), window(2)]
    stored = pool_windows(windows).to_table()
    again = split_windows(Evidence.from_table(stored, task="binary", settings=windows[0].settings), [200, 200])
    for one, other in zip(windows, again, strict=True):
        assert np.array_equal(one.predictions["candidate"], other.predictions["candidate"])
        assert len(np.unique(other.block)) == 10
    assert pool_windows(again).digest() == pool_windows(windows).digest()
    with pytest.raises(EvaluationError, match="expected 300 rows, as its looks record, found 400"):
        split_windows(pool_windows(windows), [200, 100])


def test_looks_without_more_rows_are_refused() -> None:
    with pytest.raises(EvaluationError, match="more rows at each look"):
        nominal_levels([100, 100], 0.05)


def window(seed: int, **extra: np.ndarray) -> Evidence:
    random = np.random.default_rng(seed)
    label = np.tile([0.0, 1.0], 100)
    predictions = {"candidate": random.random(200), "champion": random.random(200), **extra}
    return Evidence(
        label,
        predictions,
        np.arange(200) // 20,
        slices=pl.DataFrame({"origin": ["A"] * 200}),
        settings=BootstrapSettings(resamples=100),
    )


def test_pooled_windows_keep_blocks_apart_and_only_common_models() -> None:
    pooled = pool_windows([window(1, old_baseline=np.full(200, 0.5)), window(2)])
    assert len(pooled.label) == 400
    assert len(np.unique(pooled.block)) == 20
    assert sorted(pooled.predictions) == ["candidate", "champion"]
    assert pooled.slices is not None
    assert pooled.slices.height == 400
    second = nominal_levels([200, 400], 0.05)[1]
    assert pooled.settings.confidence == pytest.approx(1 - 2 * second)


def test_single_window_is_judged_as_before() -> None:
    assert pool_windows([window(1)]).settings.confidence == pytest.approx(0.95, abs=1e-5)
    with pytest.raises(EvaluationError, match="at least one window"):
        pool_windows([])


def test_levels_are_those_of_pocock_when_his_spending_is_given() -> None:
    """Pocock (1977): two looks at the bound 2.178 each have a one-sided error of 0.025 together."""
    levels = nominal_levels([1, 2], 0.0294)  # the first look spends 0.0147, that of the bound 2.178
    assert -ndtri(levels[0]) == pytest.approx(2.178, abs=1e-3)
    assert float(ndtr(-2.178)) == pytest.approx(0.0147, abs=1e-4)
