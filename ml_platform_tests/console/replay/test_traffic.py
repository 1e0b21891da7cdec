"""Requests of a window: one arrival each, ids that a repetition gives again, and repetition until an answer."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import polars as pl
import pytest

from ml_platform.console.replay.steps import ReplayError
from ml_platform.console.replay.traffic import requests_of, send
from ml_platform.data.arrival import Arrival
from ml_platform.features.prediction_time import PredictionTime

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
TWO_HOURS_BEFORE = PredictionTime(field="departs", minutes_before=120)
HOURLY = Arrival(every="hour", delay="15m")


def flights(minutes: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"flight": minutes, "departs": [NOON + timedelta(minutes=each) for each in minutes]})


def flights_of(requests: list[tuple[str, list[dict[str, object]]]]) -> list[list[object]]:
    return [[row["flight"] for row in rows] for _, rows in requests]


def test_rows_of_one_arrival_are_one_request_in_order_of_their_prediction() -> None:
    # Predictions at 10:00 to 10:14 may use the facts before 9:00, and those from 10:15 on the facts before 10:00.
    found = requests_of("2013-04", flights([70, 14, 0, 15]), TWO_HOURS_BEFORE, [HOURLY], 1000)
    assert flights_of(found) == [[0, 14], [15, 70]]
    assert found[0][1][0] == {"flight": 0, "departs": "2013-04-01T12:00:00+00:00"}


def test_a_request_has_at_most_the_declared_rows_and_the_same_id_again() -> None:
    rows = flights([0, 1, 2, 3, 4])
    found = requests_of("2013-04", rows, TWO_HOURS_BEFORE, [], 2)
    assert flights_of(found) == [[0, 1], [2, 3], [4]]
    assert [each for each, _ in found] == ["replay-2013-04-00000", "replay-2013-04-00001", "replay-2013-04-00002"]
    assert requests_of("2013-04", rows, TWO_HOURS_BEFORE, [], 2) == found


class Endpoint(BaseHTTPRequestHandler):
    """Answers with the statuses of the server's list, then with 200, and keeps the ids of the answered requests."""

    server: "EndpointServer"

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["rows"]
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.answered.append((self.headers["x-request-id"], len(rows)))
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class EndpointServer(HTTPServer):
    statuses: list[int]
    answered: list[tuple[str, int]]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    started = EndpointServer(("127.0.0.1", 0), Endpoint)
    started.statuses, started.answered = [], []
    thread = threading.Thread(target=started.serve_forever, daemon=True)
    thread.start()
    yield started
    started.shutdown()
    started.server_close()


def test_a_request_is_repeated_until_something_serves(server: EndpointServer) -> None:
    server.statuses = [503, 404, 429]
    waits: list[int] = []
    requests = requests_of("2013-04", flights([0, 1]), TWO_HOURS_BEFORE, [], 1)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
        send(client, "/v1/late/predict", requests, lambda: waits.append(1), 30)
    assert server.answered == [("replay-2013-04-00000", 1), ("replay-2013-04-00001", 1)]
    assert len(waits) == 3


def test_an_invalid_row_ends_the_replay_with_the_answer(server: EndpointServer) -> None:
    server.statuses = [422]
    requests = requests_of("2013-04", flights([0]), TWO_HOURS_BEFORE, [], 1)
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client,
        pytest.raises(ReplayError, match=r"'replay-2013-04-00000'.*422"),
    ):
        send(client, "/v1/late/predict", requests, lambda: None, 30)
    assert server.answered == []


def test_a_silent_endpoint_ends_the_replay_after_the_time(server: EndpointServer) -> None:
    server.statuses = [503] * 50
    requests = requests_of("2013-04", flights([0]), TWO_HOURS_BEFORE, [], 1)
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client,
        pytest.raises(ReplayError, match=r"an answer within 1 s.*503"),
    ):
        send(client, "/v1/late/predict", requests, lambda: None, 0.6)
