"""Distances compared with hand-computed numbers and with scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.monitoring.distances import (
    benjamini_hochberg,
    bin_counts,
    kolmogorov_smirnov,
    population_stability,
    quantile_edges,
    total_variation,
)


def naive_gap(reference: list[float], current: list[float]) -> float:
    """Return the distance by its definition: the largest difference of the shares at or below any value."""
    return max(
        abs(sum(x <= v for x in reference) / len(reference) - sum(x <= v for x in current) / len(current))
        for v in [*reference, *current]
    )


@settings(deadline=None)  # the first example includes an import
@given(
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20),
    st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20),
)
def test_ks_distance_equals_its_definition_with_ties(reference: list[float], current: list[float]) -> None:
    assert kolmogorov_smirnov(reference, current).effect == pytest.approx(naive_gap(reference, current))


def test_ks_p_value_agrees_with_scipy() -> None:
    from scipy.stats import ks_2samp

    reference, current = (np.random.default_rng(seed).normal(size=2_000) for seed in (1, 2))
    expected = ks_2samp(reference, current, method="asymp").pvalue
    assert kolmogorov_smirnov(reference, current).p_value == pytest.approx(expected, rel=0.05)


def test_ks_distance_of_disjoint_samples_is_one_and_significant() -> None:
    found = kolmogorov_smirnov(np.arange(100), np.arange(100) + 1000)
    assert found.effect == 1.0
    assert found.p_value < 1e-12


def test_total_variation_is_half_the_summed_difference_of_shares() -> None:
    # Shares of 0.5, 0.5 and 0.0 against 0.25, 0.25 and 0.5.
    assert total_variation([20, 20, 0], [25, 25, 50]).effect == pytest.approx(0.5)


def test_total_variation_p_value_equals_pearson_by_hand() -> None:
    # 2×2 table 60/40 against 40/60: chi-squared = 8 with one degree of freedom; its tail is erfc(sqrt(8 / 2))
    assert total_variation([60, 40], [40, 60]).p_value == pytest.approx(math.erfc(2.0))


def test_single_category_has_distance_zero() -> None:
    found = total_variation([7, 0], [900, 0])
    assert (found.effect, found.p_value) == (0.0, 1.0)


def test_population_stability_equals_its_formula_by_hand() -> None:
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
    assert population_stability([50, 50], [80, 20]) == pytest.approx(0.3 * math.log(1.6) - 0.3 * math.log(0.4))


def test_population_stability_of_an_empty_bin_is_finite() -> None:
    assert population_stability([50, 50], [100, 0]) == pytest.approx(
        0.5 * math.log(2) + (1e-4 - 0.5) * math.log(1e-4 / 0.5)
    )


def test_quantile_bins_split_a_heavy_tail_into_equal_shares() -> None:
    values = np.concatenate([np.arange(99), [1e9]])
    assert bin_counts(values, quantile_edges(values, 4)).tolist() == [25, 25, 25, 25]


def test_repeated_quantiles_become_one_edge() -> None:
    assert quantile_edges([0, 0, 0, 0, 0, 0, 0, 1], 4).tolist() == [0.0]


def test_benjamini_hochberg_reproduces_the_example_of_its_authors() -> None:
    # Benjamini and Hochberg (1995), section 4: of fifteen p-values, q = 0.05 rejects the four smallest.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719]
    p_values += [0.6528, 0.7590, 1.0]
    assert benjamini_hochberg(p_values, q=0.05) == [True] * 4 + [False] * 11


def test_benjamini_hochberg_rejects_a_value_above_its_limit_if_a_larger_one_is_within_its_own() -> None:
    # 0.03 > 0.05 · 1/2, but 0.04 <= 0.05 · 2/2 rejects both.
    assert benjamini_hochberg([0.04, 0.03], q=0.05) == [True, True]


def test_benjamini_hochberg_of_no_p_values_is_empty() -> None:
    assert benjamini_hochberg([], q=0.05) == []
