"""Serving with real parts: two bentos, BentoML's server, Envoy, circus and the reconciler."""

import asyncio
import gzip
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import psutil
import pytest

from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.desired_state import DesiredState, ServedVersion, read_desired_state, swap_desired_state
from ml_platform.serving.gateway import MAX_BODY_BYTES
from ml_platform.serving.gateway_admin import SOCKET_FILE, query_gateway
from ml_platform.serving.gateway_process import gateways_of
from ml_platform.serving.marked_processes import RUN_VARIABLE
from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.processes import (
    UP_FILE,
    AlreadyRunningError,
    PortInUseError,
    ProcessPlan,
    free_port,
    serve_temporarily,
    up,
)
from ml_platform.serving.serving_status import read_serving_status
from ml_platform.state.schema import desired_states
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import CONTRACT, ToyModel, row

pytestmark = pytest.mark.slow


def served_version(built_bento: BuiltBento) -> ServedVersion:
    return ServedVersion(version=built_bento.tag.partition(":")[2].partition("-")[0], bento=built_bento.path.name)


def process_plan(root: Path, toy: ToyModel, built_bento: BuiltBento) -> ProcessPlan:
    return ProcessPlan(
        run=root / "run",
        logs=root / "logs",
        state=str(root / "state.db"),
        bentos=built_bento.path.parent,
        online=str(toy.online),
        predictions=root / "predictions",
        gateway_port=free_port(),
    )


def store_first_state(plan: ProcessPlan, built_bento: BuiltBento) -> None:
    state = plan.open_state()
    state.migrate()
    desired = DesiredState(stable=served_version(built_bento), weights={"stable": 100})
    swap_desired_state(state, "toy", desired, 0)


