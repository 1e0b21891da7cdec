"""A requested file is read once, and requested again only when its run failed for another reason than the contract."""

from pathlib import Path

import pytest

from ml_platform.data.contract_record import record_failed, record_passed
from ml_platform.data.landing import Landing
from ml_platform.data.landing_index import LandedContent, LandingIndex
from ml_platform.data.landing_requests import outstanding, record_request
from ml_platform.data.read_attempts import FIRST_WAIT_SECONDS, MAXIMUM_ATTEMPTS, RunState
from ml_platform.state.cursors import cursors_below
from ml_platform.state.store import StateStore

START = 2_000_000_000.0


class Requests:
    """One landed file that tick 1 requested, the state of its runs, and the result of the sensor's next ticks."""

    def __init__(self, root: Path) -> None:
        self.state = StateStore.in_folder(root)
        landing = Landing(root / "landing")
        landing.land_bytes("orders", "2024-01", b"a", "csv")
        self.index = LandingIndex(landing, self.state, lambda: START)
        (self.content,) = self.index.refresh("orders", lambda name: name == "2024-01").due
        self.runs: RunState = "running"
        self.tick = 0
        self.request({self.content: 1}, START)

    def request(self, attempts: dict[LandedContent, int], now: float) -> None:
        self.tick += 1
        record_request(self.state, "orders", attempts, self.tick, now, "1")

    def again(self, now: float, code_version: str = "1") -> list[int]:
        found = outstanding(self.state, "orders", self.tick, code_version, now, lambda request: self.runs)
        self.reason = found.describe()
        return list(found.again.values())

    def break_contract(self) -> None:
        record_failed(self.state, "orders", "2024-01", check="schema", landed_sha256=self.content.sha256)


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    return Requests(tmp_path)


def test_run_that_has_not_ended_is_waited_for(requests: Requests) -> None:
    assert requests.again(START + 1e6) == []
    assert requests.reason == "Not in the table: '2024-01' (its run has not ended)."


def test_failed_run_is_requested_again_with_a_growing_wait_and_at_most_six_times(requests: Requests) -> None:
    requests.runs = "ended"
    now = START
    for attempt in range(1, MAXIMUM_ATTEMPTS):
        wait = FIRST_WAIT_SECONDS * 4 ** (attempt - 1)
        assert requests.again(now + wait - 1) == []
        assert f"attempt {attempt + 1} of 6 follows at 2033-05-1" in requests.reason
        now += wait
        assert requests.again(now) == [attempt + 1]
        requests.request({requests.content: attempt + 1}, now)
    assert requests.again(now + 1e9) == []
    assert "given up after attempt 6 of 6; read the run's error" in requests.reason
    assert requests.again(now + 1e9, code_version="2") == [1]


def test_file_that_broke_the_contract_is_requested_again_only_for_another_code_version(requests: Requests) -> None:
    requests.break_contract()
    requests.runs = "ended"
    assert requests.again(START + 1e6) == []
    assert requests.reason == "Not in the table: '2024-01' (check 'schema' failed)."
    assert requests.again(START + 1e6, code_version="2") == [1]


def test_cancelled_run_is_not_requested_again(requests: Requests) -> None:
    requests.runs = "cancelled"
    assert requests.again(START + 1e6) == []
    assert "given up after attempt 1 of 6" in requests.reason


def test_published_file_ends_its_request(requests: Requests) -> None:
    record_passed(requests.state, "orders", "2024-01", content_digest="0" * 64, landed_sha256=requests.content.sha256)
    assert requests.again(START + 1e6) == []
    assert requests.reason == ""
    assert cursors_below(requests.state, "landing_requests/orders/") == {}
