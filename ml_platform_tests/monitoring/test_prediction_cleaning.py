"""Retention of predictions: personal values go first, then whole days; outcomes and performance stay as they were."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.leftovers import Leftover
from ml_platform.monitoring import prediction_cleaning
from ml_platform.monitoring.outcomes import outcomes_table
from ml_platform.monitoring.prediction_cleaning import without_personal_values
from ml_platform.monitoring.prediction_log import QUARANTINE_SUFFIX, predictions_table
from ml_platform_tests.monitoring.prediction_history import JULY, MODEL, NOW, PredictionHistory, measure

DAY = timedelta(days=1)
TABLE = predictions_table(MODEL)
PERSONAL = {"email"}


@pytest.fixture
def history(tmp_path: Path) -> PredictionHistory:
    return PredictionHistory(tmp_path)


def remove(found: Iterable[Leftover]) -> list[str]:
    return [name for each in found if each.remove() is not False for name in each.names]


def predict(history: PredictionHistory, *flights: int, days: int = 0, file: str = "a") -> None:
    """Log predictions with an address in the request and in the features, ``days`` after the first ones."""
    for flight in flights:
        request = {"flight": flight, "email": f"{flight}@example.org"}
        features = {"email": "example.org", "hour": 1.10}
        history.predict(flight, file=file, logged_at=NOW + days * DAY, request=request, features=features)


def personal(history: PredictionHistory, limit: datetime, columns: set[str] = PERSONAL) -> list[Leftover]:
    return list(prediction_cleaning.personal_values(history.lake, MODEL, columns, ["flight"], limit))


def test_personal_values_of_old_days_become_null_and_all_else_stays_bit_for_bit(history: PredictionHistory) -> None:
    predict(history, 1, 2)
    predict(history, 3, days=5)
    history.ingest()
    before = history.predictions().sort("prediction_id")
    assert remove(personal(history, NOW + 2 * DAY)) == [f"{TABLE} 2026-01-01"]

    after = history.predictions().sort("prediction_id")
    assert [json.loads(text) for text in after["request"]] == [
        {"flight": 1, "email": None},
        {"flight": 2, "email": None},
        {"flight": 3, "email": "3@example.org"},
    ]
    assert after["features"][0] == '{"email":null,"hour":1.1}'
    assert after.drop("request", "features").equals(before.drop("request", "features"))


def test_a_day_is_rewritten_once_and_again_for_late_rows_and_new_columns(history: PredictionHistory) -> None:
    predict(history, 1)
    history.ingest()
    remove(personal(history, NOW + 2 * DAY))
    assert personal(history, NOW + 2 * DAY) == []
    assert remove(personal(history, NOW + 3 * DAY)) == []

    predict(history, 2, file="late")
    history.ingest()
    assert remove(personal(history, NOW + 3 * DAY)) == [f"{TABLE} 2026-01-01"]
    assert not history.predictions()["request"].str.contains("@").any()
    assert remove(personal(history, NOW + 3 * DAY, {"email", "hour"})) == [f"{TABLE} 2026-01-01"]
    assert json.loads(history.predictions()["features"][0]) == {"email": None, "hour": None}


def test_rewriting_that_was_killed_between_two_days_continues(
    history: PredictionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(history, 1)
    predict(history, 2, days=1)
    history.ingest()
    remove_values, calls = prediction_cleaning._remove_values, []

    def killed_at_second(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        remove_values(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(prediction_cleaning, "_remove_values", killed_at_second)
        with pytest.raises(KeyboardInterrupt):
            remove(personal(history, NOW + 5 * DAY))
    remove(personal(history, NOW + 5 * DAY))
    assert history.predictions()["request"].str.contains("@").sum() == 0
    assert history.predictions().height == 2


def test_outcomes_and_performance_are_the_same_after_personal_values_are_gone(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0, 3: 1})
    predict(history, 1, 2, 3)
    history.ingest()
    history.known_by = JULY + 31 * DAY
    history.join()
    outcomes, periods = history.outcomes(), history.periods(measure())

    # The identity itself identifies a person here, so whole requests go.
    found = prediction_cleaning.personal_values(history.lake, MODEL, {"flight"}, ["flight"], NOW + 2 * DAY)
    remove(list(found))
    assert history.predictions()["request"].null_count() == 3
    assert history.join(NOW + DAY) == 0
    history.land("2013-07", {1: 0, 2: 0, 3: 1})
    assert history.join(NOW + 2 * DAY) == 0
    assert history.outcomes() == outcomes
    assert history.periods(measure()) == periods


def test_late_labels_still_find_their_predictions_without_personal_values(history: PredictionHistory) -> None:
    predict(history, 1, 2)
    history.ingest()
    history.land("2013-07", {1: 1, 2: None})
    history.known_by = JULY + 31 * DAY
    history.join()
    remove(personal(history, NOW + 2 * DAY))
    history.land("2013-07", {1: 1, 2: 0})
    history.join(NOW + DAY)
    assert history.outcomes() == history.expected_outcomes() == {"p000001": 1.0, "p000002": 0.0}


def test_old_days_of_predictions_and_outcomes_go_and_the_performance_stays_known(history: PredictionHistory) -> None:
    history.land("2013-07", {1: 1, 2: 0, 3: 1})
    history.predict(1, 2)
    history.predict(3, logged_at=NOW + 5 * DAY)
    history.ingest()
    history.known_by = JULY + 31 * DAY
    history.join()
    periods = history.periods(measure())
    limit = NOW + 2 * DAY

    assert remove(prediction_cleaning.old_predictions(history.lake, MODEL, limit)) == [f"{TABLE} 2026-01-01"]
    assert remove(prediction_cleaning.old_outcomes(history.lake, MODEL, limit)) == [
        f"{outcomes_table(MODEL)} 2026-01-01"
    ]
    assert history.predictions()["prediction_id"].to_list() == ["p000003"]
    assert history.periods(measure()) == periods
    assert history.join(NOW + DAY) == 0
    assert list(prediction_cleaning.old_predictions(history.lake, MODEL, limit)) == []
    assert list(prediction_cleaning.old_predictions(history.lake, MODEL, None)) == []


def test_log_file_goes_when_it_is_ingested_closed_and_old(history: PredictionHistory) -> None:
    def found(now: datetime) -> list[str]:
        limit = now - timedelta(minutes=1)
        return [
            each.names[0] for each in prediction_cleaning.ingested_logs(history.lake, MODEL, history.logs, limit, now)
        ]

    predict(history, 1)
    now = datetime.now(UTC)
    assert found(now + DAY) == []
    history.ingest()
    assert found(now + timedelta(minutes=50)) == []
    assert found(now + DAY) == ["a.jsonl"]
    predict(history, 2, file="a")
    assert found(now + DAY) == []

    history.ingest()
    assert remove(prediction_cleaning.ingested_logs(history.lake, MODEL, history.logs, now + DAY, now + DAY)) == [
        "a.jsonl"
    ]
    assert list(history.logs.iterdir()) == []
    assert history.ingest().rows == 2


def test_file_that_grew_since_the_search_is_not_deleted(history: PredictionHistory) -> None:
    predict(history, 1)
    history.ingest()
    later = datetime.now(UTC) + DAY
    found = list(prediction_cleaning.ingested_logs(history.lake, MODEL, history.logs, later, later))
    predict(history, 2)
    assert remove(found) == []
    assert history.ingest().added == 1


def test_unfinished_last_line_of_a_killed_service_does_not_keep_the_file(history: PredictionHistory) -> None:
    predict(history, 1)
    with (history.logs / "a.jsonl").open("a") as opened:
        opened.write('{"prediction_id": "p2", "requ')
    history.ingest()
    later = datetime.now(UTC) + DAY
    assert remove(prediction_cleaning.ingested_logs(history.lake, MODEL, history.logs, later, later)) == ["a.jsonl"]


def test_corrupt_lines_go_with_the_values_that_they_may_contain(history: PredictionHistory) -> None:
    (history.logs / "b.jsonl").write_text('{"email": "1@example.org"}\n')
    history.ingest()
    table = TABLE + QUARANTINE_SUFFIX
    assert list(prediction_cleaning.old_corrupt_lines(history.lake, MODEL, datetime.now(UTC) - DAY)) == []
    assert remove(prediction_cleaning.old_corrupt_lines(history.lake, MODEL, datetime.now(UTC) + DAY)) == [f"{table} b"]
    assert history.lake.scan(table).collect().is_empty()


def test_days_with_many_small_files_are_compacted_a_limited_number_at_once(
    history: PredictionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_cleaning, "DAYS_COMPACTED_AT_ONCE", 1)
    for number in range(10):
        predict(history, number, file=f"{number}")
        predict(history, number, days=1, file=f"{number}")
        history.ingest()
    rows, today = history.predictions().sort("prediction_id"), (NOW + 5 * DAY).date()

    assert remove(prediction_cleaning.small_files(history.lake, today)) == [f"{TABLE} 2026-01-01"]
    assert remove(prediction_cleaning.small_files(history.lake, today)) == [f"{TABLE} 2026-01-02"]
    assert list(prediction_cleaning.small_files(history.lake, today)) == []
    assert [len(history.lake.catalog.segments(TABLE, partitions=[day])) for day in history.lake.partitions(TABLE)] == [
        1,
        1,
    ]
    assert history.predictions().sort("prediction_id").equals(rows)


def test_numbers_keep_the_text_that_was_logged() -> None:
    text = '{"big":123456789012345678901234567890,"float":1.10,"tiny":1e-400,"email":"x","name":"\\u00e9"}'
    rows = pl.DataFrame({"request": [text, None], "features": ["{}", '{"email":null}']})
    cleaned = without_personal_values(rows, ["email", "absent"], [])
    assert cleaned["request"].to_list() == [text.replace('"x"', "null"), None]
    assert cleaned["features"].to_list() == ["{}", '{"email":null}']
