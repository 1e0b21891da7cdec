"""The maturity curve and the correction of early labels, compared with simulated predictions whose truth is known."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ml_platform.monitoring.label_maturity import (
    MaturityCurve,
    ages_at,
    expected_maturity,
    learn_curve,
    representative_rows,
)
from ml_platform.tasks.binary import BinaryTask

JULY = datetime(2013, 7, 1, tzinfo=UTC)
TRUE_SHARE_KNOWN = {0.0: 24.0, 1.0: 240.0}
"""Mean delay of the labels in hours, by outcome: the rare outcome becomes known ten times as late."""


def simulated(rows: int, seed: int, *, known_by: datetime | None = None) -> pl.DataFrame:
    """Return calibrated predictions over ten days, with labels that are null if not known by ``known_by``."""
    random = np.random.default_rng(seed)
    score = random.beta(2, 6, rows)
    outcome = (random.random(rows) < score).astype(float)
    delay = random.exponential(np.where(outcome == 1, TRUE_SHARE_KNOWN[1.0], TRUE_SHARE_KNOWN[0.0]))
    at = [JULY + timedelta(hours=float(hours)) for hours in random.uniform(0, 240, rows)]
    frame = pl.DataFrame(
        {"request_id": [f"r{n}" for n in range(rows)], "score": score, "truth": outcome, "age_hours": delay},
    ).with_columns(predict_at=pl.Series(at, dtype=pl.Datetime("us", "UTC")))
    if known_by is None:
        return frame.with_columns(outcome=pl.col("truth"))
    known = pl.Series(ages_at(frame["predict_at"], known_by)) >= frame["age_hours"]
    return frame.with_columns(outcome=pl.when(known).then("truth"))


@pytest.fixture(scope="module")
def curve() -> MaturityCurve:
    found = learn_curve(simulated(20_000, seed=1))
    assert found is not None
    return found


def test_curve_has_the_share_of_known_labels_by_age_and_outcome(curve: MaturityCurve) -> None:
    ages = np.array([0.0, 24.0, 240.0, 5000.0])
    expected = 1 - np.exp(-ages[:, np.newaxis] / [24.0, 240.0])
    assert curve.known_shares(ages) == pytest.approx(expected, abs=0.03)
    assert [band.name for band in curve.bands] == ["0", "1"]
    assert curve.half_known_hours["1"] == pytest.approx(240 * np.log(2), rel=0.05)


def test_share_of_labels_that_should_be_known_equals_the_share_that_is(curve: MaturityCurve) -> None:
    known_by = JULY + timedelta(days=12)
    rows = simulated(20_000, seed=2, known_by=known_by)
    expected = expected_maturity(ages_at(rows["predict_at"], known_by), curve, delay_hours=5000)
    assert expected == pytest.approx(rows["outcome"].is_not_null().mean(), abs=0.02)


def test_without_a_curve_no_label_counts_as_known_before_its_delay() -> None:
    assert expected_maturity(np.array([10.0, 47.9, 48.0, 100.0]), None, delay_hours=48) == 0.5


def test_metric_on_early_labels_is_corrected_to_that_of_all_labels(curve: MaturityCurve) -> None:
    known_by = JULY + timedelta(days=17)
    rows = simulated(60_000, seed=3, known_by=known_by)
    old = rows.filter(pl.Series(curve.known_shares(ages_at(rows["predict_at"], known_by)).min(axis=1) >= 0.5))
    task = BinaryTask()
    truth = task.score(old["truth"], old["score"])
    early = task.realised_metrics(rows.drop_nulls("outcome"))
    corrected = task.realised_metrics(
        representative_rows(rows, known_by=known_by, curve=curve, delay_hours=0, identity=["request_id"])
    )
    for name in ("log_loss", "brier", "base_rate"):
        assert abs(early[name] - truth[name]) > 0.02  # the early labels alone mislead
        assert corrected[name] == pytest.approx(truth[name], abs=0.008)
    assert corrected["auc"] == pytest.approx(truth["auc"], abs=0.015)


def test_labels_that_are_missing_by_score_are_corrected_by_score() -> None:
    rows = simulated(30_000, seed=4)
    lost = np.random.default_rng(5).random(rows.height) < 0.8 * rows["score"].to_numpy() ** 0.5
    seen = rows.with_columns(outcome=pl.when(~pl.Series(lost)).then("truth"))
    kept = representative_rows(
        seen, known_by=JULY + timedelta(days=90), curve=None, delay_hours=48, identity=["request_id"]
    )
    truth, naive, corrected = (
        float(each.drop_nulls().to_numpy().mean()) for each in (rows["truth"], seen["outcome"], kept["outcome"])
    )
    assert naive < truth - 0.02
    assert corrected == pytest.approx(truth, abs=0.01)


def test_numbers_have_a_band_for_each_fifth_and_classes_have_one_each() -> None:
    random = np.random.default_rng(6)
    numbers = learn_curve(pl.DataFrame({"outcome": random.normal(size=2000), "age_hours": random.random(2000)}))
    names = random.choice(["red", "green", "blue"], 2000)
    classes = learn_curve(pl.DataFrame({"outcome": names, "age_hours": np.where(names == "red", 9.0, 1.0)}))
    assert numbers is not None
    assert classes is not None
    assert [band.share for band in numbers.bands] == pytest.approx([0.2] * 5, abs=0.001)
    assert numbers.band_of(pl.Series([-99.0, 99.0])).tolist() == [0, 4]
    assert classes.half_known_hours == {"red": 9.0, "green": 1.0, "blue": 1.0}
    assert classes.band_of(pl.Series(["red", "a class of tomorrow"])).tolist()[0] == [
        band.name for band in classes.bands
    ].index("red")


def test_few_labels_give_no_curve() -> None:
    assert learn_curve(simulated(199, seed=7)) is None
