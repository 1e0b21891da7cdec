"""Steps on a real Ray cluster: resources of a declaration, and a node that dies in the middle of a step."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ml_platform_tests.polling import until
from ml_platform_tests.resources import ray_runs
from ml_platform_tests.resources.ray_cluster import PROGRAM, RayCluster
from resources.home import Home
from resources.ray_steps import RAY_VARIABLE

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    if not PROGRAM.exists():
        pytest.skip("Ray is not installed; run `make ray`")
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    started = RayCluster(folder / "ray")
    try:
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)


def start(home: Home, cluster: RayCluster) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, ray_runs.__file__, str(home.root)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT), RAY_VARIABLE: cluster.address},
    )


@pytest.mark.slow
def test_step_of_a_killed_node_is_executed_on_another(
    home: Home, instance: dg.DagsterInstance, cluster: RayCluster
) -> None:
    cluster.add("first")
    program = start(home, cluster)
    until((home.root / "attempt_0").exists, 120)
    cluster.add("second")
    cluster.kill("first")
    until((home.root / "attempt_1").exists, 240)
    (home.root / "go").touch()
    assert program.wait(120) == 0

    (run,) = instance.get_runs()
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert [(home.root / f"attempt_{number}").read_text() for number in range(2)] == ["first", "second"]
    fitted = instance.get_latest_materialization_event(dg.AssetKey("fitted"))
    after = instance.get_latest_materialization_event(dg.AssetKey("after_fitted"))
    assert fitted is not None
    assert fitted.asset_materialization is not None
    assert fitted.asset_materialization.metadata["attempt"].value == 1
    assert after is not None
    assert after.asset_materialization is not None
    assert after.asset_materialization.metadata["on_ray"].value is False
    lost = [
        each.dagster_event.message
        for each in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        if each.dagster_event and "was lost" in str(each.dagster_event.message)
    ]
    assert len(lost) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, dg.DagsterRunStatus.CANCELED), (signal.SIGKILL, dg.DagsterRunStatus.CANCELING)],
)
def test_end_of_the_run_stops_its_ray_job(
    home: Home,
    instance: dg.DagsterInstance,
    cluster: RayCluster,
    number: signal.Signals,
    status: dg.DagsterRunStatus,
) -> None:
    if "second" not in cluster.names:
        cluster.add("second")
    program = start(home, cluster)
    until((home.root / "attempt_0").exists, 120)
    (run,) = instance.get_runs()
    instance.report_run_canceling(run)
    program.send_signal(number)
    program.wait(60)

    def stopped() -> bool:
        jobs = [each for each in cluster.jobs() if each["metadata"].get("dagster/run-id") == run.run_id]
        return [each["status"] for each in jobs] == ["STOPPED"]

    until(stopped, 60)
    (run,) = instance.get_runs()
    assert run.status == status
