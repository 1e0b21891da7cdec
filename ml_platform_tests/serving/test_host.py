"""Several bentos in one host: each has a process of its own, loads on demand, and fails alone."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bento.host_plan import PLAN_FILE, STATUS_FILE, HostedService, HostPlan, HostStatus, ServiceStatus
from bento.host_worker import SLICE_NANOSECONDS, shorten_slices
from ml_platform.data.answer_counts import SUFFIX, read_counts
from ml_platform.data.atomic import write_text
from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.bento_digest import DIGEST_DIGITS, ChangedBentoError, code_digest, content_digest
from ml_platform.serving.host_server import copy_code
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import ToyModel

pytestmark = pytest.mark.slow

START_SECONDS = 90.0


def copied_bento(bento: Path, model: str, folder: Path) -> Path:
    """Return a copy of ``bento`` for another ``model``, named by its own digest."""
    staged = folder / "staged"
    shutil.copytree(bento, staged)
    for file in (staged / "src" / "package.json", staged / "src" / "model" / "contract.json"):
        file.chmod(0o600)
        stored = json.loads(file.read_text())
        file.write_text(
            json.dumps(
                {**stored, "model": model, "path": f"/v1/{model}/predict"}
                if "path" in stored
                else {**stored, "model": model}
            )
        )
    return staged.rename(folder / f"{model}-1-{content_digest(staged)[:DIGEST_DIGITS]}")


@dataclass
class RunningHost:
    """A host with its plan in ``folder``, and the files of its services in ``files``."""

    folder: Path
    files: Path
    online: Path
    bentos: dict[str, Path]
    process: "subprocess.Popen[bytes] | None" = None
    services: dict[str, HostedService] = field(default_factory=dict)

    def plan(self, names: list[str], **settings: Any) -> None:
        """Replace the plan of the host: it serves the models ``names``, warm unless ``warm`` is given."""
        warm = settings.pop("warm", True)
        self.services = {
            name: HostedService(
                name=name,
                bento=self.bentos[name],
                port_file=self.files / f"{name}.port",
                log=self.files / f"{name}.log",
                predictions=self.files / "predictions" / name,
                warm=warm,
            )
            for name in names
        }
        code = code_digest(self.bentos[names[0]])
        plan = HostPlan(code=code, online=str(self.online), services=list(self.services.values()), **settings)
        write_text(self.folder / PLAN_FILE, plan.model_dump_json())

    def start(self) -> None:
        command = ["-m", "ml_platform.serving.host_server", str(self.folder), str(self.folder / "host.log")]
        self.process = subprocess.Popen([sys.executable, *command])

    def status(self, name: str) -> ServiceStatus | None:
        file = self.folder / STATUS_FILE
        if not file.exists():
            return None
        return HostStatus.model_validate_json(file.read_text()).services.get(name)

    def reached(self, name: str, state: str) -> ServiceStatus:
        def found() -> list[ServiceStatus]:
            status = self.status(name)
            return [status] if status is not None and status.state == state else []

        return until(found, START_SECONDS)[0]

    def started(self) -> None:
        """Wait until all services are ready."""
        for name, service in self.services.items():
            until(service.port_file.exists, START_SECONDS)
            until(partial(self._is_ready, name), START_SECONDS)

    def _is_ready(self, name: str) -> bool:
        try:
            return httpx.get(f"{self.url(name)}/readyz").text == "ready\n"
        except httpx.TransportError:  # the socket of an earlier plan, which ends
            return False

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.services[name].port_file.read_text()}"

    def ask(self, name: str, rows: list[dict[str, Any]]) -> httpx.Response:
        return httpx.post(f"{self.url(name)}/v1/{name}/predict", json={"rows": rows}, timeout=60)

    def logged_scores(self, name: str) -> list[float]:
        files = (self.files / "predictions" / name).glob("*.jsonl")
        return [record["score"] for file in files for record in read_records(file)]


@contextmanager
def stopped_at_the_end(host: RunningHost) -> Iterator[RunningHost]:
    try:
        yield host
    finally:
        if host.process is not None:
            host.process.kill()
            host.process.wait()


@pytest.fixture(scope="module")
def shared_host(
    tmp_path_factory: pytest.TempPathFactory, toy: ToyModel, three_bentos: dict[str, Path]
) -> Iterator[RunningHost]:
    """Yield one running host for the tests that give it plans of their own: a start takes seconds."""
    folder = tmp_path_factory.mktemp("host")
    with stopped_at_the_end(RunningHost(folder, folder, toy.online, three_bentos)) as host:
        host.plan(["one"])
        host.start()
        yield host


@pytest.fixture
def host(shared_host: RunningHost, tmp_path: Path) -> RunningHost:
    """Return the running host; its services have their files in the folder of the test."""
    shared_host.files = tmp_path
    return shared_host


@pytest.fixture
def own_host(tmp_path: Path, toy: ToyModel, three_bentos: dict[str, Path]) -> Iterator[RunningHost]:
    """Yield a host that the test starts and ends."""
    with stopped_at_the_end(RunningHost(tmp_path, tmp_path, toy.online, three_bentos)) as host:
        yield host


@pytest.fixture(scope="module")
def three_bentos(built_bento: BuiltBento, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return bentos of three models with equal code, by model."""
    folder = tmp_path_factory.mktemp("copies")
    return {model: copied_bento(built_bento.path, model, folder) for model in ("one", "two", "three")}


