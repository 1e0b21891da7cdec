"""Nulls of logged features: a stale feed shows in the log, and a month's usual nulls do not."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl

from ml_platform.monitoring.drift_report import DriftReport
from ml_platform.monitoring.logged_nulls import LoggedNulls, logged_features, risen_nulls

START, END = datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 8, 1, tzinfo=UTC)


def predictions(day: int, values: list[float | None]) -> pl.LazyFrame:
    return pl.LazyFrame(
        {
            "prediction_id": [f"{day}-{number}" for number in range(len(values))],
            "predict_at": [START + timedelta(days=day)] * len(values),
            "features": [json.dumps({"v__x": value, "v__y": 1.0}) for value in values],
        }
    )


def test_predictions_of_the_month_are_read_latest_part_first_up_to_the_limit() -> None:
    parts = [predictions(40, [9.0]), predictions(20, [2.0, 2.0]), predictions(10, [1.0] * 5), predictions(-1, [0.0])]
    assert logged_features(parts, START, END, rows=4, seed=0)["v__x"].to_list() == [2.0, 2.0, 1.0, 1.0]
    assert logged_features(parts, START, END, rows=100, seed=0).height == 7
    assert logged_features([], START, END, rows=100, seed=0).height == 0


def test_feature_with_more_nulls_than_any_earlier_month_is_found() -> None:
    reference = pl.DataFrame(
        {
            "partition": ["2013-05"] * 4 + ["2013-06"] * 4,
            "v__x": [1.0] * 4 + [1.0, float("nan"), None, 1.0],
            "v__y": [1.0] * 8,
        }
    )
    logged = pl.DataFrame({"v__x": [None, None, 1.0, 1.0], "v__y": [None, 1.0, 1.0, 1.0], "v__new": [None] * 4})
    found = risen_nulls(reference, logged, ["v__x", "v__y", "v__new", "v__gone"], by="partition", change=0.05)
    # Half of v__x is null in June too, so only v__y is new.
    assert found == [LoggedNulls(name="v__y", null_rate_reference=0.0, null_rate_logged=0.25)]


def test_report_with_logged_nulls_is_an_alert_that_names_them() -> None:
    report = DriftReport(
        columns=[],
        rows_reference=900,
        rows_current=900,
        compared_reference=900,
        compared_current=900,
        expected_rows=None,
        volume_changed=False,
        windows_evaluated=1,
    )
    nulls = [LoggedNulls(name="v__y", null_rate_reference=0.0, null_rate_logged=0.25)]
    assert report.decision == "steady"
    assert report.model_copy(update={"logged_nulls": nulls, "logged_rows": 600}).decision == "alert"
