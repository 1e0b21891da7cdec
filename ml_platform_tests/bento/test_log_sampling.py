"""A prediction log that keeps a share of the requests: which ones, with which weight, and none counted as lost."""

import json
from pathlib import Path

import pytest

from bento.app_factory import create_app
from bento.log_sampling import is_kept
from bento.prediction_log import PredictionLog
from ml_platform.data.answer_counts import SUFFIX, read_counts
from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.serving_settings import ServingSettings
from ml_platform_tests.bento.conftest import answered_request
from ml_platform_tests.polling import until

REQUESTS = 2_000


def logged(folder: Path, role: str, share: float) -> dict[str, float]:
    """Return the weight of each request that a log with ``share`` keeps of the same requests."""
    log = PredictionLog(folder, "toy", "3", share=share)
    for number in range(REQUESTS):
        log.put(answered_request(f"r{number}")._replace(role=role))
    log.close()
    assert (log.written_rows, log.dropped_rows) == (REQUESTS, 0)
    records = [record for file in folder.glob("*.jsonl") for record in read_records(file)]
    return {record["request_id"]: record.get("weight", 1.0) for record in records}


def test_arms_keep_the_same_requests_and_their_weights_add_up_to_all(tmp_path: Path) -> None:
    stable, shadow = (logged(tmp_path / role, role, 0.25) for role in ("stable", "shadow"))
    assert stable == shadow
    assert set(stable.values()) == {4.0}
    # Five standard deviations of the estimate, sqrt(n * share * (1 - share)) / share.
    assert abs(sum(stable.values()) - REQUESTS) < 5 * 77.5
    fewer = logged(tmp_path / "fewer", "stable", 0.1)
    assert fewer.keys() < stable.keys()
    assert logged(tmp_path / "all", "stable", 1.0) == {f"r{number}": 1.0 for number in range(REQUESTS)}


def test_client_that_always_sends_one_id_is_kept_in_part() -> None:
    kept = sum(is_kept("same", [{"x": number}], 0.5) for number in range(400))
    assert abs(kept - 200) < 5 * 10
    assert is_kept("same", [{"x": 1}], 0.5) == is_kept("same", [{"x": 1}], 0.5)


def test_rows_that_wait_count_as_lost_and_rows_that_were_left_out_do_not(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path, "toy", "3", share=0.01, batch_seconds=60)
    for number in range(10):
        log.put(answered_request(f"r{number}", rows=3))
    (file,) = tmp_path.glob(f"*{SUFFIX}")
    waiting = read_counts(file)
    assert waiting is not None
    assert (waiting.answered, waiting.unwritten) == (30, 30)
    log.close()
    # A writer that settled all its rows removes its counts.
    until(lambda: not file.exists())
    assert len([record for each in tmp_path.glob("*.jsonl") for record in read_records(each)]) < 30


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_service_keeps_the_share_that_its_bento_declares(tmp_path: Path, share: float) -> None:
    declared = ServingSettings(log_share=share).of_version
    assert (declared == {}) == (share == 1.0)
    package = {"model": "toy", "version": "3", **({"serving": declared} if declared else {})}
    (tmp_path / "package.json").write_text(json.dumps(package))
    assert create_app(tmp_path, str(tmp_path / "online"), None).config.log_share == share
