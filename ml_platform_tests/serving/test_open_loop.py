"""The open-loop client: requests go out at their planned times, also while the server does not answer."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from ml_platform.serving.open_loop import arrivals, send

STALL_SECONDS = 1.0


class StallingHandler(BaseHTTPRequestHandler):
    """Answers with the status in the body; from request 20 on, all answers wait until the stall is over."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    received = 0
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            type(self).received += 1
            self.bodies.append(body)
            if self.received == 20:
                time.sleep(STALL_SECONDS)
        self.send_response(int(body))
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@contextmanager
def stalling_server() -> Iterator[tuple[int, type[StallingHandler]]]:
    handler = type("Handler", (StallingHandler,), {"bodies": [], "received": 0, "lock": threading.Lock()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], handler
        server.shutdown()
        thread.join()


def test_requests_planned_during_a_stall_count_their_wait() -> None:
    times = np.arange(0, 2, 0.02).tolist()  # 50 requests a second; the stall begins with number 20
    with stalling_server() as (port, handler):
        found = send(port, "/predict", [b"200"], times)
    assert (found.errors, len(found.latencies_ms), handler.received) == ([], 100, 100)
    # A client that waits for its answers would have one slow request; 50 were planned during the stall.
    assert np.sum(found.latencies_ms > 100 * STALL_SECONDS) >= 40
    assert found.latencies_ms.max() >= 1000 * STALL_SECONDS * 0.95


def test_bodies_are_used_in_turn_and_other_statuses_are_errors() -> None:
    with stalling_server() as (port, handler):
        found = send(port, "/predict", [b"200", b"503"], [0.0, 0.01, 0.02, 0.03])
    assert sorted(handler.bodies) == [b"200", b"200", b"503", b"503"]
    assert (len(found.latencies_ms), found.errors) == (2, ["status 503"] * 2)


def test_server_that_is_gone_gives_errors() -> None:
    with stalling_server() as (port, _):
        pass
    found = send(port, "/predict", [b"200"], [0.0, 0.0])
    assert found.latencies_ms.size == 0
    assert [each.partition(":")[0] for each in found.errors] == ["ConnectionRefusedError"] * 2


def test_arrivals_are_random_with_the_declared_rate_and_equal_for_a_seed() -> None:
    times = arrivals(1000, 20, seed=3)
    assert len(times) == 20_000
    assert (times[0] >= 0, times[-1] < 20, bool(np.all(np.diff(times) >= 0))) == (True, True, True)
    gaps = np.diff(times)
    # The gaps of a Poisson process are exponential: their standard deviation is their mean.
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05
    assert np.array_equal(times, arrivals(1000, 20, seed=3))
    assert not np.array_equal(times, arrivals(1000, 20, seed=4))
