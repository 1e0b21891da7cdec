"""Gaps in the prediction log, by hours with a weekly rhythm."""

from datetime import UTC, datetime, timedelta

from ml_platform.monitoring.prediction_gaps import PredictionGapSettings, find_gaps

NOW = datetime(2024, 5, 15, 12, 20, tzinfo=UTC)  # a Wednesday
SETTINGS = PredictionGapSettings(usual_predictions=20, hours=24)
HOUR = timedelta(hours=1)


def counts(days: int, *, empty: tuple[int, ...] = (), weekdays: range = range(7)) -> dict[datetime, int]:
    """Return 50 predictions in each hour of the last ``days``, none ``empty`` hours ago and on other weekdays."""
    end = NOW.replace(minute=0)
    hours = [end - HOUR * back for back in range(1, days * 24 + 1) if back not in empty]
    return {hour: 50 for hour in hours if hour.weekday() in weekdays}


def test_consecutive_hours_without_predictions_are_one_gap() -> None:
    report = find_gaps(counts(30, empty=(5, 6, 7, 20)), NOW, SETTINGS)

    assert report.judged_hours == 24
    assert [(each.start.hour, each.end.hour, each.hours, each.usual) for each in report.gaps] == [
        (16, 17, 1, 50.0),
        (5, 8, 3, 150.0),
    ]


def test_hour_that_has_not_ended_is_no_gap() -> None:
    assert find_gaps(counts(30), NOW, SETTINGS).gaps == []


def test_usual_pause_is_no_gap_and_a_working_day_without_predictions_is_one() -> None:
    working = counts(30, weekdays=range(5))
    sunday = datetime(2024, 5, 12, 23, tzinfo=UTC)
    silent = {hour: count for hour, count in working.items() if hour < datetime(2024, 5, 14, tzinfo=UTC)}

    assert find_gaps({h: c for h, c in working.items() if h < sunday}, sunday, SETTINGS).gaps == []
    (gap,) = find_gaps(silent, datetime(2024, 5, 14, 9, tzinfo=UTC), SETTINGS).gaps
    assert (gap.start, gap.hours) == (datetime(2024, 5, 14, tzinfo=UTC), 9)


def test_too_little_history_or_traffic_is_not_judged() -> None:
    assert find_gaps(counts(4), NOW, SETTINGS).judged_hours == 0
    assert find_gaps(counts(9, empty=(3,)), NOW, SETTINGS).gaps[0].hours == 1
    assert find_gaps(counts(30), NOW, PredictionGapSettings(usual_predictions=51)).judged_hours == 0
    assert find_gaps({}, NOW, SETTINGS).judged_hours == 0