def scores(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return [each["score"] for each in answer.json()["predictions"]]


def test_models_of_a_host_have_processes_of_their_own_that_share_its_memory(host: RunningHost, toy: ToyModel) -> None:
    host.plan(["one", "two", "three"])
    host.started()
    for name in ("one", "two", "three"):
        answer = host.ask(name, toy.rows)
        assert scores(answer) == toy.scores
        assert answer.json()["model"] == {"name": name, "version": "1"}
        assert f'model="{name}"' in httpx.get(f"{host.url(name)}/metrics").text
    assert host.process is not None
    workers = {host.reached(name, "loaded").pid for name in host.services}
    assert {each.pid for each in psutil.Process(host.process.pid).children()} == workers
    # A process of its own for each would take the whole memory of the host again.
    whole = psutil.Process(host.process.pid).memory_full_info().rss
    assert all(psutil.Process(pid).memory_full_info().uss < whole / 2 for pid in workers)
    for name in host.services:
        assert until(partial(host.logged_scores, name)) == toy.scores


def test_request_loads_its_model_in_place_of_the_one_unused_longest(host: RunningHost, toy: ToyModel) -> None:
    host.plan(["one", "two", "three"], warm=False, max_loaded=1)
    host.started()  # each was loaded once, so it can be loaded
    assert [host.reached(name, state).loads for name, state in (("one", "unloaded"), ("two", "unloaded"))] == [1, 1]
    assert host.reached("three", "loaded").loads == 1
    # A probe loads nothing.
    assert httpx.get(f"{host.url('one')}/readyz").text == "ready\n"
    assert scores(host.ask("one", toy.rows)) == toy.scores
    assert host.reached("one", "loaded").loads == 2
    assert host.reached("three", "unloaded").loads == 1
    assert host.reached("two", "unloaded").loads == 1


def test_request_is_refused_in_time_while_no_model_can_be_unloaded(host: RunningHost, toy: ToyModel) -> None:
    host.plan(["one", "two"], warm=False, max_loaded=1, wait_seconds=0.5)
    host.started()
    # A model that was just used stays loaded.
    assert scores(host.ask("two", toy.rows)) == toy.scores
    refused = host.ask("one", toy.rows)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["reason"] == "starting"
    until(lambda: host.ask("one", toy.rows).status_code == 200)
    assert scores(host.ask("one", toy.rows)) == toy.scores


def test_killed_worker_is_replaced_and_the_others_go_on(host: RunningHost, toy: ToyModel) -> None:
    host.plan(["one", "two"])
    host.started()
    killed, other = host.reached("one", "loaded"), host.reached("two", "loaded")
    assert killed.pid is not None
    assert scores(host.ask("one", toy.rows)) == toy.scores
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: (found := host.status("one")) is not None and found.pid != killed.pid)
    # The host has the socket, so a client waits and is not refused.
    assert scores(host.ask("one", toy.rows)) == toy.scores
    assert host.reached("one", "loaded").port == killed.port
    assert host.status("two") == other
    # The counts of the killed worker outlive it, and no other process of the host has its lock.
    rows = len(toy.rows)
    files = (host.files / "predictions" / "one").glob(f"*{SUFFIX}")
    counts = [each for path in files if (each := read_counts(path))]
    assert sorted((each.answered, each.ended) for each in counts) == [(rows, False), (rows, True)]


