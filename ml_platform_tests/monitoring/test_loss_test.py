"""The realised loss is compared with the promised one by a test that holds at every look, one bet a day."""

import json

import numpy as np
import polars as pl
import pytest

from ml_platform.monitoring.loss_test import LossTest, after_days, read_loss_test, write_loss_test
from ml_platform.state.store import StateStore
from ml_platform.tasks.binary import BinaryTask
from ml_platform.tasks.catalog import realised_metrics
from ml_platform.tasks.multiclass import MulticlassTask
from ml_platform.tasks.quantile import QuantileTask
from ml_platform.tasks.regression import RegressionTask
from ml_platform.tasks.row_losses import LOSS_METRICS, row_losses
from ml_platform.tasks.task import Task

START = LossTest(version=3, metric="log_loss", promised=0.45, tolerance=0.02)


def highest_evidence(seed: int, mean: float, days: int) -> float:
    """Return the highest evidence over ``days`` looks; a shock common to all rows moves each day by a quarter."""
    generator, test, highest = np.random.default_rng(seed), START, 0.0
    for day in range(days):
        test = test.after(str(day), float(mean * generator.gamma(16, 1 / 16)), labels=50)
        highest = max(highest, test.evidence.evidence)
    return highest


def test_loss_at_the_edge_of_the_tolerance_seldom_reaches_the_limit_at_any_look() -> None:
    reached = [highest_evidence(seed, 0.47, days=365) >= 20 for seed in range(50)]
    # At most one in twenty by Ville's inequality; 9 of 50 would be four standard deviations more.
    assert sum(reached) <= 8


def test_loss_that_is_a_third_worse_is_found_within_seven_weeks() -> None:
    assert all(highest_evidence(seed, 0.47 * 4 / 3, days=49) >= 100 for seed in range(20))


def test_evidence_is_the_mean_wealth_by_hand_and_days_without_labels_change_nothing() -> None:
    test = after_days(START, [("2013-06-01", 0.94, 40), ("2013-06-02", 0.0, 0)])
    # The loss is twice the limit, so each stake wins its own share.
    assert test.evidence.evidence == pytest.approx(np.mean([1.02, 1.1, 1.3, 1.6, 1.9]))
    assert (test.evidence.days, test.evidence.labels, test.evidence.until) == (1, 40, "2013-06-02")
    assert test.evidence.mean == pytest.approx(0.94)


def test_stored_test_goes_on_where_it_was(state_store: StateStore) -> None:
    assert read_loss_test(state_store, "late") is None
    days = [(f"2013-06-{day:02}", 0.5 + day / 100, 30) for day in range(1, 9)]
    write_loss_test(state_store, "late", after_days(START, days[:5]))
    stored = read_loss_test(state_store, "late")
    assert stored is not None
    assert after_days(stored, days[5:]) == after_days(START, days)
    assert stored.has_settings_of(START)
    assert not stored.has_settings_of(START.model_copy(update={"version": 4}))


@pytest.mark.parametrize(
    ("task", "outcome", "score", "details"),
    [
        (BinaryTask(), [0.0, 1.0, 1.0], [0.2, 0.7, 0.4], [None] * 3),
        (RegressionTask(), [3.0, 1.0, 2.0], [2.5, 1.5, 4.0], [None] * 3),
        (
            QuantileTask(),
            [3.0, 9.0, 5.0],
            [4.0, 5.0, 6.0],
            [{"quantiles": {"0.9": 6.0, "0.1": 1.0, "0.5": mid}} for mid in (4.0, 5.0, 6.0)],
        ),
        (
            MulticlassTask(classes=["a", "b"]),
            ["a", "b", "a"],
            [0.9, 0.8, 0.6],
            [{"probabilities": {"a": each, "b": 1 - each}} for each in (0.9, 0.2, 0.4)],
        ),
    ],
)
def test_mean_of_the_row_losses_is_the_realised_metric(
    task: Task, outcome: list[object], score: list[float], details: list[object]
) -> None:
    texts = [None if each is None else json.dumps(each) for each in details]
    rows = pl.DataFrame(
        {
            "outcome": outcome,
            "score": score,
            "details": pl.Series(texts, dtype=pl.String),
            "request_id": ["1", "2", "3"],
        }
    )
    losses = row_losses(task, rows)
    assert losses.shape == (3,)
    assert losses.mean() == pytest.approx(realised_metrics(task, rows)[LOSS_METRICS[task.name]])
