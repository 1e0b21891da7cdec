"""`ml-platform up` for real, where the demo ran: what it tells, and what a crash leaves to the next one."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from ml_platform.serving.processes import RUN_VARIABLE, free_port
from ml_platform_tests.conftest import COMMAND, PROJECT, DemoHome
from ml_platform_tests.polling import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("GATEWAY", "WEBSERVER", "MLFLOW", "REPORTS")


@dataclass(frozen=True)
class Place:
    """A home with free ports of its own, and a folder that `up` takes for the temporary one."""

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

    def start(self) -> "subprocess.Popen[bytes]":
        with (self.temporary.parent / "output.txt").open("wb") as output:
            running = subprocess.Popen(
                [COMMAND, "up"], env=self.environment, cwd=PROJECT, stdout=output, stderr=output, start_new_session=True
            )
        complete = ("/predict", "webserver", "mlf")
        until(
            lambda: running.poll() is not None or all(name in self.output for name in complete),
            seconds=180,
        )
        assert running.poll() is None, self.output
        return running

    def marked(self) -> list[int]:
        """Return the processes of this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(RUN_VARIABLE) == str((self.home / "run").resolve()):
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


@pytest.fixture(scope="module")
def place(demo_home: DemoHome, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("up")
    (folder / "temporary").mkdir()
    own = demo_home.copy(folder / "home").root
    return Place(own, folder / "temporary", {name: free_port() for name in NAMES})


@pytest.fixture(scope="module")
def running(place: Place) -> "Iterator[subprocess.Popen[bytes]]":
    started = place.start()
    yield started
    if started.poll() is None:
        started.send_signal(signal.SIGINT)
        started.wait(60)


def test_each_thing_is_reported_with_an_address_that_answers(place: Place, running: "subprocess.Popen[bytes]") -> None:
    output = [line.split() for line in place.output.splitlines()]
    addresses = {words[0]: words[1] for words in output if len(words) > 1 and words[1].startswith("http")}

    assert set(addresses) == {"gateway", "webserver", "mlflow", "reports", "departure_risk"}
    assert {words[0] for words in output} >= {"daemon", "reconciler"}
    for name in ("webserver", "mlflow", "reports"):
        assert httpx.get(addresses[name], timeout=60, follow_redirects=True).status_code == 200
    assert httpx.get(addresses["departure_risk"].removesuffix("predict"), timeout=60).status_code == 200
    assert httpx.post(addresses["departure_risk"], json={}, timeout=60).status_code == 422
    found = DemoHome(place.home, "").run("status", "--json")
    assert json.loads(found)["models"]["departure_risk"]["endpoint"] == addresses["departure_risk"]


def test_second_up_says_that_it_is_up_and_where(place: Place, running: "subprocess.Popen[bytes]") -> None:
    second = subprocess.run([COMMAND, "up"], env=place.environment, cwd=PROJECT, capture_output=True, text=True)

    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert f"pid {running.pid}" in line
    assert f"gateway http://127.0.0.1:{place.ports['GATEWAY']}" in line
    assert "stop it with Ctrl-C" in line


def test_taken_port_is_named_with_the_variable_that_chooses_another(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = {name: free_port() for name in NAMES} | {"MLFLOW": holder.getsockname()[1]}
        place = Place(tmp_path / "home", tmp_path / "temporary", ports)
        refused = subprocess.run([COMMAND, "up"], env=place.environment, cwd=PROJECT, capture_output=True, text=True)

    assert refused.returncode == 1
    assert f"Port {ports['MLFLOW']} of the mlflow: expected a free port" in refused.stderr
    assert f"process {os.getpid()} " in refused.stderr
    assert "ML_PLATFORM_MLFLOW_PORT" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_killed_up_leaves_no_folder_and_the_next_one_recovers_and_stops_cleanly(
    place: Place, running: "subprocess.Popen[bytes]"
) -> None:
    running.kill()
    running.wait()
    left = place.marked()

    assert left  # else there is nothing to recover from
    assert not [path for path in place.temporary.iterdir() if path.name.startswith("mlp")]
    again = place.start()
    try:
        assert "An earlier run was killed; ended the " in place.output
        assert not set(left) & set(place.marked())
    finally:
        again.send_signal(signal.SIGINT)
    assert again.wait(60) == 0
    assert place.marked() == []
    assert not [path for path in place.temporary.iterdir() if path.is_dir()]
