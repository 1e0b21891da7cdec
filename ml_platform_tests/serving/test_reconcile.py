"""One pass of the reconciler after the other, with stand-ins for process manager and gateway that the test steers.

The tests with real processes are in `test_serving.py`; there the moments between two passes cannot be chosen.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from bento.host_plan import PLAN_FILE, HostPlan
from ml_platform.serving.desired_state import DesiredState, ServedVersion, desired_generation, swap_desired_state
from ml_platform.serving.gateway_admin import SOCKET_FILE
from ml_platform.serving.gateway_clusters import (
    CLUSTERS_FILE,
    CONSTANT_SERVICE,
    REQUESTS_AT_ONCE,
    read_clusters,
    write_clusters,
)
from ml_platform.serving.gateway_routes import ROUTES_FILE
from ml_platform.serving.processes import ProcessPlan
from ml_platform.serving.reconcile import FALLBACK_SECONDS, RECOVERED_SECONDS, Reconciler
from ml_platform.serving.scaling_record import scaling_steps
from ml_platform.serving.service_hosts import HOSTS_FOLDER
from ml_platform.serving.streams.declared_streams import CURSOR_PREFIX
from ml_platform.state.cursors import delete_cursors, write_cursor
from ml_platform.state.schema import desired_states
from ml_platform_tests.polling import until

ONE, TWO = (ServedVersion(version=number, bento=f"bentos/{number}-abc") for number in ("1", "2"))
ALL_ONE = DesiredState(stable=ONE, weights={"stable": 100})
ALL_TWO = DesiredState(stable=TWO, weights={"stable": 100})
FALLBACK = "toy-2-abc>toy-1-abc"
HALF = DesiredState(stable=ONE, candidate=TWO, weights={"stable": 50, "candidate": 50})


def set_desired_state(plan: ProcessPlan, desired: DesiredState, model: str = "toy") -> None:
    """Store ``desired`` where the reconciler reads it."""
    state = plan.open_state()
    swap_desired_state(state, model, desired, desired_generation(state, model))
    state.close()


def damage_desired_state(plan: ProcessPlan, content: str, model: str = "toy") -> None:
    """Replace what is stored of the desired state by ``content``."""
    state = plan.open_state()
    with state.write() as connection:
        row = desired_states.c.model == model
        assert connection.execute(desired_states.update().where(row).values(state=content)).rowcount == 1
    state.close()


class Gateway:
    """Answers as Envoy's admin page does, from the files that the reconciler writes; each service is ready there too.

    ``active`` has the requests in flight by service.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.active: dict[str, int] = {}
        folder.mkdir(parents=True)
        for name in (CLUSTERS_FILE, ROUTES_FILE):
            (folder / name).write_text(json.dumps({"version_info": "0", "resources": []}))

    @property
    def clusters(self) -> set[str]:
        return {each["name"] for each in json.loads((self.folder / CLUSTERS_FILE).read_text())["resources"]}

    @property
    def routes(self) -> str:
        """The models and generations that the gateway routes to, such as ``toy:1``."""
        version: str = json.loads((self.folder / ROUTES_FILE).read_text())["version_info"]
        return version

    def answer(self, path: str) -> str:
        url = urlparse(path)
        if url.path == "/config_dump":
            return json.dumps({"configs": [{"version_info": self.routes}]})
        if url.path == "/clusters":
            return json.dumps({"cluster_statuses": [{"name": name, "added_via_api": True} for name in self.clusters]})
        if url.path == "/stats" and "format=json" in url.query:
            stats = {f"cluster.{name}.upstream_rq_active": active for name, active in self.active.items()}
            return json.dumps({"stats": [{"name": name, "value": value} for name, value in stats.items()]})
        if url.path == "/stats":
            name = parse_qs(url.query)["filter"][0].removeprefix("^cluster.").removesuffix(".upstream_rq_active$")
            return f"cluster.{name}.upstream_rq_active: {self.active.get(name, 0)}"
        assert url.path == "/readyz"
        return ""


