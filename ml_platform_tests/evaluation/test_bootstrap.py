"""Resampled metrics equal scikit-learn's on the rows of each resample, and intervals cover as often as declared."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from ml_platform.evaluation.bootstrap import (
    Bootstrap,
    BootstrapSettings,
    Difference,
    block_codes,
    bootstrap,
    draw_counts,
)
from ml_platform.tasks import resampled_auc as ranking
from ml_platform.tasks.metrics import EvaluationError, score, score_regression


def flights(rows: int = 600, days: int = 12, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities with many ties, and the day of each row."""
    random = np.random.default_rng(seed)
    label = (random.random(rows) < 0.3).astype(float)
    probability = np.round(np.clip(0.3 + 0.2 * (label - 0.3) + 0.2 * random.normal(size=rows), 0, 1), 2)
    return label, probability, random.integers(0, days, rows)


@pytest.mark.parametrize(
    ("max_blocks", "max_cells"), [(512, 1 << 24), (512, 3000), (1, 1 << 24)], ids=["tables", "in rounds", "rows"]
)
def test_every_resample_is_scored_as_scikit_learn_scores_its_rows(
    max_blocks: int, max_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MAX_BLOCKS_FOR_TABLES", max_blocks)
    monkeypatch.setattr(ranking, "MAX_BUFFER_CELLS", max_cells)
    label, probability, day = flights()
    settings = BootstrapSettings(resamples=100)
    drawn = bootstrap(label, {"model": probability}, day, settings).draws["model"]
    counts = draw_counts(12, 100, settings.seed)
    for resample in (0, 17, 99):
        weight = counts[resample][day]
        repeated = score(np.repeat(label, weight.astype(int)), np.repeat(probability, weight.astype(int)))
        expected = {
            "auc": oracle.roc_auc_score(label, probability, sample_weight=weight),
            "average_precision": oracle.average_precision_score(label, probability, sample_weight=weight),
            "log_loss": oracle.log_loss(label, probability, sample_weight=weight),
            "brier": oracle.brier_score_loss(label, probability, sample_weight=weight),
            **{name: repeated[name] for name in ("ece", "recall_at_rate")},
        }
        found = {metric: values[resample] for metric, values in drawn.items()}
        assert found == pytest.approx(expected, abs=1e-7)


def test_points_are_the_metrics_of_the_rows() -> None:
    label, probability, day = flights()
    points = bootstrap(label, {"model": probability}, day, BootstrapSettings(resamples=100)).points["model"]
    expected = score(label, probability)
    del expected["base_rate"]
    assert points == pytest.approx(expected, abs=1e-7)


def test_regression_points_are_the_metrics_of_the_rows() -> None:
    label, probability, day = flights()
    settings = BootstrapSettings(resamples=100, quantile=0.8)
    found = bootstrap(label, {"model": probability}, day, settings, task="regression").points["model"]
    assert found == pytest.approx(score_regression(label, probability, quantile=0.8))


def test_coverage_is_resampled_for_the_models_that_predict_an_interval() -> None:
    label, prediction, day = flights()
    bounds = {"a": (prediction - 0.4, prediction + 0.4)}
    drawn = bootstrap(
        label,
        {"a": prediction, "b": prediction},
        day,
        BootstrapSettings(resamples=100),
        task="regression",
        bounds=bounds,
    )
    expected = score_regression(label, prediction, lower=bounds["a"][0], upper=bounds["a"][1])["coverage"]
    assert 0.1 < expected < 0.9
    assert drawn.points["a"]["coverage"] == pytest.approx(expected)
    assert "coverage" not in drawn.points["b"]


def test_draws_depend_on_the_seed_only() -> None:
    label, probability, day = flights()

    def draws(seed: int) -> list[float]:
        settings = BootstrapSettings(resamples=100, seed=seed)
        return bootstrap(label, {"model": probability}, day, settings).draws["model"]["auc"].tolist()

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_number_of_resamples_is_the_declared_one() -> None:
    label, probability, day = flights()
    drawn = bootstrap(label, {"model": probability}, day, BootstrapSettings(resamples=150))
    assert drawn.draws["model"]["auc"].shape == (150,)


def test_equal_models_have_no_difference() -> None:
    label, probability, day = flights()
    drawn = bootstrap(label, {"a": probability, "b": probability}, day, BootstrapSettings(resamples=100))
    difference = drawn.difference("a", "b", "auc")
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_paired_difference_has_a_narrower_interval_than_either_model() -> None:
    label, probability, day = flights(rows=6000, days=30)
    nudged = np.clip(probability + 0.01 * np.random.default_rng(2).normal(size=len(label)), 0, 1)
    drawn = bootstrap(label, {"a": probability, "b": nudged}, day, BootstrapSettings(resamples=500))
    difference, alone = drawn.difference("a", "b", "auc"), drawn.interval("a", "auc")
    assert difference.high - difference.low < 0.25 * (alone.high - alone.low)


def test_higher_confidence_widens_the_interval() -> None:
    label, probability, day = flights()

    def width(confidence: float) -> float:
        settings = BootstrapSettings(resamples=200, confidence=confidence)
        interval = bootstrap(label, {"a": probability}, day, settings).interval("a", "auc")
        return interval.high - interval.low

    # Student's t with the 4 degrees of freedom of 12 days: 4.604 at 99 %, 2.132 at 90 %.
    assert width(0.99) / width(0.90) == pytest.approx(4.604 / 2.132, rel=1e-3)


def test_standard_error_and_interval_are_those_computed_by_hand() -> None:
    drawn = Bootstrap(
        points={"a": {"auc": 0.66}, "b": {"auc": 0.5}},
        draws={"a": {"auc": np.array([0.5, 0.7, 0.6, 0.8])}, "b": {"auc": np.full(4, 0.5)}},
        blocks=5,
        rows=50,
        confidence=0.95,
    )
    difference = drawn.difference("a", "b", "auc")
    # The differences 0, 0.2, 0.1 and 0.3 have the variance 0.05 / 3; five blocks give 5 / 4 of it.
    assert difference.standard_error == pytest.approx((0.05 / 3 * 5 / 4) ** 0.5)
    # Student's t with 4 degrees of freedom at 97.5 % is 2.776445.
    half_width = 2.776445 * 0.1443376
    assert (difference.low, difference.high) == pytest.approx((0.16 - half_width, 0.16 + half_width))
    assert drawn.interval("a", "auc").low == pytest.approx(0.66 - half_width)


def test_standard_error_of_few_blocks_equals_that_of_their_mean() -> None:
    # Five groups of equal size with the losses 1 to 5: the standard error of their mean is the root of 2.5 / 5.
    loss, block = np.repeat(np.arange(1.0, 6.0), 4), np.repeat(np.arange(5), 4)
    settings = BootstrapSettings(resamples=20_000, unit="group")
    drawn = bootstrap(
        np.zeros(20), {"a": loss, "none": np.zeros(20)}, block, settings, task="regression", metrics=["mae"]
    )
    assert drawn.difference("none", "a", "mae").standard_error == pytest.approx(0.5**0.5, rel=0.02)


def test_interval_stays_in_the_range_of_the_metric() -> None:
    label = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    drawn = bootstrap(label, {"a": 0.2 + 0.6 * label}, [1, 1, 2, 2, 3, 3], BootstrapSettings(resamples=100))
    assert drawn.interval("a", "auc").high == 1.0


def test_interval_of_a_mean_covers_the_truth_as_often_as_declared() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        # 20 days with an error each, so the rows of a day are far from independent.
        day = np.repeat(np.arange(20), 30)
        loss = 1.0 + 0.5 * random.normal(size=20)[day] + random.normal(size=600)
        drawn = bootstrap(np.zeros(600), {"a": np.abs(loss)}, day, BootstrapSettings(resamples=200), task="regression")
        interval = drawn.interval("a", "mae")
        covered += interval.low <= 1.1811 <= interval.high
    # E|N(1, 1.25)| = 1.1811; of 400 intervals at 95 %, 370 to 390 cover it.
    assert 0.92 <= covered / 400 <= 0.98


def test_single_block_cannot_be_resampled() -> None:
    with pytest.raises(EvaluationError, match="at least two blocks to draw from, found 1 among 3 rows"):
        block_codes(["2013-06-01"] * 3)


def test_unknown_metric_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(EvaluationError, match="Did you mean 'brier'"):
        bootstrap([0, 1], {"a": [0.1, 0.2]}, [1, 2], BootstrapSettings(), metrics=["briar"])


def test_rows_to_decide_grow_with_the_inverse_square_of_the_distance() -> None:
    label, probability, day = flights(rows=3000)
    better = np.clip(probability + 0.02 * (label - 0.3), 0, 1)
    drawn = bootstrap(label, {"a": better, "b": probability}, day, BootstrapSettings(resamples=200))
    difference = drawn.difference("a", "b", "auc")
    near = difference.rows_to_decide(difference.value - 0.001, 0.95)
    nearer = difference.rows_to_decide(difference.value - 0.0005, 0.95)
    assert near is not None
    assert nearer == pytest.approx(4 * near, rel=0.01)
    assert difference.rows_to_decide(difference.value + 0.001, 0.95) is None


def difference_of(value: float, standard_error: float, rows: int = 1000) -> Difference:
    return Difference(value, value, value, standard_error, degrees_of_freedom=4, rows=rows)


def test_p_value_is_that_of_students_t_with_one_degree_fewer_than_blocks() -> None:
    # Two standard errors above the bound: 5.8058 % of Student's t with 4 degrees of freedom lie beyond.
    assert difference_of(0.11, 0.05).one_sided_p_value(0.01) == pytest.approx(0.058058, abs=1e-6)
    assert difference_of(-0.09, 0.05).one_sided_p_value(0.01) == pytest.approx(1 - 0.058058, abs=1e-6)


@pytest.mark.parametrize(("bound", "p_value"), [(0.09, 0.0), (0.1, 1.0), (0.11, 1.0)])
def test_p_value_without_any_variation_is_certain(bound: float, p_value: float) -> None:
    assert difference_of(0.1, 0.0).one_sided_p_value(bound) == p_value


def test_rows_to_decide_are_those_computed_by_hand() -> None:
    # (1.959964 + 0.841621) squared is 7.8489, for a difference of one standard error.
    assert difference_of(0.02, 0.02).rows_to_decide(0.0, 0.95) == 7849
    # At 90 % confidence and 50 % power only the quantile 1.644854 counts.
    assert difference_of(0.02, 0.02).rows_to_decide(0.0, 0.9, power=0.5) == 2706
    assert difference_of(0.02, 0.001).rows_to_decide(0.0, 0.95) == 1000  # not fewer than there are
    assert difference_of(0.02, 0.02).rows_to_decide(0.02, 0.95) is None
