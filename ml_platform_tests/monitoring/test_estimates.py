"""Estimates without labels, compared with the truth of simulated predictions."""

from typing import Any

import numpy as np
import pytest

from ml_platform.data.roc_auc import auc
from ml_platform.monitoring.estimates import Estimator, can_be_estimated, fit_estimator
from ml_platform.monitoring.expected_metrics import (
    calibrated,
    calibration,
    expected_auc,
    expected_binary_metrics,
    expected_class_metrics,
)
from ml_platform.monitoring.loss_tree import fit_loss_tree
from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.metrics import Array
from ml_platform.tasks.multiclass import MulticlassTask
from ml_platform.tasks.quantile import QuantileTask
from ml_platform.tasks.ranking import RankingTask
from ml_platform.tasks.regression import RegressionTask

DAYS, ROWS_A_DAY = 30, 100
CLASSES = MulticlassTask(type="multiclass", classes=["a", "b", "c"])


def binary_days(seed: int, days: int = DAYS, *, mean: float = -1.2, shock: float = 0.0) -> tuple[Array, Array, Array]:
    """Return label, score and day. The score is overconfident: its log-odds are 1.5 times the true ones.

    ``shock`` moves the true log-odds of all rows of a day, and ``mean`` those of all rows, score included.
    """
    random = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), ROWS_A_DAY)
    odds = random.normal(mean, 1.0, len(day))
    truth = 1 / (1 + np.exp(-odds - shock * random.normal(size=days)[day]))
    return (random.random(len(day)) < truth).astype(float), 1 / (1 + np.exp(-1.5 * odds)), day.astype(float)


def fitted(task: Any, label: Array, prediction: Array, day: Any, **more: Any) -> Estimator:
    found = fit_estimator(task, label, prediction, day, days=float(DAYS), **more)
    assert found is not None
    return found


def classes(seed: int, rows: int, tilt: float = 0.0) -> tuple[Array, Array]:
    """Return labels of three classes and their true probabilities; ``tilt`` moves the mix of rows."""
    random = np.random.default_rng(seed)
    odds = random.normal(size=(rows, 3)) + np.array([tilt, 0.0, -tilt])
    shares = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    return (random.random(rows)[:, np.newaxis] > shares.cumsum(axis=1)).sum(axis=1).astype(float), shares


# Expected metrics.


def test_expected_binary_metrics_are_the_mean_over_drawn_outcomes() -> None:
    random = np.random.default_rng(0)
    score = np.round(random.beta(1, 3, 400), 2)  # with ties
    positive = random.beta(1, 3, 400)
    drawn = []
    for _ in range(400):
        outcome = (random.random(400) < positive).astype(float)
        drawn.append(
            [auc(outcome, score), *(BinaryTask().score(outcome, score)[name] for name in ("log_loss", "brier"))]
        )
    found = expected_binary_metrics(score, positive)
    error = np.std(drawn, axis=0) / np.sqrt(400)
    assert np.abs(np.mean(drawn, axis=0) - [found["auc"], found["log_loss"], found["brier"]]) == pytest.approx(
        np.zeros(3), abs=float((4 * error).max())
    )


def test_expected_auc_counts_every_pair_but_those_of_a_row_with_itself() -> None:
    score, positive = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.2, 0.5, 0.1, 0.9])
    won = total = 0.0
    for one in range(4):
        for other in range(4):
            if one != other:
                pair = positive[one] * (1 - positive[other])
                total += pair
                won += pair * (0.5 if score[one] == score[other] else float(score[one] > score[other]))
    assert expected_auc(score, positive) == pytest.approx(won / total)


def test_known_outcomes_give_the_realised_metrics() -> None:
    label, score, _ = binary_days(1)
    realised = BinaryTask().score(label, score)
    assert expected_binary_metrics(score, label) == pytest.approx(
        {name: realised[name] for name in ("auc", "log_loss", "brier", "base_rate")}
    )
    truth, shares = classes(2, 500)
    of_classes = CLASSES.score(truth, shares)
    assert expected_class_metrics(shares, np.eye(3)[truth.astype(int)]) == pytest.approx(
        {name: of_classes[name] for name in ("auc", "log_loss", "brier", "accuracy", "top_2_accuracy")}
    )


def test_calibration_finds_the_true_log_odds() -> None:
    label, score, _ = binary_days(3, days=200)
    intercept, slope = calibration(score, label)
    assert (intercept, slope) == pytest.approx((0.0, 1 / 1.5), abs=0.04)
    assert calibrated(score, (intercept, slope)).mean() == pytest.approx(label.mean(), abs=0.001)


def test_few_rows_of_one_class_keep_a_finite_calibration() -> None:
    assert np.isfinite(calibration(np.array([0.2, 0.3]), np.array([0.0, 0.0]))).all()


# Binary.


def test_estimate_follows_a_changed_mix_of_an_overconfident_model() -> None:
    estimator = fitted(BinaryTask(), *binary_days(4, shock=0.2))
    label, score, _ = binary_days(5, days=300, mean=0.4)
    truth = expected_binary_metrics(score, label)
    found = estimator.estimate(score, None, days=300)
    before = estimator.references
    for name in ("auc", "log_loss", "brier", "base_rate"):
        assert found[name].value == pytest.approx(truth[name], abs=0.02)
        assert found[name].low <= truth[name] <= found[name].high
    assert abs(before["log_loss"].realised - truth["log_loss"]) > 0.05  # the promise alone is far from the truth


