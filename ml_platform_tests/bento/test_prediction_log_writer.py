"""The prediction log of a service: every row is a line that the lake reads, and no request waits for the disk."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from bento.prediction_log import AnsweredRequest, PredictionLog
from bento.predictor import Prediction
from ml_platform.features.served_features import ServedFeatures
from ml_platform.monitoring.prediction_log import LoggedPrediction

NOW = datetime(2013, 7, 1, 10, 0, tzinfo=UTC)


Answers = Callable[..., AnsweredRequest]


@pytest.fixture
def answered(read: Callable[[datetime, int, float], ServedFeatures]) -> Answers:
    """Return a function that makes an answered request with features that were three minutes old."""

    def answering(request_id: str, rows: int = 1) -> AnsweredRequest:
        times = pl.Series("predict_at", [NOW] * rows, dtype=pl.Datetime("us", "UTC"))
        prediction = Prediction([0.25] * rows, [False] * rows, pl.DataFrame([times]), read(NOW, rows, 3.0))
        return AnsweredRequest(request_id, "stable", NOW, [{"carrier": "UA"}] * rows, prediction)

    return answering


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_each_row_is_a_line_that_the_lake_accepts(tmp_path: Path, answered: Answers) -> None:
    log = PredictionLog(tmp_path, "toy", "3")
    log.put(answered("r", rows=2))
    log.close()
    first, second = (LoggedPrediction.model_validate(line) for line in lines(tmp_path))
    assert (first.request_id, first.row, first.version, first.role) == ("r", 0, "3", "stable")
    assert (second.row, second.score, second.label) == (1, 0.25, 0.0)
    assert first.features == {"view__mean": 1.5, "view__kind": "a"}
    assert first.predict_at == first.as_of == NOW
    assert (first.watermarks, first.ages) == ({"view": NOW}, {"view": 3.0})


def test_full_file_is_closed_and_the_next_opened(tmp_path: Path, answered: Answers) -> None:
    log = PredictionLog(tmp_path, "toy", "3", max_file_bytes=1)
    for name in ("a", "b", "c"):
        log.put(answered(name))
    log.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    assert sorted(str(line["request_id"]) for line in lines(tmp_path)) == ["a", "b", "c"]


def test_rows_beyond_the_limit_are_dropped_and_counted(tmp_path: Path, answered: Answers) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def block(_: AnsweredRequest) -> None:
        reached.set()
        go_on.wait(10)

    log = PredictionLog(tmp_path, "toy", "3", max_pending_rows=3, on_written=block)
    log.put(answered("first"))
    assert reached.wait(10)
    log.put(answered("waits", rows=2))
    log.put(answered("dropped", rows=2))
    assert log.dropped_rows == 2
    go_on.set()
    log.close()
    assert {line["request_id"] for line in lines(tmp_path)} == {"first", "waits"}


def test_unwritable_folder_loses_lines_but_not_the_service(
    tmp_path: Path, answered: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log = PredictionLog(tmp_path / "file" / "folder", "toy", "3")
    log.put(answered("lost", rows=2))
    log.close()
    assert (log.dropped_rows, log.written_rows) == (2, 0)
    assert "lost" in caplog.text


def test_answers_are_written_in_batches_and_at_the_latest_on_close(tmp_path: Path, answered: Answers) -> None:
    patient = PredictionLog(tmp_path / "patient", "toy", "3", batch_seconds=600)
    patient.put(answered("a"))
    patient.put(answered("b"))
    written = threading.Event()
    prompt = PredictionLog(tmp_path / "prompt", "toy", "3", batch_seconds=0, on_written=lambda _: written.set())
    prompt.put(answered("c"))
    assert written.wait(10)
    assert not (tmp_path / "patient").exists()
    patient.close()
    prompt.close()
    assert [line["request_id"] for line in lines(tmp_path / "patient")] == ["a", "b"]


def test_many_waiting_rows_are_written_before_the_limit_is_reached(tmp_path: Path, answered: Answers) -> None:
    written = threading.Event()
    log = PredictionLog(
        tmp_path, "toy", "3", max_pending_rows=10, batch_seconds=600, on_written=lambda _: written.set()
    )
    log.put(answered("few", rows=2))
    assert not written.wait(0.05)
    log.put(answered("many", rows=4))
    assert written.wait(10)
    log.close()
    assert log.dropped_rows == 0