class ProcessManager:
    """Keeps the names of the running services; a service that starts is ready once its port file exists."""

    def __init__(self, run: Path, port: int) -> None:
        self.run, self.port = run, port
        self.services: list[str] = []
        self.others: list[str] = []
        self.slow: set[str] = set()
        self.killed: list[str] = []

    def send_message(self, command: str, **properties: Any) -> dict[str, Any]:
        watcher = str(properties.get("name", ""))
        name = watcher.removeprefix("service.")
        if command in ("add", "rm") and name == watcher:
            self.others = [*self.others, name] if command == "add" else [each for each in self.others if each != name]
        elif command == "add":
            self.services.append(name)
            if name not in self.slow:
                self.finish_start(name)
        elif command == "signal":
            self.killed.append(name)
        elif command == "rm":
            self.services.remove(name)
        return {"watchers": ["gateway", "reconciler", *self.others, *(f"service.{each}" for each in self.services)]}

    def finish_start(self, name: str) -> None:
        (self.run / f"{name}.port").write_text(str(self.port))


class Serving:
    """A reconciler with its stand-ins."""

    def __init__(self, root: Path, port: int) -> None:
        self.plan = ProcessPlan(
            run=root / "run",
            logs=root / "logs",
            state=str(root / "state.db"),
            bentos=root / "bentos",
            online=str(root / "online"),
            predictions=root / "predictions",
            gateway_port=port,
        )
        self.plan.open_state().migrate()
        self.gateway = Gateway(self.plan.gateway.folder)
        self.manager = ProcessManager(self.plan.run, port)
        self.reconciler = self.restarted()

    def restarted(self) -> Reconciler:
        """Return a reconciler that remembers nothing, as after a crash."""
        reconciler = Reconciler(self.plan, "ipc:///none")
        reconciler._manager = self.manager
        return reconciler

    def step(self) -> tuple[list[str], str, set[str]]:
        """Run one pass; return the running services, the routes and the clusters after it."""
        self.reconciler.step()
        return sorted(self.manager.services), self.gateway.routes, self.gateway.clusters


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(started.gateway.answer(self.path).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    services = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    started = Serving(tmp_path, services.server_address[1])
    folder = os.open(started.plan.gateway.folder, os.O_RDONLY | os.O_DIRECTORY)
    admin = ThreadingUnixStreamServer(f"/proc/self/fd/{folder}/{SOCKET_FILE}", Handler)
    servers = (services, admin)
    threads = [threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01}) for each in servers]
    for thread in threads:
        thread.start()
    try:
        yield started
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
        os.close(folder)


