"""What is too good to be true is said, and what is known too late blocks."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ml_platform.features.leakage_screen import KnownTooLateError, LeakageScreenSettings, auc, screen_for_leakage
from ml_platform.features.view import ViewError

ROWS = 4_000
FAST = LeakageScreenSettings(rows=4_000, rounds=30)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Sixty days of which each has a luck of its own, told by `day`; `signal` is weak, `told` is the label."""
    random = np.random.default_rng(3)
    day = np.sort(random.integers(0, 60, ROWS))
    luck = random.normal(0, 1.5, 60)
    signal = random.normal(0, 1, ROWS)
    label = (random.random(ROWS) < 1 / (1 + np.exp(-(luck[day] + 0.5 * signal)))).astype(np.int8)
    start = datetime(2013, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "predict_at": [start + timedelta(days=int(d)) for d in day],
            "day": day.astype(np.float32),
            "signal": signal.astype(np.float32),
            "told": (label * 20 + random.normal(0, 5, ROWS)).astype(np.float32),
            "place": random.choice(["JFK", "EWR"], ROWS),
            "label": label,
        }
    )


def test_honest_features_raise_no_warning(frame) -> None:
    report = screen_for_leakage(frame, ["signal", "place"], "label", FAST)
    assert report.warnings == []
    assert report.passed
    assert report.rows == ROWS


def test_feature_that_tells_the_label_is_named_alone_and_the_model_is_called_too_good(frame) -> None:
    report = screen_for_leakage(frame, ["signal", "told"], "label", FAST)
    assert report.auc_alone["told"] > 0.95
    assert any("'told' alone has AUC" in warning for warning in report.warnings)
    assert any("too good to be true" in warning for warning in report.warnings)


def test_model_that_knows_its_days_is_caught_by_the_gap(frame) -> None:
    report = screen_for_leakage(frame, ["day", "signal"], "label", FAST)
    assert report.gap > 0.1
    assert any("a gap of" in warning for warning in report.warnings)


def test_limits_decide_what_is_warned_of(frame) -> None:
    lax = LeakageScreenSettings(rows=4_000, rounds=30, auc_alone=1.0, auc_by_time=1.0, gap=0.5)
    assert screen_for_leakage(frame, ["told", "day"], "label", lax).warnings == []


def test_feature_known_after_the_prediction_blocks(frame) -> None:
    timed = frame.with_columns(left=pl.col("predict_at") + timedelta(hours=2))
    report = screen_for_leakage(timed, ["signal", "told"], "label", FAST, known_at={"told": "left"})
    assert report.known_too_late == {"told": ROWS}
    with pytest.raises(KnownTooLateError, match="later ones in 'told'"):
        report.raise_if_failed()


def test_feature_known_at_the_prediction_does_not_block(frame) -> None:
    screen_for_leakage(frame, ["signal", "told"], "label", FAST, known_at={"told": "predict_at"}).raise_if_failed()


def test_auc_counts_ties_half() -> None:
    # Pairs (positive, negative): 2>1, 2=2, 3>1, 3>2 → 3.5 of 4.
    assert auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0, 0, 1, 1])) == pytest.approx(3.5 / 4)


def test_nulls_are_a_value_of_their_own(frame) -> None:
    told_by_null = frame.with_columns(gap=pl.when(pl.col("label") == 0).then(pl.col("signal")))
    assert screen_for_leakage(told_by_null, ["gap"], "label", FAST).auc_alone["gap"] == pytest.approx(1.0)


def test_category_is_ranked_by_what_was_known_of_it_before(frame) -> None:
    frame_with_text = frame.with_columns(word=pl.when(pl.col("label") == 1).then(pl.lit("late")))
    assert screen_for_leakage(frame_with_text, ["word"], "label", FAST).auc_alone["word"] == pytest.approx(1.0)


def test_larger_tables_are_sampled_evenly_in_time(frame) -> None:
    report = screen_for_leakage(
        pl.concat([frame] * 2), ["signal"], "label", LeakageScreenSettings(rows=1_000, rounds=5)
    )
    assert report.rows == 1_000


def test_label_of_one_value_is_refused(frame) -> None:
    with pytest.raises(ViewError, match="found 1 values of 'label'"):
        screen_for_leakage(frame.with_columns(label=pl.lit(1)), ["signal"], "label", FAST)


def test_rows_without_a_label_do_not_count(frame) -> None:
    holed = pl.concat([frame, frame.with_columns(label=pl.lit(None, pl.Int8))])
    assert screen_for_leakage(holed, ["signal"], "label", LeakageScreenSettings(rows=10_000, rounds=5)).rows == ROWS
