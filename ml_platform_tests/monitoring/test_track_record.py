"""Earlier estimates beside realised values: misses that are no chance make an estimate unreliable."""

from datetime import UTC, datetime, timedelta

import pytest

from ml_platform.components.performance_results import performance_metadata
from ml_platform.monitoring.label_doubts import Doubt
from ml_platform.monitoring.performance import ExpectedInterval, LabelState, PerformanceReport, Period
from ml_platform.monitoring.track_record import track_record, track_records

JULY = datetime(2013, 7, 1, tzinfo=UTC)


def period(
    at: int,
    realised: float | None,
    estimated: float = 0.40,
    *,
    label_state: LabelState = "complete",
    pending: int = 0,
    doubts: list[Doubt] | None = None,
) -> Period:
    """Return a period whose estimate has the half width 0.02."""
    interval = ExpectedInterval(value=estimated, low=estimated - 0.02, high=estimated + 0.02)
    return Period(
        start=JULY + timedelta(days=31 * at),
        version="7",
        predictions=1000,
        labelled=0 if realised is None else 1000 - pending,
        pending=pending,
        missing=0,
        coverage=1.0,
        days=30,
        evaluated=realised is not None,
        mean_score=0.2,
        base_rate=0.2,
        metrics={} if realised is None else {"log_loss": realised},
        label_state=label_state,
        doubts=doubts or [],
        estimates={"log_loss": interval},
        has_expectation=False,
        shortfalls={},
        regressed_metrics=[],
    )


def test_record_counts_realised_values_in_the_interval_and_the_mean_error() -> None:
    record = track_record([period(0, 0.41), period(1, 0.39), period(2, 0.45)], "log_loss")
    assert (len(record.past), record.within, record.is_reliable) == (3, 2, True)
    assert record.mean_error == pytest.approx((-0.01 + 0.01 - 0.05) / 3)
    assert record.probability == pytest.approx(1 - 0.95**3)


@pytest.mark.parametrize(
    ("misses", "periods", "reliable"),
    [(0, 2, None), (1, 1, None), (2, 2, False), (1, 3, True), (2, 5, False), (2, 12, True), (3, 12, False)],
)
def test_misses_beyond_chance_are_not_reliable(misses: int, periods: int, reliable: bool | None) -> None:
    found = [period(at, 0.50 if at < misses else 0.40) for at in range(periods)]
    assert track_record(found, "log_loss").is_reliable is reliable


def test_periods_whose_labels_are_open_or_doubtful_do_not_count() -> None:
    doubt = [Doubt(kind="score", text="")]
    found = [period(0, None), period(1, 0.9, pending=3), period(2, 0.9, label_state="marked", doubts=doubt)]
    record = track_record(found, "log_loss")
    assert (record.past, record.is_reliable) == ([], None)
    assert record.text == "No period with an earlier estimate has all its labels yet."


def test_last_twelve_periods_count() -> None:
    found = [period(at, 0.9 if at < 5 else 0.4) for at in range(17)]
    record = track_record(found, "log_loss")
    assert (len(record.past), record.within) == (12, 12)


def test_metadata_have_the_estimate_of_the_latest_period_and_the_record() -> None:
    shown = performance_metadata(PerformanceReport(periods=[period(0, 0.5), period(1, 0.5), period(2, None, 0.44)]))
    assert (shown["estimated_log_loss"], shown["log_loss"]) == (0.44, 0.5)
    assert shown["estimated_log_loss_low"] == pytest.approx(0.42)
    assert shown["estimates_unreliable"] == ["log_loss"]
    (row,) = shown["track_record"].records
    assert row.data["judgement"] == "not reliable"
    assert shown["quality_over_time"].value.startswith("![plot](data:image/png;base64,")
    assert track_records([]) == {}


def test_period_without_an_estimate_says_why() -> None:
    without = period(0, 0.5).model_copy(update={"estimates": {}})
    assert performance_metadata(PerformanceReport(periods=[without]), "No rows.")["not_estimated"] == "No rows."
