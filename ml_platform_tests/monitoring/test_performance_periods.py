"""Stored results of periods equal those of measuring everything again, and only changed periods are measured."""

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.monitoring import performance_periods
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform_tests.monitoring.prediction_history import JULY, MODEL, NOW, PredictionHistory, measure, share_right
from ml_platform_tests.monitoring.test_outcome_join import STEPS, run_step


@pytest.fixture
def history(tmp_path: Path) -> PredictionHistory:
    return PredictionHistory(tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the starts of the periods that are measured from now on."""
    starts: list[str] = []
    original = performance_periods._measure

    def recorded(lake: Any, model: str, start: Any, *others: Any) -> Any:
        starts.append(f"{start:%m-%d}")
        return original(lake, model, start, *others)

    monkeypatch.setattr(performance_periods, "_measure", recorded)
    return starts


def test_period_counts_known_pending_and_missing_labels(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1, 2, 3, score=0.75)
    history.ingest()
    history.join()
    for hours, counts in ((0, (0, 1)), (48, (1, 0))):
        history.known_by = JULY + timedelta(days=1, hours=hours)
        (period,) = history.periods(measure(label_delay_hours=48))
        assert (period.predictions, period.labelled) == (3, 2)
        assert (period.missing, period.pending) == counts
        assert period.metrics == {"share_right": 0.5}


def test_only_the_prediction_of_an_example_that_was_logged_last_counts(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0})
    history.known_by = JULY + timedelta(days=1)
    history.predict(1, 2, score=0.9)
    history.predict(1, 2, score=0.1, logged_at=NOW + timedelta(days=1))
    history.predict(1, score=0.9, role="shadow", logged_at=NOW + timedelta(days=1))
    history.ingest()
    history.join()
    (period,) = history.periods(measure())
    assert (period.predictions, period.labelled, period.mean_score) == (2, 2, 0.1)


def test_unchanged_periods_are_not_measured_again(history: PredictionHistory, measured: list[str]) -> None:
    history.land("2013-07", {1: 1, 2: 0, 11: 1, 12: 0})
    history.known_by = JULY + timedelta(days=30)
    history.predict(1, 2, 11, 12)
    history.ingest()
    history.join()
    first = history.periods(measure())
    assert measured == ["07-01", "07-02"]
    assert history.periods(measure()) == first
    assert measured == ["07-01", "07-02"]


def test_new_predictions_changed_outcomes_and_open_periods_are_measured_again(
    history: PredictionHistory, measured: list[str]
) -> None:
    history.land("2013-07", {1: 1, 11: 0, 201: 1})
    history.known_by = JULY + timedelta(days=20)
    history.predict(1, 11, 201)
    history.ingest()
    history.join()
    history.periods(measure())

    def measured_after() -> list[str]:
        measured.clear()
        history.periods(measure())
        return list(measured)

    history.known_by += timedelta(hours=1)
    assert measured_after() == ["07-21"]  # its labels are not all due
    history.predict(2)
    history.ingest()
    assert measured_after() == ["07-01"]
    history.land("2013-07", {1: 1, 11: 1, 201: 1})
    history.join()
    assert measured_after() == ["07-02"]


def test_settings_of_the_measurement_measure_all_periods_again(history: PredictionHistory, measured: list[str]) -> None:
    history.land("2013-07", {1: 1, 2: 0, 11: 1, 12: 0})
    history.known_by = JULY + timedelta(days=30)
    history.predict(1, 2, 11, 12)
    history.ingest()
    history.join()
    history.periods(measure())
    measured.clear()
    assert [period.evaluated for period in history.periods(measure(minimum_labels=3))] == [False, False]
    assert measured == ["07-01", "07-02"]
    assert [period.predictions for period in history.periods(measure(period="1mo"))] == [4]
    assert [period.predictions for period in history.periods(measure())] == [2, 2]


def test_period_whose_predictions_retention_removed_keeps_its_result(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0})
    history.known_by = JULY + timedelta(days=30)
    history.predict(1, 2)
    history.ingest()
    history.join()
    before = history.periods(measure())
    history.lake.drop_partitions(predictions_table(MODEL), ["2026-01-01"])
    assert history.periods(measure(minimum_labels=9)) == before


def test_period_whose_requests_retention_removed_keeps_its_result(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0})
    history.known_by = JULY + timedelta(days=30)
    history.predict(1, 2, 2)
    history.ingest()
    history.join()
    before = history.periods(measure())
    stripped = history.predictions().with_columns(request=pl.lit(None, pl.String))
    history.lake.write(predictions_table(MODEL), stripped, "2026-01-01")
    assert history.join() == 0
    assert history.periods(measure(minimum_labels=9)) == before


def test_period_without_a_stable_prediction_is_not_reported(history: PredictionHistory, measured: list[str]) -> None:
    history.land("2013-07", {1: 1})
    history.known_by = JULY + timedelta(days=30)
    history.predict(1, role="shadow")
    history.ingest()
    assert [history.periods(measure()), history.periods(measure())] == [[], []]
    assert measured == ["07-01"]


@settings(deadline=None, max_examples=10)
@given(steps=st.lists(STEPS, min_size=4, max_size=12), period=st.sampled_from(["1d", "1w", "1mo"]))
def test_stored_results_equal_measuring_everything_again(steps: list[tuple[str, Any, Any]], period: str) -> None:
    with TemporaryDirectory() as folder:
        history = PredictionHistory(Path(folder))
        history.land("part-0", {0: 1})
        history.predict(0)
        history.ingest()
        wanted = measure(share_right, period=period, label_delay_hours=12)
        for step in steps:
            run_step(history, *step)
            if step[0] == "join":
                assert history.periods(wanted) == history.expected_periods(wanted)
        history.join()
        assert history.periods(wanted) == history.expected_periods(wanted)
        assert isinstance(history.predictions(), pl.DataFrame)


def test_shadow_is_compared_with_the_stable_version_on_the_same_examples(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0, 3: 1, 4: 0})
    history.known_by = JULY + timedelta(days=3)
    history.predict(1, 2, 3, 4, score=0.9)
    history.predict(1, 2, score=0.1, role="shadow", version="2")
    history.ingest()
    history.join()
    (period,) = history.periods(measure(minimum_slice_labels=2))
    assert period.metrics == {"share_right": 0.5}
    (shadow,) = period.arms
    assert (shadow.arm, shadow.version, shadow.predictions, shadow.labelled) == ("shadow", "2", 2, 2)
    assert (shadow.compared_on, shadow.metrics, shadow.stable_metrics) == (
        "same examples",
        {"share_right": 0.5},
        {"share_right": 0.5},
    )


def test_candidate_is_compared_with_the_stable_version_at_the_same_time(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0, 3: 1, 4: 1, 5: 0, 6: 1, 7: 0})
    history.known_by = JULY + timedelta(days=3)
    history.predict(1, 3, 5, 6, score=0.9)
    history.predict(4, score=0.1, role="candidate", version="2")
    history.ingest()
    history.join()
    (period,) = history.periods(measure(minimum_slice_labels=2))
    assert [each.compared_on for each in period.arms] == ["nothing"]  # one outcome is no comparison
    history.predict(2, 7, score=0.1, role="candidate", version="2")
    history.ingest()
    history.join()
    (period,) = history.periods(measure(minimum_slice_labels=2))
    (candidate,) = period.arms
    assert (candidate.arm, candidate.labelled, candidate.compared_on) == ("candidate", 3, "same time")
    assert candidate.metrics == {"share_right": pytest.approx(2 / 3)}
    assert candidate.stable_metrics == {"share_right": pytest.approx(2 / 3)}  # flights 3, 5 and 6
