"""Services of a killed run keep their routes, and end when nothing needs them: a real Envoy and toy services.

Takeovers under load are in `console/test_up.py`, of a whole platform, and in `test_shared_services.py`, of a host.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.gateway_clusters import CLUSTERS_FILE, cluster_name, read_clusters, write_clusters
from ml_platform.serving.gateway_process import drain_gateway, gateways_of, server_info
from ml_platform.serving.gateway_routes import ROUTES_FILE
from ml_platform.serving.marked_processes import PROCESS_VARIABLE, RUN_VARIABLE, is_alive, stop_orphaned_processes
from ml_platform.serving.processes import free_port
from ml_platform.serving.takeover import APPLIED_FILE, EarlierRun
from ml_platform_tests.polling import until

ONE, TWO = (ServedVersion(version=number, bento=f"bentos/toy/{number}-aa") for number in ("1", "2"))
STATE = DesiredState(stable=ONE, weights={"stable": 100})
CANARY = DesiredState(stable=ONE, candidate=TWO, weights={"stable": 90, "candidate": 10})

SERVICE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

HOST = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SERVICE!r}])"
"""A process that listens nowhere and whose child is the service."""

Start = Callable[..., tuple[psutil.Process, int]]


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    found = Gateway(tmp_path / "run" / "gateway", free_port())
    found.folder.mkdir(parents=True)
    return found


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a service of the name as a run marks it; it returns the process and its port."""
    with ExitStack() as stack:

        def start(name: str, code: str = SERVICE) -> tuple[psutil.Process, int]:
            marks = {RUN_VARIABLE: str((tmp_path / "run").resolve()), PROCESS_VARIABLE: f"service.{name}"}
            process = subprocess.Popen(
                [sys.executable, "-c", code], env={**os.environ, **marks}, stdout=subprocess.PIPE
            )
            stack.callback(process.wait)
            stack.callback(stop_orphaned_processes, tmp_path / "run")
            assert process.stdout is not None
            return psutil.Process(process.pid), int(process.stdout.readline())

        yield start


@pytest.fixture
def start_gateway(gateway: Gateway) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    with ExitStack() as stack:

        def start() -> "subprocess.Popen[bytes]":
            marks = {RUN_VARIABLE: str(gateway.folder.parent.resolve()), PROCESS_VARIABLE: "gateway"}
            process = subprocess.Popen(gateway.command, cwd=gateway.folder, env={**os.environ, **marks})
            stack.callback(process.wait)
            stack.callback(process.terminate)
            until(lambda: server_info(gateway.folder))
            return process

        yield start


def apply(run: Path, **states: DesiredState) -> None:
    """Write the states that the gateway of the earlier run routed to."""
    (run / APPLIED_FILE).write_text(json.dumps({model: state.model_dump() for model, state in states.items()}))


def routes_of(gateway: Gateway) -> dict[str, int | None]:
    """Return the status that the gateway answers itself by path; None for paths that it passes on."""
    routes = json.loads((gateway.folder / ROUTES_FILE).read_text())["resources"][0]["virtual_hosts"][0]["routes"]
    return {
        each["match"]["prefix"]: each.get("direct_response", {}).get("status")
        for each in routes
        if "prefix" in each["match"]
    }


def test_models_whose_services_go_on_keep_their_routes_and_the_others_start(
    tmp_path: Path, gateway: Gateway, start_service: Start
) -> None:
    run = tmp_path / "run"
    service, port = start_service("toy-1-aa")
    unrouted, _ = start_service("toy-3-aa")
    # Both versions of `canary` are needed; one of them and the service of `gone` have ended.
    names = {model: cluster_name(model, ONE) for model in ("toy", "gone", "canary")}
    ports = {names["toy"]: port, names["canary"]: port, cluster_name("canary", TWO): free_port()}
    write_clusters(gateway.folder, {**ports, names["gone"]: free_port()}, version="1")
    apply(run, toy=STATE, gone=STATE, canary=CANARY)

    earlier = EarlierRun.find(run, gateway)
    serving, clusters = earlier.serving(run, gateway)
    assert earlier.processes == [service]
    assert unrouted.is_running()
    assert serving == {"toy": STATE}

    gateway.write_bootstrap(starting=["gone", "canary"], serving=serving, clusters=clusters)
    assert routes_of(gateway) == {"/v1/toy/": None, "/v1/canary/": 503, "/v1/gone/": 503, "/": 404}
    assert read_clusters(gateway.folder) == {names["toy"]: [port], names["canary"]: [port]}


def test_nothing_is_kept_when_no_service_goes_on_or_the_applied_states_cannot_be_read(
    tmp_path: Path, gateway: Gateway, start_service: Start
) -> None:
    run = tmp_path / "run"
    write_clusters(gateway.folder, {"toy-1-aa": free_port()}, version="1")
    apply(run, toy=STATE)
    assert EarlierRun.find(run, gateway).serving(run, gateway) == ({}, set())
    _, port = start_service("toy-1-aa")
    write_clusters(gateway.folder, {"toy-1-aa": port}, version="1")
    (run / APPLIED_FILE).write_text('{"toy": {"of_another_release": 1}}')
    assert EarlierRun.find(run, gateway).serving(run, gateway) == ({}, {"toy-1-aa"})


@pytest.mark.slow
def test_service_of_an_earlier_run_ends_when_gateways_need_it_no_more(
    tmp_path: Path,
    gateway: Gateway,
    start_service: Start,
    start_gateway: "Callable[[], subprocess.Popen[bytes]]",
) -> None:
    run = tmp_path / "run"
    old, old_port = start_service("toy-1-aa", HOST)
    (child,) = old.children()
    new, new_port = start_service("toy-1-aa")
    name = cluster_name("toy", ONE)
    write_clusters(gateway.folder, {name: old_port}, version="1")
    gateway.write_bootstrap(serving={"toy": STATE}, clusters=[name])
    first = start_gateway()
    with httpx.Client(base_url=gateway.url) as client:
        assert client.get("/v1/toy/").status_code == 200
        apply(run, toy=STATE)
        earlier = EarlierRun.find(run, gateway)
        assert set(earlier.processes) == {old, child, *gateways_of(run)}
        assert first.pid in {each.pid for each in earlier.gateways}

        second = start_gateway()
        until(lambda: (found := server_info(gateway.folder)) and found["command_line_options"]["restart_epoch"] == 1)
        write_clusters(gateway.folder, {name: new_port}, version="2")
        # The old gateway still has the connection of this client, so it may still use the old service.
        for _ in range(3):
            earlier.retire(gateway)
        assert is_alive(old)
        assert is_alive(child)
        answer = client.get("/v1/toy/")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")

    def retired() -> bool:
        earlier.retire(gateway)
        return not is_alive(old) and not is_alive(child)

    until(retired)
    assert is_alive(new)
    assert httpx.get(f"{gateway.url}/v1/toy/").status_code == 200
    drain_gateway(gateway.folder, seconds=20)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{gateway.url}/v1/toy/")
    second.terminate()
    assert second.wait(20) == 0
    assert json.loads((gateway.folder / CLUSTERS_FILE).read_text())["version_info"] == "2"