def test_intervals_contain_the_realised_value_as_often_as_they_say_with_days_that_are_alike() -> None:
    hits = dict.fromkeys(("auc", "log_loss", "brier", "base_rate"), 0)
    for seed in range(40):
        estimator = fitted(BinaryTask(), *binary_days(100 + seed, shock=0.4))
        label, score, _ = binary_days(1000 + seed, days=15, mean=-0.8, shock=0.4)
        found, truth = estimator.estimate(score, None, days=15), expected_binary_metrics(score, label)
        for name in hits:
            hits[name] += found[name].low <= truth[name] <= found[name].high
    # 38 of 40 are expected; below 33 is rarer than one in a thousand for 95 % intervals.
    assert min(hits.values()) >= 33, hits


def test_changed_relation_of_outcome_and_score_is_not_seen() -> None:
    estimator = fitted(BinaryTask(), *binary_days(6))
    label, score, _ = binary_days(7, days=100)
    reverse = expected_binary_metrics(score, 1 - label)
    assert estimator.estimate(score, None, days=100)["auc"].low > reverse["auc"] + 0.1


# Several classes.


def test_classes_are_estimated_after_a_changed_mix() -> None:
    label, shares = classes(8, 4000)
    estimator = fitted(CLASSES, label, shares**2 / (shares**2).sum(axis=1, keepdims=True), np.arange(4000) // 100.0)
    later, mix = classes(9, 20_000, tilt=0.8)
    answered = mix**2 / (mix**2).sum(axis=1, keepdims=True)
    truth = expected_class_metrics(answered, np.eye(3)[later.astype(int)])
    found = estimator.estimate(answered, None, days=150)
    for name in ("log_loss", "accuracy", "top_2_accuracy", "brier", "auc"):
        assert found[name].value == pytest.approx(truth[name], abs=0.025)
    assert truth["accuracy"] > estimator.references["accuracy"].realised + 0.05


# Numbers.


def numbers(seed: int, rows: int, mean: float = 10.0) -> tuple[Array, Array]:
    """Return labels and predictions; the error is a fifth of the prediction."""
    random = np.random.default_rng(seed)
    prediction = random.gamma(4, mean / 4, rows)
    return prediction + random.normal(0, prediction / 5), prediction


def test_loss_of_numbers_is_estimated_after_a_changed_mix() -> None:
    label, prediction = numbers(10, 6000)
    estimator = fitted(RegressionTask(), label, prediction, np.arange(6000) // 200.0)
    later, mix = numbers(11, 20_000, mean=14.0)
    truth = RegressionTask().score(later, mix)
    found = estimator.estimate(mix, None, days=100)
    for name in ("mae", "rmse", "pinball"):
        assert found[name].value == pytest.approx(truth[name], rel=0.08)
        assert found[name].low <= truth[name] <= found[name].high
    assert truth["mae"] > 1.3 * estimator.references["mae"].realised
    assert found["base_rate"].value == pytest.approx(later.mean(), rel=0.02)


def test_spread_of_quantiles_says_where_the_loss_is_high() -> None:
    task = QuantileTask(type="quantile", levels=[0.1, 0.5, 0.9])
    random = np.random.default_rng(12)
    width = random.choice([1.0, 6.0], 8000, p=[0.9, 0.1])
    quantiles = 20 + width[:, np.newaxis] * [-1.28, 0.0, 1.28]
    label = 20 + random.normal(0, width)
    estimator = fitted(task, label, quantiles, np.arange(8000) // 200.0)
    wide = width == 6.0
    found = estimator.estimate(quantiles[wide], None, days=3)
    truth = task.score(label[wide], quantiles[wide])
    for name in ("mae", "pinball", "coverage"):
        assert found[name].value == pytest.approx(truth[name], rel=0.06)


def test_tree_of_losses_is_stored_as_numbers_and_predicts_the_means_of_its_leaves() -> None:
    rows = np.column_stack([np.repeat([1.0, 5.0], 200), np.zeros(400)])
    tree = fit_loss_tree(rows, {"mae": np.repeat([2.0, 7.0], 200)})
    again = type(tree).model_validate_json(tree.model_dump_json())
    assert again.expected(np.array([[0.0, 0.0], [9.0, 0.0]]))["mae"].tolist() == [2.0, 7.0]


# Not applicable.


def test_ranking_and_too_few_rows_have_no_estimator() -> None:
    assert not can_be_estimated(RankingTask(type="ranking", group="search"))
    label, score, day = binary_days(13)
    assert fit_estimator(BinaryTask(), label[:199], score[:199], day[:199]) is None
    assert fit_estimator(BinaryTask(), label, score, np.zeros(len(label))) is None


def test_equal_rows_give_an_equal_estimator_that_survives_json() -> None:
    first, second = (fitted(BinaryTask(), *binary_days(14)) for _ in range(2))
    assert first == second
    assert Estimator.model_validate_json(first.model_dump_json()) == first
    assert first.estimate(np.array([]), None, days=0) == {}