def processes_of(run: Path) -> list[int]:
    """Return the ids of the processes that are marked as part of ``run``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_VARIABLE) == str(run.resolve()):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@dataclass(frozen=True)
class RunningPlatform:
    url: str
    plan: ProcessPlan

    def set_desired_state(self, **state: Any) -> DesiredState:
        """Replace the desired state and wait until it serves."""
        store = self.plan.open_state()
        stored = swap_desired_state(store, "toy", DesiredState(**state), read_desired_state(store, "toy").generation)
        until(lambda: read_serving_status(self.plan.status_file).models["toy"].generation == stored.generation)  # type: ignore[union-attr]
        return stored

    def post(self, body: Any, **keywords: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(f"{self.url}/v1/toy/predict", content=content, timeout=20, **keywords)


def logged_lines(live: RunningPlatform, request_id: str) -> list[dict[str, Any]]:
    """Return the logged predictions with ``request_id``, the first prediction first."""
    records = [record for file in (live.plan.predictions / "toy").glob("*.jsonl") for record in read_records(file)]
    return sorted(
        (line for line in records if line["request_id"] == request_id), key=lambda line: str(line["prediction_id"])
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, toy: ToyModel, built_bento: BuiltBento) -> Iterator[RunningPlatform]:
    plan = process_plan(tmp_path_factory.mktemp("home"), toy, built_bento)
    store_first_state(plan, built_bento)
    with serve_temporarily(plan) as url:
        yield RunningPlatform(url, plan)


def test_endpoint_scores_as_training_does(live: RunningPlatform, toy: ToyModel) -> None:
    answer = live.post({"rows": toy.rows}, headers={"x-request-id": "r-1"})
    without_facts = {"degraded": {"missing": ["delays"]}}
    assert answer.json() == {
        "predictions": [
            {"score": score, "label": score >= 0.4, **(without_facts if place == 2 else {})}
            for place, score in enumerate(toy.scores)
        ],
        "model": {"name": "toy", "version": "1"},
        "request_id": "r-1",
    }


def test_reasons_are_lightgbms_own_contributions_on_the_same_rows(live: RunningPlatform, toy: ToyModel) -> None:
    answer = httpx.post(f"{live.url}/v1/toy/predict", params={"reasons": 2}, json={"rows": toy.rows}, timeout=20)
    predictions = answer.raise_for_status().json()["predictions"]
    assert [each["score"] for each in predictions] == toy.scores
    seen = [(40.0, 60.0), (4.0, 60.0), (None, None)]
    booster = lightgbm.Booster(model_file=toy.model_dir / "model.txt")
    contributions = np.asarray(booster.predict(np.array(seen, dtype=float), pred_contrib=True))
    for row_predictions, values, (mean, age, _) in zip(predictions, seen, contributions.tolist(), strict=True):
        named = [("delays__mean", values[0], mean), ("delays__age_minutes", values[1], age)]
        expected = sorted((each for each in named if each[2]), key=lambda each: -abs(each[2]))
        assert expected  # an empty list would pass
        assert [(r["feature"], r["value"], r["contribution"]) for r in row_predictions["reasons"]] == expected
        assert row_predictions["reasons_method"] == "full"
    query = "reasons=2&reasons_method=path"
    answer = httpx.post(f"{live.url}/v1/toy/predict", params=query, json={"rows": toy.rows}, timeout=20).json()
    assert [each["reasons_method"] for each in answer["predictions"]] == ["path"] * len(toy.rows)
    assert "reasons" not in live.post({"rows": toy.rows}).json()["predictions"][0]


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"{broken", 400, "body"),
        (b"", 400, "body"),
        ({"rows": [row()] * 10_000}, 413, "rows"),
        (b" " * (5 * 2**20), 413, "body"),
        (b" " * (9 * 2**20), 413, "body"),
        ({"rows": [row(), {"carrier": "UA"}]}, 422, "rows[1].distance"),
        ({"rows": [row() | {"distance": "far"}]}, 422, "rows[0].distance"),
        ({"rows": [row() | {"extra": 1}]}, 422, "rows[0].extra"),
        (json.dumps({"rows": [row(distance=float("nan"))]}).encode(), 422, "rows[0].distance"),
        ({"rows": [row() | {"departs": "2013-07-01T12:00:00"}]}, 422, "rows[0].departs"),
    ],
    ids=["broken", "empty", "rows", "bytes", "gateways-bytes", "missing", "type", "extra", "nan", "naive"],
)
def test_bad_request_is_rejected_with_its_path_and_the_service_continues(
    live: RunningPlatform, body: Any, status: int, path: str
) -> None:
    answer = live.post(body)
    assert (answer.status_code, answer.json()["error"]["details"][0]["path"]) == (status, path)
    assert live.post({"rows": [row()]}).status_code == 200


def test_many_lines_are_answered_in_order_through_the_gateway_like_rows(live: RunningPlatform, toy: ToyModel) -> None:
    lines = [json.dumps(toy.rows[number % len(toy.rows)]) for number in range(20_000)]
    lines[12_345] = '{"carrier": 1}'
    # Blank lines make the body longer than a request that the gateway keeps may be.
    body = "\n".join([*lines, *([" " * 1023] * (MAX_BODY_BYTES // 1024))]).encode()
    headers = {"content-type": "application/x-ndjson; charset=utf-8"}
    with httpx.stream("POST", f"{live.url}/v1/toy/predict", content=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        found = [json.loads(line) for line in answer.iter_lines()]

    expected = live.post({"rows": toy.rows}).json()["predictions"]
    assert len(found) == len(lines)
    assert found.pop(12_345)["line"] == 12_346
    assert len({each.pop("prediction_id") for each in found}) == len(lines) - 1
    wanted = [expected[number % len(expected)] for number in range(20_000) if number != 12_345]
    assert found == wanted


def test_gateway_and_service_reject_unknown_path_and_method_in_one_form(live: RunningPlatform) -> None:
    for method, path, status, reason in [
        ("GET", "/v1/other/predict", 404, "path"),
        ("POST", "/v1/toy/predictions", 404, "path"),
        ("GET", "/v1/toy/predict", 405, "method"),
    ]:
        answer = httpx.request(method, f"{live.url}{path}")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
        assert set(answer.json()) == {"error", "request_id"}
        assert set(answer.json()["error"]) == {"status", "reason", "message", "details"}


def test_compressed_body_is_rejected_with_status_415(live: RunningPlatform) -> None:
    answer = live.post(gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")


def test_http_1_0_client_is_answered(live: RunningPlatform) -> None:
    body = json.dumps({"rows": [row()]}).encode()
    with socket.create_connection(("127.0.0.1", live.plan.gateway_port)) as client:
        client.sendall(b"POST /v1/toy/predict HTTP/1.0\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.0 200")


def test_fifty_concurrent_clients_are_all_answered(live: RunningPlatform, toy: ToyModel) -> None:
    def send(_: int) -> httpx.Response:
        return live.post({"rows": [row()] * 200})

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(send, range(100)))
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["predictions"][-1]["score"] == toy.scores[0]
        else:
            assert answer.status_code in (429, 503)
            assert answer.headers["retry-after"] == "1"
    assert sum(answer.status_code == 200 for answer in answers) > 50


def test_openapi_of_the_service_equals_that_of_the_contract(live: RunningPlatform) -> None:
    port = next(live.plan.run.glob("toy-1-*.port")).read_text()
    assert httpx.get(f"http://127.0.0.1:{port}/openapi.json").json() == openapi_document(CONTRACT, "1")
    assert httpx.get(f"{live.url}/v1/toy/openapi.json").json() == openapi_document(CONTRACT, "1")
    assert "openapi.json" in httpx.get(f"{live.url}/v1/toy/").text


def test_prediction_is_logged_with_its_features(live: RunningPlatform) -> None:
    live.post({"rows": [row("UA")]}, headers={"x-request-id": "logged-1"})

    (line,) = until(lambda: logged_lines(live, "logged-1"))
    assert (line["role"], line["version"], line["row"]) == ("stable", "1", 0)
    assert line["features"] == {"delays__mean": 40.0, "delays__age_minutes": 60.0}
    assert line["predict_at"] == datetime(2013, 7, 1, 10, tzinfo=UTC)


def test_three_requests_with_one_request_id_are_three_predictions(live: RunningPlatform) -> None:
    answers = [live.post({"rows": [row(each)]}, headers={"x-request-id": "reused"}) for each in ("UA", "AA", "ZZ")]
    lines = until(lambda: found if len(found := logged_lines(live, "reused")) == 3 else [])
    assert [answer.headers["x-request-id"] for answer in answers] == ["reused"] * 3
    assert [(answer.headers["x-prediction-id"], answer.json()["predictions"][0]["score"]) for answer in answers] == [
        (line["prediction_id"], line["score"]) for line in lines
    ]
    assert len({line["prediction_id"] for line in lines}) == 3


def test_logs_are_private_and_the_access_log_names_the_prediction(live: RunningPlatform) -> None:
    refused = httpx.post(
        f"{live.url}/v1/toy/predict", json={"rows": [row()]}, headers={"x-request-id": "y" * 1_000}, timeout=20
    )
    assert (refused.status_code, refused.json()["error"]["reason"]) == (400, "request_id")
    answer = live.post({"rows": [row()]}, headers={"x-request-id": "x" * 200})
    access_log = live.plan.gateway.folder / "access.jsonl"

    def access_lines() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in access_log.read_text().splitlines()]
        wanted = (answer.headers["x-prediction-id"], "-")
        found = [record for record in records if record["request_id"][:2] in ("xx", "yy")]
        return found if len(found) == 2 and {each["prediction_id"] for each in found} <= {*wanted, None} else []

    long, line = until(access_lines)
    assert (long["request_id"], line["request_id"]) == ("y" * 200, "x" * 200)
    assert line["prediction_id"] == answer.headers["x-prediction-id"]
    logs = until(lambda: list((live.plan.predictions / "toy").glob("*.jsonl")))
    assert {stat.S_IMODE(file.stat().st_mode) for file in (access_log, *logs)} == {0o600}
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (access_log.parent, logs[0].parent)} == {0o700}


def test_admin_page_of_the_gateway_is_a_socket_of_its_owner(live: RunningPlatform) -> None:
    socket = live.plan.gateway.folder / SOCKET_FILE
    assert stat.S_ISSOCK(socket.stat().st_mode)
    assert stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0
    assert "envoy" in query_gateway(live.plan.gateway.folder, "/server_info", seconds=5)
    with pytest.raises(OSError, match="answered 404"):
        query_gateway(live.plan.gateway.folder, "/nothing", seconds=5)
    connections = [one for each in gateways_of(live.plan.run) for one in each.net_connections("tcp")]
    assert {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN} == {live.plan.gateway_port}


def test_host_of_another_site_is_refused_and_no_client_marks_its_request_as_a_shadow(live: RunningPlatform) -> None:
    foreign = live.post({"rows": [row()]}, headers={"host": "evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["reason"]) == (403, "host")
    marked = live.post({"rows": [row()]}, headers={"host": "localhost-shadow", "x-request-id": "marked"})
    assert marked.status_code == 403
    headers = {"host": "localhost", "x-ml-platform-role": "shadow", "x-request-id": "roled"}
    assert live.post({"rows": [row()]}, headers=headers).status_code == 200
    (line,) = until(lambda: logged_lines(live, "roled"))
    assert line["role"] == "stable"
    assert logged_lines(live, "marked") == []


def test_requests_beyond_the_limit_are_refused_at_once_with_the_time_to_retry(live: RunningPlatform) -> None:
    body = {"rows": [row()] * 50}

    async def flood(clients: int) -> list[tuple[int, float, str | None]]:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(limits=limits, timeout=30) as client:

            async def ask() -> tuple[int, float, str | None]:
                started = time.perf_counter()
                answer = await client.post(f"{live.url}/v1/toy/predict?reasons=5", json=body)
                return answer.status_code, time.perf_counter() - started, answer.headers.get("retry-after")

            return await asyncio.gather(*(ask() for _ in range(clients)))

    # A client on a busy machine can be too slow to fill all places at once; then a larger flood follows.
    floods = (asyncio.run(flood(clients)) for clients in (320, 640, 960, 960))
    answers = next(found for found in floods if any(status != 200 for status, _, _ in found))
    statuses = {status for status, _, _ in answers}
    first_refusal = min(seconds for status, seconds, _ in answers if status != 200)
    last_answer = max(seconds for status, seconds, _ in answers if status == 200)
    assert first_refusal < last_answer  # it did not wait in the queue
    assert statuses <= {200, 429, 503}
    refused = [retry for status, _, retry in answers if status != 200]
    assert set(refused) == {"1"}
    until(lambda: live.post({"rows": [row()]}).status_code == 200)


def test_weights_change_under_load_without_a_failed_request(
    live: RunningPlatform, built_bento: BuiltBento, second_bento: BuiltBento
) -> None:
    stop = threading.Event()
    seen: Counter[tuple[int, str]] = Counter()

    def send() -> None:
        with httpx.Client(base_url=live.url, timeout=20) as client:
            while not stop.is_set():
                answer = client.post("/v1/toy/predict", json={"rows": [row()]})
                version = answer.json()["model"]["version"] if answer.status_code == 200 else answer.text
                seen[answer.status_code, version] += 1

    one, two = served_version(built_bento), served_version(second_bento)
    with ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(send) for _ in range(4)]
        try:
            live.set_desired_state(stable=one, candidate=two, weights={"stable": 50, "candidate": 50})
            until(lambda: seen[200, "1"] > 50 and seen[200, "2"] > 50)
            live.set_desired_state(stable=two, weights={"stable": 100})
            until(lambda: not list(live.plan.run.glob("toy-1-*.port")))
            live.set_desired_state(stable=one, weights={"stable": 100})
        finally:
            stop.set()
        for each in requests:
            each.result()
    assert {status for status, _ in seen} == {200}, seen


def test_shadow_sees_requests_and_logs_them_as_shadow(
    live: RunningPlatform, built_bento: BuiltBento, second_bento: BuiltBento
) -> None:
    live.set_desired_state(
        stable=served_version(built_bento), shadow=served_version(second_bento), weights={"stable": 100}
    )
    answer = live.post({"rows": [row()]}, headers={"x-request-id": "shadowed"})
    assert answer.json()["model"]["version"] == "1"

    lines = until(lambda: found if len(found := logged_lines(live, "shadowed")) == 2 else [])
    assert {(line["role"], line["version"]) for line in lines} == {("stable", "1"), ("shadow", "2")}
    ids = {line["role"]: line["prediction_id"] for line in lines}
    assert ids["stable"] == answer.headers["x-prediction-id"] != ids["shadow"]


def test_killed_reconciler_and_service_restart(live: RunningPlatform, built_bento: BuiltBento) -> None:
    live.set_desired_state(stable=served_version(built_bento), weights={"stable": 100})
    killed = [
        pid
        for pid in processes_of(live.plan.run)
        if any(name in " ".join(psutil.Process(pid).cmdline()) for name in ("serving.reconcile", "_bentoml_impl"))
    ]
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: live.post({"rows": [row()]}).status_code == 200)
    live.set_desired_state(stable=served_version(built_bento), weights={"stable": 100})
    assert live.post({"rows": [row()]}).status_code == 200


def test_unreadable_desired_state_is_named_and_the_applied_one_continues_to_serve(
    live: RunningPlatform, built_bento: BuiltBento
) -> None:
    before = live.set_desired_state(stable=served_version(built_bento), weights={"stable": 100})
    store = live.plan.open_state()
    with store.write() as connection:
        connection.execute(desired_states.update().values(state="{"))
        other = {"model": "other", "generation": 1, "state": "[]", "changed_at": ""}
        connection.execute(desired_states.insert().values(other))

    def waiting() -> list[str]:
        status = read_serving_status(live.plan.status_file)
        return [] if status is None else status.waiting

    until(lambda: len(waiting()) == 2)
    assert "Desired state of 'other'" in waiting()[0]
    assert "Desired state of 'toy'" in waiting()[1]
    assert live.post({"rows": [row()]}).status_code == 200
    with store.write() as connection:
        connection.execute(desired_states.delete().where(desired_states.c.model == "other"))
        connection.execute(desired_states.update().values(state=before.model_dump_json()))
    live.set_desired_state(stable=served_version(built_bento), weights={"stable": 100})
    until(lambda: not waiting())


def test_second_up_is_rejected_while_the_first_runs(live: RunningPlatform) -> None:
    with pytest.raises(AlreadyRunningError, match="up already"):
        up(live.plan)


def test_port_in_use_is_reported_with_its_process(tmp_path: Path, toy: ToyModel, built_bento: BuiltBento) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        plan = process_plan(tmp_path, toy, built_bento).model_copy(update={"gateway_port": holder.getsockname()[1]})
        with pytest.raises(
            PortInUseError, match=rf"{plan.gateway_port}.*process {os.getpid()}.*ML_PLATFORM_GATEWAY_PORT"
        ):
            up(plan)


def _start(plan: ProcessPlan) -> "subprocess.Popen[bytes]":
    plan.run.mkdir(parents=True, exist_ok=True)
    spec = plan.run / "given.json"
    spec.write_text(plan.model_dump_json())
    running = subprocess.Popen(
        [sys.executable, "-m", "ml_platform.serving.processes", str(spec)], start_new_session=True
    )
    up_file = plan.run / UP_FILE
    until(lambda: up_file.exists() and json.loads(up_file.read_text())["pid"] == running.pid)
    until(lambda: (status := read_serving_status(plan.status_file)) and status.models)
    return running


class HalfRequest:
    """A request of which the gateway has received the first half."""

    def __init__(self, plan: ProcessPlan) -> None:
        body = json.dumps({"rows": [row()]}).encode()
        head = f"POST /v1/toy/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        self._plan = plan
        self._connection = socket.create_connection((plan.host, plan.gateway_port), timeout=30)
        self._connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body[:5])
        self._rest = body[5:]
        until(lambda: self._active() == 1)

    def _active(self) -> int:
        query = "/stats?filter=^http.gateway.downstream_rq_active$"
        return int(query_gateway(self._plan.gateway.folder, query, seconds=5).rpartition(":")[2])

    def finish(self) -> str:
        """Send the second half, and return the status line of the answer."""
        self._connection.sendall(self._rest)
        with self._connection.makefile() as answer:
            return answer.readline().strip()

    def received(self) -> bytes:
        """Return what the gateway sends until it closes the connection."""
        try:
            return self._connection.recv(1000)
        except ConnectionResetError:
            return b""


def accepts_connections(plan: ProcessPlan) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((plan.host, plan.gateway_port)) == 0


def test_interrupt_answers_the_request_under_way_and_leaves_no_process_behind(
    tmp_path: Path, toy: ToyModel, built_bento: BuiltBento
) -> None:
    plan = process_plan(tmp_path, toy, built_bento)
    store_first_state(plan, built_bento)
    running = _start(plan)
    assert len(processes_of(plan.run)) >= 3
    request = HalfRequest(plan)
    running.send_signal(signal.SIGINT)
    until(lambda: not accepts_connections(plan))
    assert request.finish() == "HTTP/1.1 200 OK"
    assert running.wait(60) == 0
    assert processes_of(plan.run) == []
    assert not list(plan.gateway.folder.glob("restart_*"))


def test_second_interrupt_ends_at_once(tmp_path: Path, toy: ToyModel, built_bento: BuiltBento) -> None:
    plan = process_plan(tmp_path, toy, built_bento)
    store_first_state(plan, built_bento)
    running = _start(plan)
    request = HalfRequest(plan)
    running.send_signal(signal.SIGINT)
    until(lambda: not accepts_connections(plan))
    # The second one does not wait for the request, which is cut: it is not even answered with 408.
    running.send_signal(signal.SIGINT)
    assert request.received() == b""
    assert running.wait(60) == 0
    assert processes_of(plan.run) == []
