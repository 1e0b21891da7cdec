"""`ml-platform up` with real processes on the demo home: its output, its errors, and recovery after a crash."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import ml_platform as mp
from ml_platform.serving.marked_processes import GATEWAY, process_name, processes_of
from ml_platform.serving.processes import free_port
from ml_platform_tests.conftest import COMMAND, PROJECT, DemoHome
from ml_platform_tests.polling import until
from ml_platform_tests.serving.load import Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("GATEWAY", "WEBSERVER", "MLFLOW", "REPORTS")
FLIGHT = {
    "carrier": "UA",
    "flight": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "scheduled_departure": "2013-07-25T22:00:00+00:00",
    "scheduled_arrival": "2013-07-26T02:00:00+00:00",
}
ADDRESSES = {"gateway", "webserver", "mlflow", "reports", "departure_risk"}


@dataclass(frozen=True)
class PlatformHome:
    """A home with its own free ports, and a temporary folder for `up`."""

    home: Path
    temporary: Path
    ports: dict[str, int]

    @property
    def environment(self) -> dict[str, str]:
        chosen = {f"ML_PLATFORM_{name}_PORT": str(port) for name, port in self.ports.items()}
        return {**os.environ, **chosen, "ML_PLATFORM_HOME": str(self.home), "TMPDIR": str(self.temporary)}

    @property
    def output(self) -> str:
        return (self.temporary.parent / "output.txt").read_text()

    @property
    def addresses(self) -> dict[str, str]:
        """Return the address that `up` has printed for each process and endpoint that answers."""
        printed = [line.split() for line in self.output.splitlines(keepends=True) if line.endswith("\n")]
        return {words[0]: words[1] for words in printed if len(words) > 1 and words[1].startswith("http")}

    def start(self) -> "subprocess.Popen[bytes]":
        with (self.temporary.parent / "output.txt").open("wb") as output:
            running = subprocess.Popen(
                [COMMAND, "up"], env=self.environment, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True
            )
        until(lambda: running.poll() is not None or set(self.addresses) >= ADDRESSES, seconds=180)
        assert running.poll() is None, self.output
        return running

    def process_names(self) -> dict[int, str]:
        """Return the names of the processes of this home by their id."""
        return {process.pid: process_name(process) for process in processes_of(self.home / "run")}


@pytest.fixture(scope="module")
def platform(demo_home: DemoHome, tmp_path_factory: pytest.TempPathFactory) -> PlatformHome:
    folder = tmp_path_factory.mktemp("up")
    (folder / "temporary").mkdir()
    own = demo_home.copy(folder / "home").root
    return PlatformHome(own, folder / "temporary", {name: free_port() for name in NAMES})


@pytest.fixture(scope="module")
def running(platform: PlatformHome) -> "Iterator[subprocess.Popen[bytes]]":
    started = platform.start()
    yield started
    if started.poll() is None:
        started.send_signal(signal.SIGINT)
        started.wait(60)


def test_each_server_is_printed_with_an_address_that_answers(
    platform: PlatformHome, running: "subprocess.Popen[bytes]"
) -> None:
    addresses = platform.addresses

    assert set(addresses) == ADDRESSES
    assert {line.partition(" ")[0] for line in platform.output.splitlines()} >= {"daemon", "reconciler"}
    for name in ("webserver", "mlflow", "reports"):
        assert httpx.get(addresses[name], timeout=60, follow_redirects=True).status_code == 200
    for name in ("webserver", "mlflow", "reports"):
        foreign = httpx.get(addresses[name], timeout=60, headers={"host": "attacker.example.org"})
        assert foreign.status_code in (400, 403), name
    assert httpx.get(addresses["departure_risk"].removesuffix("predict"), timeout=60).status_code == 200
    assert httpx.post(addresses["departure_risk"], json={}, timeout=60).status_code == 422
    found = DemoHome(platform.home, "").run("status", "--json")
    assert json.loads(found)["models"]["departure_risk"]["endpoint"] == addresses["departure_risk"]


def test_session_answers_like_the_endpoint_to_the_last_bit(
    platform: PlatformHome, running: "subprocess.Popen[bytes]"
) -> None:
    rows = [FLIGHT, {**FLIGHT, "origin": "JFK", "tailnum": None}]
    address = f"{platform.addresses['departure_risk']}?reasons=3&reasons_method=path"
    answered = httpx.post(address, json={"rows": rows}, timeout=60).json()
    with mp.open(platform.home) as session:
        champion = session.champion("departure_risk")
        assert [each["score"] for each in champion.predict(rows)] == [each["score"] for each in answered["predictions"]]
        explained = champion.explain(rows, 3, method="path")
    reasons = [(each["feature"], each["contribution"]) for one in answered["predictions"] for each in one["reasons"]]
    assert list(zip(explained["feature"], explained["contribution"], strict=True)) == reasons
    assert str(champion.version) == answered["model"]["version"]


def test_second_up_fails_with_pid_and_address_of_the_first(
    platform: PlatformHome, running: "subprocess.Popen[bytes]"
) -> None:
    second = subprocess.run([COMMAND, "up"], env=platform.environment, cwd=PROJECT, capture_output=True, text=True)

    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert f"pid {running.pid}" in line
    assert f"gateway http://127.0.0.1:{platform.ports['GATEWAY']}" in line
    assert "stop it with Ctrl-C" in line


def test_port_in_use_fails_with_the_variable_that_sets_another(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = {name: free_port() for name in NAMES} | {"MLFLOW": holder.getsockname()[1]}
        platform = PlatformHome(tmp_path / "home", tmp_path / "temporary", ports)
        failed = subprocess.run([COMMAND, "up"], env=platform.environment, cwd=PROJECT, capture_output=True, text=True)

    assert failed.returncode == 1
    assert f"Port {ports['MLFLOW']} of the mlflow: expected a free port" in failed.stderr
    assert f"process {os.getpid()} " in failed.stderr
    assert "ML_PLATFORM_MLFLOW_PORT" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_up_after_a_killed_one_takes_over_without_a_failed_request_and_stops_cleanly(
    platform: PlatformHome, running: "subprocess.Popen[bytes]"
) -> None:
    with Load(platform.addresses["departure_risk"], {"rows": [FLIGHT]}) as load:
        running.kill()
        running.wait()
        left = platform.process_names()
        assert not [path for path in platform.temporary.iterdir() if path.name.startswith("mlp")]
        again = platform.start()
        try:
            assert "An earlier run was killed; ended the " in platform.output
            assert "The gateway and 1 services of the earlier run go on" in platform.output
            # The services of the earlier run end when the new ones serve; its gateway ends after its last connections.
            until(lambda: {left[each] for each in left.keys() & platform.process_names().keys()} <= {GATEWAY}, 120)
            seen = load.answers
            until(lambda: load.answers > seen + 10)
        except BaseException:
            again.kill()
            raise
    assert load.failures == []
    assert {"webserver", "daemon", "mlflow", "reconciler", GATEWAY} < set(left.values())
    again.send_signal(signal.SIGINT)
    assert again.wait(60) == 0
    assert platform.process_names() == {}
    assert not [path for path in platform.temporary.iterdir() if path.is_dir()]
