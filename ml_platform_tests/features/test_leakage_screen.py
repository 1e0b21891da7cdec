"""The leakage screen warns of results that are too good and blocks features that are known too late."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ml_platform.data.roc_auc import auc
from ml_platform.features.leakage_screen import KnownTooLateError, LeakageScreenSettings, screen_for_leakage
from ml_platform.features.view import ViewError

ROWS = 4_000
FAST = LeakageScreenSettings(rows=4_000, rounds=30)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Sixty days with a random effect each: `day` reveals the effect, `signal` is weak, `leaky` reveals the label."""
    random = np.random.default_rng(3)
    day = np.sort(random.integers(0, 60, ROWS))
    effect = random.normal(0, 1.5, 60)
    signal = random.normal(0, 1, ROWS)
    label = (random.random(ROWS) < 1 / (1 + np.exp(-(effect[day] + 0.5 * signal)))).astype(np.int8)
    start = datetime(2013, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "predict_at": [start + timedelta(days=int(d)) for d in day],
            "day": day.astype(np.float32),
            "signal": signal.astype(np.float32),
            "leaky": (label * 20 + random.normal(0, 5, ROWS)).astype(np.float32),
            "place": random.choice(["JFK", "EWR"], ROWS),
            "label": label,
        }
    )


def test_features_without_leakage_raise_no_warning(frame: pl.DataFrame) -> None:
    report = screen_for_leakage(frame, ["signal", "place"], "label", FAST)
    assert report.warnings == []
    assert report.passed
    assert report.rows == ROWS


def test_feature_that_reveals_the_label_raises_both_auc_warnings(frame: pl.DataFrame) -> None:
    report = screen_for_leakage(frame, ["signal", "leaky"], "label", FAST)
    assert report.auc_alone["leaky"] > 0.95
    assert any("'leaky' alone has AUC" in warning for warning in report.warnings)
    assert any("too good to be true" in warning for warning in report.warnings)


def test_feature_that_reveals_the_day_raises_the_gap_warning(frame: pl.DataFrame) -> None:
    report = screen_for_leakage(frame, ["day", "signal"], "label", FAST)
    assert report.gap > 0.1
    assert any("a gap of" in warning for warning in report.warnings)


def test_higher_limits_raise_no_warning(frame: pl.DataFrame) -> None:
    lax = LeakageScreenSettings(rows=4_000, rounds=30, auc_alone=1.0, auc_by_time=1.0, gap=0.5)
    assert screen_for_leakage(frame, ["leaky", "day"], "label", lax).warnings == []


def test_feature_known_after_the_prediction_blocks(frame: pl.DataFrame) -> None:
    timed = frame.with_columns(left=pl.col("predict_at") + timedelta(hours=2))
    report = screen_for_leakage(timed, ["signal", "leaky"], "label", FAST, known_at={"leaky": "left"})
    assert report.known_too_late == {"leaky": ROWS}
    with pytest.raises(KnownTooLateError, match="later ones in 'leaky'"):
        report.raise_if_failed()


def test_feature_known_at_the_prediction_does_not_block(frame: pl.DataFrame) -> None:
    screen_for_leakage(frame, ["signal", "leaky"], "label", FAST, known_at={"leaky": "predict_at"}).raise_if_failed()


def test_auc_counts_ties_half() -> None:
    # Pairs (positive, negative): 2>1, 2=2, 3>1, 3>2 → 3.5 of 4.
    assert auc(np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 3.0])) == pytest.approx(3.5 / 4)


def test_nulls_rank_as_a_separate_value(frame: pl.DataFrame) -> None:
    leaky_null = frame.with_columns(gap=pl.when(pl.col("label") == 0).then(pl.col("signal")))
    assert screen_for_leakage(leaky_null, ["gap"], "label", FAST).auc_alone["gap"] == pytest.approx(1.0)


def test_category_is_ranked_by_its_label_mean_in_the_earlier_rows(frame: pl.DataFrame) -> None:
    frame_with_text = frame.with_columns(text=pl.when(pl.col("label") == 1).then(pl.lit("late")))
    assert screen_for_leakage(frame_with_text, ["text"], "label", FAST).auc_alone["text"] == pytest.approx(1.0)


def test_larger_tables_are_sampled_evenly_in_time(frame: pl.DataFrame) -> None:
    report = screen_for_leakage(
        pl.concat([frame] * 2), ["signal"], "label", LeakageScreenSettings(rows=1_000, rounds=5)
    )
    assert report.rows == 1_000


def test_label_of_one_value_is_rejected(frame: pl.DataFrame) -> None:
    with pytest.raises(ViewError, match="found 1 values of 'label'"):
        screen_for_leakage(frame.with_columns(label=pl.lit(1)), ["signal"], "label", FAST)


def test_rows_without_a_label_are_left_out(frame: pl.DataFrame) -> None:
    with_nulls = pl.concat([frame, frame.with_columns(label=pl.lit(None, pl.Int8))])
    assert (
        screen_for_leakage(with_nulls, ["signal"], "label", LeakageScreenSettings(rows=10_000, rounds=5)).rows == ROWS
    )
