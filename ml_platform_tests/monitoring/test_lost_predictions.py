"""Predictions that no log file has are counted: the writers are real processes, and some of them are killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from bento.prediction_log import PredictionLog
from ml_platform.data.answer_counts import SUFFIX, read_counts
from ml_platform.data.lake import Lake
from ml_platform.monitoring.log_lines import read_records
from ml_platform.monitoring.lost_predictions import LostPredictions, count_lost_predictions
from ml_platform.state.store import StateStore
from ml_platform_tests.bento.conftest import answered_request

WRITER = """
import sys, time
from pathlib import Path
from bento.prediction_log import PredictionLog
from ml_platform_tests.bento.conftest import answered_request
from ml_platform_tests.polling import until

log = PredictionLog(Path(sys.argv[1]), "toy", "3", batch_seconds=0)
for number in range(5):
    log.put(answered_request(f"written {number}", rows=2))
until(lambda: log.written_rows == 10)
log.batch_seconds = 600
for number in range(3):
    log.put(answered_request(f"waiting {number}"))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    return Lake.standalone(tmp_path / "lake").state


def killed_writer(folder: Path) -> None:
    """Log ten rows, answer three more, and kill the process before these are written."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def logged_rows(folder: Path) -> int:
    return sum(1 for file in folder.glob("*.jsonl") for _ in read_records(file))


def test_rows_that_a_killed_service_had_answered_and_not_written_are_counted(tmp_path: Path, state: StateStore) -> None:
    folder = tmp_path / "log"
    killed_writer(folder)
    answered = 13
    found = count_lost_predictions(state, "toy", folder)
    assert found == LostPredictions(lost=answered - logged_rows(folder), dropped=0)
    assert found.lost == 3


def test_each_killed_service_is_counted_once(tmp_path: Path, state: StateStore) -> None:
    folder = tmp_path / "log"
    killed_writer(folder)
    (file,) = folder.glob(f"*{SUFFIX}")
    content = file.read_bytes()
    assert count_lost_predictions(state, "toy", folder).lost == 3
    assert not file.exists()
    assert count_lost_predictions(state, "toy", folder).lost == 3
    file.write_bytes(content)  # as a reader leaves it that was killed before the removal
    assert count_lost_predictions(state, "toy", folder).lost == 3


def test_rows_that_wait_in_a_living_service_are_not_lost(tmp_path: Path, state: StateStore) -> None:
    log = PredictionLog(tmp_path / "log", "toy", "3", max_pending_rows=4, batch_seconds=600)
    log.put(answered_request("waits", rows=2))
    log.put(answered_request("too many", rows=3))
    (file,) = (tmp_path / "log").glob(f"*{SUFFIX}")
    counts = read_counts(file)
    assert counts is not None
    assert (counts.answered, counts.written, counts.dropped, counts.ended) == (5, 0, 3, False)
    assert count_lost_predictions(state, "toy", tmp_path / "log") == LostPredictions(lost=0, dropped=3)
    assert file.exists()
    log.close()
    assert count_lost_predictions(state, "toy", tmp_path / "log") == LostPredictions(lost=0, dropped=3)
    assert not file.exists()


def test_service_that_wrote_all_its_rows_leaves_no_counts(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "log", "toy", "3")
    log.put(answered_request("a", rows=2))
    assert len(list((tmp_path / "log").glob(f"*{SUFFIX}"))) == 1
    log.close()
    assert log.written_rows == 2
    assert not list((tmp_path / "log").glob(f"*{SUFFIX}"))


def test_log_that_cannot_be_counted_is_written(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    log = PredictionLog(tmp_path / "log", "toy", "3", batch_seconds=0)
    (tmp_path / "log").unlink()
    log.put(answered_request("a"))
    log.close()
    assert logged_rows(tmp_path / "log") == 1
