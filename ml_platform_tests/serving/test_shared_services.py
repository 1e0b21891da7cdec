"""Two models in one host under `up`: gateway, process manager and reconciler are real."""

import json
import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from bento.host_plan import STATUS_FILE, HostStatus, ServiceStatus
from ml_platform.serving.bento_build import build_bento
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.desired_state import DesiredState, ServedVersion, read_desired_state, swap_desired_state
from ml_platform.serving.processes import UP_FILE, serve_temporarily
from ml_platform.serving.service_hosts import HOSTS_FOLDER
from ml_platform.serving.serving_settings import ServingSettings
from ml_platform.serving.serving_status import read_serving_status
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import CONTRACT, LOCK, ToyModel
from ml_platform_tests.serving.load import Load
from ml_platform_tests.serving.plans import plan_in
from ml_platform_tests.serving.test_host import copied_bento

pytestmark = pytest.mark.slow


def test_shared_models_serve_restart_stop_and_are_taken_over_one_by_one(tmp_path: Path, toy: ToyModel) -> None:
    built = build_bento(
        toy.model_dir,
        CONTRACT,
        version="1",
        bentos_root=tmp_path / "built",
        locks=BentoLocks(LOCK),
        serving=ServingSettings(isolation="shared"),
    )
    bentos = {model: copied_bento(built.path, model, tmp_path) for model in ("one", "two")}
    plan = plan_in(tmp_path, bentos=tmp_path, online=str(toy.online))
    state = plan.open_state()
    state.migrate()
    for model, bento in bentos.items():
        stable = ServedVersion(version="1", bento=bento.name)
        swap_desired_state(state, model, DesiredState(stable=stable, weights={"stable": 100}), 0)
    with serve_temporarily(plan, timeout_seconds=120) as url:
        services = services_of(plan.run)
        assert len(services) == 2
        for model in bentos:
            assert scores(url, model, toy) == toy.scores
        one, two = (services[f"{model}-{bentos[model].name}"] for model in bentos)
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
        until(lambda: services_of(plan.run)[f"one-{bentos['one'].name}"].pid not in (None, one.pid))
        assert scores(url, "one", toy) == toy.scores
        assert services_of(plan.run)[f"two-{bentos['two'].name}"] == two
        swap_desired_state(state, "one", DesiredState(), read_desired_state(state, "one").generation)
        until(lambda: list(services_of(plan.run).values()) == [two], 60)
        assert scores(url, "two", toy) == toy.scores
        status = read_serving_status(plan.status_file)
        assert status is not None
        assert status.waiting == []

        earlier = host_of(plan.run)
        with Load(f"{url}/v1/two/predict", {"rows": toy.rows}) as load:
            kill_platform(plan.run)
            with serve_temporarily(plan, timeout_seconds=120):
                until(lambda: not psutil.pid_exists(earlier.pid), 120)
                assert two.pid is not None
                assert not psutil.pid_exists(two.pid)
                seen = load.answers
                until(lambda: load.answers > seen + 10)
                (now,) = services_of(plan.run).values()
                assert now.port != two.port
                assert load.failures == []
                load.end()


def kill_platform(run: Path) -> None:
    """Kill the process manager of ``run``; the other processes go on."""
    process = psutil.Process(json.loads((run / UP_FILE).read_text())["pid"])
    process.kill()
    process.wait()


def host_of(run: Path) -> HostStatus:
    """Return the only host of the present run."""
    pid = json.loads((run / UP_FILE).read_text())["pid"]
    (file,) = (run / HOSTS_FOLDER).glob(f"{pid}/*/{STATUS_FILE}")
    return HostStatus.model_validate_json(file.read_text())


def services_of(run: Path) -> dict[str, ServiceStatus]:
    """Return the services of the only host."""
    return host_of(run).services


def scores(url: str, model: str, toy: ToyModel) -> list[float]:
    answer = httpx.post(f"{url}/v1/{model}/predict", json={"rows": toy.rows}, timeout=60)
    assert answer.status_code == 200, answer.text
    return [each["score"] for each in answer.json()["predictions"]]