def test_desired_service_starts_and_is_routed_to(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    assert serving.step() == (["toy-1-abc"], "toy:1", {"toy-1-abc"})
    status = serving.reconciler.step()
    assert (status.models["toy"].stable, status.models["toy"].generation, status.waiting) == ("1", 1, [])
    assert serving.manager.services == ["toy-1-abc"]


def test_consumer_of_streams_runs_exactly_while_one_is_declared(serving: Serving) -> None:
    serving.reconciler.step()
    assert serving.manager.services == []
    state = serving.plan.open_state()
    write_cursor(state, f"{CURSOR_PREFIX}toy", [{"requests": "a"}])
    serving.reconciler.step()
    assert serving.manager.others == ["streams"]
    serving.restarted().step()
    assert serving.manager.others == ["streams"]
    delete_cursors(state, [f"{CURSOR_PREFIX}toy"])
    serving.reconciler.step()
    assert serving.manager.others == []


def test_routes_change_only_when_all_services_of_the_new_state_are_ready(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    serving.step()
    serving.manager.slow = {"toy-2-abc"}
    set_desired_state(serving.plan, HALF)
    both = ["toy-1-abc", "toy-2-abc"]
    for _ in range(3):
        assert serving.step()[:2] == (both, "toy:1")
    assert serving.reconciler.step().waiting == ["toy-2-abc"]
    serving.manager.finish_start("toy-2-abc")
    assert serving.step() == (both, "toy:2", {*both, FALLBACK})
    assert serving.reconciler.step().waiting == []


def test_version_that_declares_it_runs_in_a_host(serving: Serving) -> None:
    source = serving.plan.bentos / ONE.bento / "src"
    (source / "bento").mkdir(parents=True)
    (source / "bento" / "host.py").touch()
    declared = {"isolation": "shared", "warm": False}
    (source / "package.json").write_text(json.dumps({"requirements": [], "serving": declared}))
    set_desired_state(serving.plan, ALL_ONE)
    (host,), *_ = serving.step()
    (file,) = (serving.plan.run / HOSTS_FOLDER).glob(f"*/{host.removeprefix('host.')}/{PLAN_FILE}")
    (service,) = HostPlan.model_validate_json(file.read_text()).services
    assert (service.name, service.bento, service.warm) == ("toy-1-abc", source.parent, False)
    service.port_file.write_text(str(serving.manager.port))
    assert serving.step() == ([host], "toy:1", {"toy-1-abc"})
    set_desired_state(serving.plan, DesiredState())
    assert [serving.step()[0] for _ in range(2)] == [[host], []]


def test_replaced_service_stops_after_two_idle_passes(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    serving.step()
    set_desired_state(serving.plan, ALL_TWO)
    # A request may be on its way when the routes change, so the first idle pass is not enough.
    both = ["toy-1-abc", "toy-2-abc"]
    assert serving.step() == (both, "toy:2", set(both))
    assert serving.step() == (["toy-2-abc"], "toy:2", {"toy-2-abc"})
    assert not (serving.plan.run / "toy-1-abc.port").exists()


def test_service_with_a_request_in_flight_does_not_stop(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    serving.step()
    set_desired_state(serving.plan, ALL_TWO)
    running = []
    for active in (1, 0, 1, 0, 3, 0, 0):
        serving.gateway.active = {"toy-1-abc": active}
        running.append("toy-1-abc" in serving.step()[0])
    # Two idle passes in a row are needed; a request between them starts the count again.
    assert running == [True, True, True, True, True, True, False]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stable": 5}', '{"weights": {"stable": 100}}', "null"])
def test_unreadable_desired_state_keeps_the_applied_service_and_is_named(serving: Serving, content: str) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    set_desired_state(serving.plan, ALL_TWO, model="other")
    before = serving.step()
    assert before == (["other-2-abc", "toy-1-abc"], "other:1,toy:1", {"other-2-abc", "toy-1-abc"})
    damage_desired_state(serving.plan, content)
    for _ in range(3):
        assert serving.step() == before
    serving.reconciler = serving.restarted()
    status = serving.reconciler.step()
    assert serving.step() == before
    assert sorted(model for model, each in status.models.items() if each.stable) == ["other", "toy"]
    assert len(status.waiting) == 1
    assert "toy" in status.waiting[0]


def test_unreadable_desired_state_of_a_new_model_does_not_stop_the_others(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    set_desired_state(serving.plan, ALL_TWO, model="other")
    damage_desired_state(serving.plan, "{", model="other")
    assert serving.step() == (["toy-1-abc"], "toy:1,other:starting", {"toy-1-abc"})


def test_missing_state_store_keeps_every_service_and_is_named(serving: Serving) -> None:
    set_desired_state(serving.plan, HALF)
    before = serving.step()
    Path(serving.plan.state).rename(f"{serving.plan.state}.aside")
    assert serving.step() == before
    serving.reconciler = serving.restarted()
    for _ in range(3):
        services, routes, clusters = serving.step()
        # A restarted one does not know which other models exist, so it says of none that it does not.
        assert (services, routes, clusters) == (before[0], "toy:1,*:starting", before[2])
    assert len(serving.reconciler.step().waiting) == 1


def test_service_of_an_earlier_run_is_routed_to_until_the_new_one_is_ready(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    serving.step()
    port_file = serving.plan.run / "toy-1-abc.port"
    port_file.unlink()
    write_clusters(serving.gateway.folder, {"toy-1-abc": 1}, version="earlier")
    serving.manager.services, serving.manager.slow = [], {"toy-1-abc"}
    for _ in range(2):
        serving.reconciler = serving.restarted()
        assert serving.step() == (["toy-1-abc"], "toy:1", {"toy-1-abc"})
        assert read_clusters(serving.gateway.folder) == {"toy-1-abc": [1]}
    serving.manager.finish_start("toy-1-abc")
    serving.step()
    assert read_clusters(serving.gateway.folder) == {"toy-1-abc": [serving.plan.gateway_port]}


def declare(serving: Serving, served: ServedVersion, **declared: Any) -> None:
    """Write the bento of ``served`` with the serving settings ``declared``."""
    model = serving.plan.bentos / served.bento / "src" / "model"
    model.mkdir(parents=True)
    (model.parent / "package.json").write_text(json.dumps({"serving": declared}))
    (model / "model.json").write_text(json.dumps({"task": "binary", "threshold": 0.4}))
    (model / "contract.json").write_text("{}")


def test_new_version_is_routed_to_with_all_its_replicas_and_stays_with_one(serving: Serving) -> None:
    declare(serving, ONE, replicas={"min": 2})
    first, second = "toy-1-abc", "toy-1-abc@2"
    serving.manager.slow = {second}
    set_desired_state(serving.plan, ALL_ONE)
    assert serving.step() == ([first, second], "toy:starting", {first})
    assert serving.reconciler.step().waiting == [second]
    serving.manager.finish_start(second)
    assert serving.step() == ([first, second], "toy:1", {first})
    port = serving.plan.gateway_port
    assert read_clusters(serving.gateway.folder) == {first: [port, port]}
    # A replica that restarts keeps its place, and the version its routes.
    (serving.plan.run / f"{second}.port").write_text("1")
    set_desired_state(serving.plan, ALL_ONE.model_copy(update={"sticky_by": "x-user"}))
    assert serving.step()[1] == "toy:2"
    status = serving.reconciler.step()
    assert (status.models["toy"].replicas, status.waiting) == ({"1": 1}, [second])
    set_desired_state(serving.plan, DesiredState())
    assert [serving.step()[0] for _ in range(2)] == [[first, second], []]


def test_replicas_of_an_earlier_run_are_routed_to_until_all_new_ones_are_ready(serving: Serving) -> None:
    declare(serving, ONE, replicas={"min": 2})
    set_desired_state(serving.plan, ALL_ONE)
    serving.step()
    first, second, port = "toy-1-abc", "toy-1-abc@2", serving.plan.gateway_port
    for name in (first, second):
        (serving.plan.run / f"{name}.port").unlink()
    write_clusters(serving.gateway.folder, {first: [1, 2]}, version="earlier")
    serving.manager.services, serving.manager.slow = [], {first, second}
    serving.reconciler = serving.restarted()
    assert serving.step() == ([first, second], "toy:1", {first})
    assert read_clusters(serving.gateway.folder) == {first: [1, 2]}
    serving.manager.finish_start(first)
    serving.step()
    assert read_clusters(serving.gateway.folder) == {first: [port, 1, 2]}
    serving.manager.finish_start(second)
    serving.step()
    assert read_clusters(serving.gateway.folder) == {first: [port, port]}


def test_takeover_begins_with_the_replicas_that_the_earlier_run_had(serving: Serving) -> None:
    declare(serving, ONE, replicas={"min": 1, "max": 3})
    set_desired_state(serving.plan, ALL_ONE)
    write_clusters(serving.gateway.folder, {"toy-1-abc": [1, 2]}, version="earlier")
    two = ["toy-1-abc", "toy-1-abc@2"]
    assert serving.step()[0] == two
    # A reconciler that starts again in the same run counts its own.
    write_clusters(serving.gateway.folder, {"toy-1-abc": [1, 2, serving.plan.gateway_port]}, version="both")
    serving.reconciler = serving.restarted()
    assert serving.step()[0] == two


def test_replica_joins_at_high_load_and_leaves_the_gateway_before_it_stops(serving: Serving) -> None:
    declare(serving, ONE, replicas={"min": 1, "max": 2, "up_seconds": 1, "down_seconds": 1})
    set_desired_state(serving.plan, ALL_ONE)
    first, second, port = "toy-1-abc", "toy-1-abc@2", serving.plan.gateway_port
    assert serving.step()[0] == [first]
    serving.gateway.active = {first: REQUESTS_AT_ONCE}
    until(lambda: serving.step()[0] == [first, second])
    serving.step()
    assert read_clusters(serving.gateway.folder) == {first: [port, port]}
    # Two replicas take this load, and one does not.
    serving.gateway.active = {first: round(0.6 * REQUESTS_AT_ONCE)}
    serving.reconciler = serving.restarted()
    started = time.monotonic()
    while time.monotonic() - started < 1.5:
        assert serving.step()[0] == [first, second]
    serving.gateway.active = {first: 1}
    (serving.plan.run / f"{second}.port").write_text("1")
    state = serving.plan.open_state()
    # The state store has the change with its load, as soon as it can be written.
    (up,) = scaling_steps(state, "toy")
    assert (up.version, up.before, up.after, up.load, up.target) == ("1", 1, 2, 1.0, 0.7)
    until(lambda: serving.step()[0] == [first])
    (_, down) = scaling_steps(state, "toy")
    # The mean sinks from 0.3 until it is just below the limit, and is rounded.
    assert (down.before, down.after, down.load <= 0.28) == (2, 1, True)  # 0.8 * 0.7 / 2
    assert read_clusters(serving.gateway.folder) == {first: [port]}
    assert not (serving.plan.run / f"{second}.port").exists()


def test_previous_version_leaves_the_routes_before_it_stops(serving: Serving) -> None:
    declare(serving, TWO, fallback="previous")
    state = DesiredState(stable=TWO, weights={"stable": 100}, previous=ONE, previous_until=int(time.time()) + 3600)
    set_desired_state(serving.plan, state)
    both, chain = ["toy-1-abc", "toy-2-abc"], "toy-2-abc>toy-1-abc"
    assert serving.step() == (both, "toy:1>", {*both, chain})
    serving.reconciler._ready_since["toy-2-abc"] -= RECOVERED_SECONDS
    set_desired_state(serving.plan, state.model_copy(update={"previous_until": 1}))
    assert serving.step() == (both, "toy:2", {*both, chain})
    assert serving.step() == (["toy-2-abc"], "toy:2", {"toy-2-abc"})


def test_previous_version_that_answers_in_an_outage_stays_until_the_stable_one_is_back_for_a_while(
    serving: Serving,
) -> None:
    declare(serving, TWO, fallback="previous")
    until_soon = int(time.time()) + 3600
    state = DesiredState(stable=TWO, weights={"stable": 100}, previous=ONE, previous_until=until_soon)
    set_desired_state(serving.plan, state)
    both, chain = ["toy-1-abc", "toy-2-abc"], "toy-2-abc>toy-1-abc"
    serving.step()
    serving.reconciler._ready_since["toy-2-abc"] -= RECOVERED_SECONDS
    port = (serving.plan.run / "toy-2-abc.port").read_text()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (serving.plan.run / "toy-2-abc.port").write_text(str(silent.getsockname()[1]))
        until(lambda: serving.reconciler.step().waiting == ["toy-2-abc"])
        set_desired_state(serving.plan, state.model_copy(update={"previous_until": 1}))
        for _ in range(3):
            assert serving.step() == (both, "toy:1>", {*both, chain})
    # A reconciler that starts in the outage knows no better; then the stable version is back.
    serving.reconciler = serving.restarted()
    (serving.plan.run / "toy-2-abc.port").write_text(port)
    for _ in range(3):
        assert serving.step() == (both, "toy:2>", {*both, chain})
    serving.reconciler._ready_since["toy-2-abc"] -= RECOVERED_SECONDS
    assert serving.step() == (both, "toy:2", {*both, chain})
    assert serving.step() == (["toy-2-abc"], "toy:2", {"toy-2-abc"})
    # It has left, so the next outage does not start it again.
    serving.reconciler._ready_since.clear()
    assert serving.step() == (["toy-2-abc"], "toy:2", {"toy-2-abc"})


def test_constant_answers_for_a_model_that_does_not_start_in_time(serving: Serving) -> None:
    declare(serving, ONE, fallback={"constant": 0.1})
    serving.manager.slow = {"toy-1-abc"}
    set_desired_state(serving.plan, ALL_ONE)
    services = [CONSTANT_SERVICE, "toy-1-abc"]
    assert serving.step() == (services, "toy:starting", {CONSTANT_SERVICE})
    serving.reconciler._waiting_since["toy"] -= FALLBACK_SECONDS
    found = serving.step()
    assert found == (services, "toy:1>", {CONSTANT_SERVICE, f"toy-1-abc>{CONSTANT_SERVICE}"})
    assert serving.reconciler.step().waiting == ["toy-1-abc"]
    (plan,) = serving.plan.run.glob("constants.json")
    assert json.loads(plan.read_text())["toy"]["row"] == {
        "score": 0.1,
        "label": False,
        "degraded": {"fallback": True},
    }
    serving.manager.finish_start("toy-1-abc")
    assert serving.step() == (services, "toy:1>", {*services, f"toy-1-abc>{CONSTANT_SERVICE}"})
    set_desired_state(serving.plan, DesiredState())
    assert [serving.step()[0] for _ in range(3)] == [services, [CONSTANT_SERVICE], []]


def test_unused_service_that_hangs_is_killed_and_delays_no_other(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    set_desired_state(serving.plan, ALL_TWO, model="other")
    serving.step()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (serving.plan.run / "toy-1-abc.port").write_text(str(silent.getsockname()[1]))
        until(lambda: serving.reconciler.step().waiting == ["toy-1-abc"])
        set_desired_state(serving.plan, ALL_TWO)
        until(lambda: "toy-1-abc" not in serving.step()[0])
    set_desired_state(serving.plan, DesiredState(), model="other")
    until(lambda: "other-2-abc" not in serving.step()[0])
    assert serving.manager.killed == ["toy-1-abc"]


def test_empty_desired_state_stops_the_service(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    serving.step()
    set_desired_state(serving.plan, DesiredState())
    assert [serving.step()[0] for _ in range(2)] == [["toy-1-abc"], []]
    assert serving.gateway.clusters == set()


def test_restarted_reconciler_starts_no_service_twice_and_keeps_the_routes(serving: Serving) -> None:
    set_desired_state(serving.plan, HALF)
    before = serving.step()
    serving.reconciler = serving.restarted()
    assert serving.step() == before
    assert sorted(serving.manager.services) == ["toy-1-abc", "toy-2-abc"]


def test_service_that_restarts_keeps_its_route_and_cluster(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    before = serving.step()
    port_file = serving.plan.run / "toy-1-abc.port"
    port_file.write_text("1")  # nothing listens there
    assert serving.step() == before
    assert serving.reconciler.step().waiting == ["toy-1-abc"]


def test_routes_that_the_gateway_lost_are_written_again(serving: Serving) -> None:
    set_desired_state(serving.plan, ALL_ONE)
    before = serving.step()
    (serving.gateway.folder / ROUTES_FILE).write_text(json.dumps({"version_info": "0", "resources": []}))
    assert serving.step() == before
