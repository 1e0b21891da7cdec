"""Tables of earlier releases keep every prediction and outcome when they are converted to days."""

import json
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.monitoring.month_tables import import_predictions_by_month
from ml_platform.monitoring.outcomes import outcomes_table
from ml_platform.monitoring.prediction_days import day_counts, labelled_count
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform_tests.monitoring.prediction_history import JULY, MODEL, NOW, PredictionHistory


@pytest.fixture
def old(tmp_path: Path) -> PredictionHistory:
    """Return a home of an earlier release: three predictions by the month they predict, two outcomes, and a cursor."""
    history = PredictionHistory(tmp_path / "new")
    source = PredictionHistory(tmp_path / "source")
    source.logs = history.logs
    for day, flight in enumerate((1, 2, 400)):
        source.predict(flight, logged_at=NOW + timedelta(days=day), prediction_id=None)
    source.ingest()
    rows = source.predictions().drop("prediction_id")
    for month, part in rows.group_by(pl.col("predict_at").dt.strftime("%Y-%m")):
        history.lake.write(predictions_table(MODEL), part, str(month[0]))
    known: dict[str, Any] = {"outcome": pl.Series([1.0, None, 0.0]), "outcome_known_at": JULY + timedelta(days=1)}
    history.lake.write(outcomes_table(MODEL), rows.with_columns(flight=pl.lit(1), **known), None)
    history.land("2013-07", {1: 1, 2: None})
    history.land("2013-08", {400: 0})
    history.known_by = JULY + timedelta(days=90)
    return history


def cursor(history: PredictionHistory) -> Path:
    (log,) = history.logs.glob("*.jsonl")
    data = log.read_bytes()
    path = history.logs.parent / "ingested.json"
    position = {"offset": len(data), "head": sha256(data[:1024]).hexdigest()}
    path.write_text(json.dumps({f"/another/home/{log.name}": position}))
    return path


def test_conversion_keeps_every_prediction_by_the_day_it_was_logged(old: PredictionHistory) -> None:
    before = old.predictions().sort("logged_at")
    assert import_predictions_by_month(old.lake, MODEL, cursor(old)) == [
        "split 3 predictions of 'late' into days",
        "split 2 outcomes of 'late' into days",
        "added the positions in 1 log files of 'late'",
    ]
    assert old.lake.partitions(predictions_table(MODEL)) == ["2026-01-01", "2026-01-02", "2026-01-03"]
    after = old.predictions().sort("logged_at")
    assert after["prediction_id"].n_unique() == 3
    assert after.select(before.columns).equals(before)
    assert [(each.day, each.predict_day, each.predictions) for each in day_counts(old.lake.state, MODEL)] == [
        ("2026-01-01", "2013-07-01", 1), ("2026-01-02", "2013-07-01", 1), ("2026-01-03", "2013-08-10", 1),
    ]  # fmt: skip


def test_converted_log_files_are_not_read_again_and_lost_cursors_add_nothing(old: PredictionHistory) -> None:
    import_predictions_by_month(old.lake, MODEL, cursor(old))
    assert old.ingest().lines == 0
    (log,) = old.logs.glob("*.jsonl")
    log.rename(log.with_name("copy.jsonl"))
    again = old.ingest()
    assert (again.added, again.duplicates, again.rows) == (0, 3, 3)


def test_converted_outcomes_are_not_recorded_twice(old: PredictionHistory) -> None:
    import_predictions_by_month(old.lake, MODEL, cursor(old))
    assert sorted(old.outcomes().values()) == [0.0, 1.0]
    assert (labelled_count(old.lake.state, MODEL), old.lake.summary(outcomes_table(MODEL)).rows) == (2, 2)
    facts = old.join()
    # Both labels became known at another time than the old table says.
    assert (facts, old.outcomes() == old.expected_outcomes()) == (2, True)
    assert labelled_count(old.lake.state, MODEL) == 2
    assert old.join() == 0


def test_converted_home_is_used_like_a_new_one(old: PredictionHistory) -> None:
    import_predictions_by_month(old.lake, MODEL, cursor(old))
    old.predict(2, logged_at=NOW + timedelta(days=2))
    assert old.ingest().rows == 4
    assert pl.scan_delta(old.lake.delta_address(predictions_table(MODEL))).collect().height == 4


def test_second_conversion_changes_nothing(old: PredictionHistory) -> None:
    path = cursor(old)
    import_predictions_by_month(old.lake, MODEL, path)
    version = old.lake.version(predictions_table(MODEL))
    assert import_predictions_by_month(old.lake, MODEL, path) == []
    assert old.lake.version(predictions_table(MODEL)) == version
    assert import_predictions_by_month(old.lake, "another", path.with_name("absent")) == []
