"""Two real replicas of a version behind a gateway with keys, as `up` runs them."""

import http.client
import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.client_keys import Client, NewKey, add_client
from ml_platform.serving.desired_state import DesiredState, swap_desired_state
from ml_platform.serving.gateway import MAX_BODY_BYTES
from ml_platform.serving.gateway_clusters import cluster_name, read_clusters
from ml_platform.serving.processes import serve_temporarily
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import ToyModel, row
from ml_platform_tests.serving.load import Load
from ml_platform_tests.serving.plans import plan_in
from ml_platform_tests.serving.test_declared_serving import Platform
from ml_platform_tests.serving.test_shared_services import kill_platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Lines:
    """A request of lines whose answers are read while it is sent."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.putrequest("POST", "/v1/twin/predict")
        sent = {"content-type": "application/x-ndjson", "transfer-encoding": "chunked", **headers}
        for name, value in sent.items():
            self._connection.putheader(name, value)
        self._connection.endheaders()
        # The answer has `connection: close`, at which the connection lets go of its socket.
        self._socket = self._connection.sock
        self._answer: http.client.HTTPResponse | None = None

    def send(self, text: str) -> None:
        body = text.encode()
        self._socket.sendall(b"%x\r\n%s\r\n" % (len(body), body))

    def end(self) -> None:
        self._socket.sendall(b"0\r\n\r\n")

    def read(self) -> Any:
        """Return the next line of the answer, None after the last one."""
        if self._answer is None:
            self._answer = self._connection.getresponse()
            assert self._answer.status == 200, self._answer.read()
        line = self._answer.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._connection.close()


def test_replicas_share_the_limit_of_a_client_and_are_taken_over_without_a_failed_request(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento
) -> None:
    plan = plan_in(tmp_path, online=str(toy.online), keys=True)
    plan.bentos.mkdir()
    state = plan.open_state()
    state.migrate()
    keys = {name: NewKey.make() for name in ("app", "load")}
    for name, key in keys.items():
        add_client(state, Client(name=name, concurrency=2 if name == "app" else 16), key, datetime.now(UTC))
    app, load_key = ({"x-api-key": keys[name].text} for name in keys)
    platform = Platform(plan, plan.gateway.url, toy, built_bento.path)
    twin = platform.version("twin", "1", {"replicas": {"min": 2, "max": 2}})
    swap_desired_state(state, "twin", DesiredState(stable=twin, weights={"stable": 100}), 0)

    with serve_temporarily(plan, timeout_seconds=120) as url:
        assert platform.replicas("twin", "1") == 2
        # Two requests under way are all that the client may have, at whichever replica they are.
        with closing(Lines(plan.gateway_port, app)) as first, closing(Lines(plan.gateway_port, app)) as second:
            for each in (first, second):
                each.send(json.dumps(row()) + "\n")
                assert each.read()["score"] == toy.scores[0]
            with httpx.Client(headers=app, timeout=60) as client:
                address, body = f"{url}/v1/twin/predict", {"rows": toy.rows}
                refused = [client.post(address, json=body) for _ in range(8)]
            assert {(each.status_code, each.json()["error"]["reason"]) for each in refused} == {(429, "concurrency")}
            assert platform.post("twin", headers=load_key).status_code == 200
            second.end()
            assert second.read() is None
            until(lambda: platform.post("twin", headers=app).status_code == 200)
            # More than the gateway keeps of a request, in which the answers to all earlier lines are already read.
            for part in range(10):
                first.send("{wrong}\n" + (" " * 1023 + "\n") * (MAX_BODY_BYTES // 8192) + json.dumps(row("AA")) + "\n")
                assert (first.read()["line"], first.read()["score"]) == (2 + 2 * part, toy.scores[1])
            first.end()
            assert first.read() is None

        earlier = [each for number in (1, 2) for each in platform.processes("twin", twin, replica=number)]
        assert len(earlier) == 2
        with Load(f"{url}/v1/twin/predict", {"rows": toy.rows}, load_key) as load:
            kill_platform(plan.run)
            with serve_temporarily(plan, timeout_seconds=120):
                until(lambda: platform.replicas("twin", "1") == 2, 120)
                until(lambda: not any(each.is_running() for each in earlier), 120)
                seen = load.answers
                until(lambda: load.answers > seen + 10)
                load.end()
                assert load.failures == []
                now = [each for number in (1, 2) for each in platform.processes("twin", twin, replica=number)]
                assert len(now) == 2
                assert httpx.get(f"{url}/ready").status_code == 200
                assert len(read_clusters(plan.gateway.folder)[cluster_name("twin", twin)]) == 2