def test_changed_bento_is_refused_by_name_and_the_others_go_on(
    host: RunningHost, toy: ToyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / host.bentos["one"].name
    shutil.copytree(host.bentos["one"], changed)
    model = changed / "src" / "model" / "model.txt"
    model.chmod(0o600)
    model.write_text(model.read_text().replace("leaf_value=", "leaf_value=0", 1))
    monkeypatch.setattr(host, "bentos", {**host.bentos, "one": changed})
    host.plan(["two", "one"])
    failing = host.reached("one", "failing")
    until(host.services["two"].port_file.exists)
    assert scores(host.ask("two", toy.rows)) == toy.scores
    assert failing.problem == "its bento was changed; see one.log"
    assert f"Bento {changed.name}: expected the content that was verified" in (host.files / "one.log").read_text()
    assert not host.services["one"].port_file.exists()
    assert httpx.get(f"http://127.0.0.1:{failing.port}/readyz").status_code == 503


def test_new_plan_adds_and_removes_services_and_keeps_the_others(host: RunningHost, toy: ToyModel) -> None:
    host.plan(["one", "two"])
    host.started()
    kept, gone = host.reached("two", "loaded"), host.url("one")
    write_text(host.folder / PLAN_FILE, "{")
    until(lambda: "the last one stays in force" in (host.folder / "host.log").read_text())
    assert scores(host.ask("one", toy.rows)) == toy.scores
    host.plan(["two", "three"])
    host.started()
    assert host.status("two") == kept
    assert scores(host.ask("three", toy.rows)) == toy.scores
    until(lambda: host.status("one") is None)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{gone}/readyz")


def test_request_in_flight_at_sigterm_is_answered_and_logged(own_host: RunningHost, toy: ToyModel) -> None:
    host = own_host
    host.plan(["one"])
    host.start()
    host.started()
    body = json.dumps({"rows": toy.rows}).encode()
    client = http.client.HTTPConnection("127.0.0.1", int(host.services["one"].port_file.read_text()), timeout=30)
    client.putrequest("POST", "/v1/one/predict")
    client.putheader("content-length", str(len(body)))
    client.endheaders(body[:5])
    worker = host.reached("one", "loaded").pid
    assert host.process is not None
    host.process.terminate()
    until(lambda: _refuses(host.url("one")))
    client.send(body[5:])
    answer = client.getresponse()
    assert (answer.status, [each["score"] for each in json.loads(answer.read())["predictions"]]) == (200, toy.scores)
    assert host.process.wait(30) == 0
    assert not psutil.pid_exists(worker or 0)
    assert host.logged_scores("one") == toy.scores


def test_killed_host_leaves_no_worker_and_its_successor_has_the_ports(own_host: RunningHost, toy: ToyModel) -> None:
    host = own_host
    host.plan(["one", "two"])
    host.start()
    host.started()
    urls, workers = (
        [host.url(name) for name in host.services],
        [host.reached(name, "loaded").pid for name in host.services],
    )
    assert host.process is not None
    host.process.kill()
    host.process.wait()
    until(lambda: not any(psutil.pid_exists(pid or 0) for pid in workers))
    host.start()
    until(lambda: all(_is_ready(url) for url in urls), START_SECONDS)
    assert [scores(host.ask(name, toy.rows)) for name in host.services] == [toy.scores, toy.scores]


def test_code_is_copied_from_the_first_unchanged_bento(tmp_path: Path, three_bentos: dict[str, Path]) -> None:
    changed = tmp_path / three_bentos["one"].name
    shutil.copytree(three_bentos["one"], changed)
    source = changed / "src" / "bento" / "app.py"
    source.chmod(0o600)
    source.write_text("raise SystemExit")
    bentos = {"one": changed, "two": three_bentos["two"]}
    services = [
        HostedService(name=name, bento=bento, port_file=tmp_path / "port", log=tmp_path / "log")
        for name, bento in bentos.items()
    ]
    plan = HostPlan(code=code_digest(three_bentos["two"]), online="online", services=services)
    copy_code(plan, tmp_path / "code")
    assert (tmp_path / "code" / "bento" / "app.py").read_bytes() == (
        three_bentos["two"] / "src/bento/app.py"
    ).read_bytes()
    assert not (tmp_path / "code" / "model").exists()
    with pytest.raises(ChangedBentoError, match="expected a bento with the code that was verified"):
        copy_code(plan.model_copy(update={"services": services[:1]}), tmp_path / "none")


def test_busy_worker_lets_others_run_soon() -> None:
    assert shorten_slices()
    slices = [line for line in Path("/proc/self/sched").read_text().splitlines() if line.startswith("se.slice")]
    # A kernel before 6.12 has no such setting.
    assert [line.split()[-1] for line in slices] in ([], [str(SLICE_NANOSECONDS)])


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez")
    except httpx.TransportError:
        return True
    return False
