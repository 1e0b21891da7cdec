"""The daemon materializes datasets, features and the training set of a landed month without a request."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.components.materializations import MaterializationRecord, latest_materializations
from ml_platform.components.sensor_interval import INTERVAL_VARIABLE
from ml_platform_tests.polling import until
from resources.home import Home
from resources.orchestration import open_instance

PROGRAMS = Path(sys.executable).parent
PROJECT = Path(__file__).resolve().parents[2]
TRAINING_SET = dg.AssetKey(["departure_risk", "training_set"])
TIMEOUT_SECONDS = 400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv(INTERVAL_VARIABLE, "5")  # the sensors of the domain look each minute
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    return Home(tmp_path / "home")


@pytest.fixture
def instance(home: Home) -> Iterator[dg.DagsterInstance]:
    with open_instance(home) as opened:
        yield opened


@pytest.fixture
def daemon(instance: dg.DagsterInstance, home: Home) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(PROGRAMS / "dagster-daemon"), "run", "-w", str(PROJECT / "workspace.yaml")]
    with (home.root / "daemon.log").open("wb") as log:
        started = subprocess.Popen(command, cwd=PROJECT, env=dict(os.environ), stdout=log, stderr=log)
        yield started
        started.terminate()
        started.wait(timeout=60)


def test_daemon_materializes_the_training_set_of_a_landed_month(
    daemon: subprocess.Popen[bytes], instance: dg.DagsterInstance, home: Home
) -> None:
    land = [str(PROGRAMS / "ml-platform"), "land", "aviation", "--through", "2013-01"]
    subprocess.run(land, cwd=PROJECT, check=True, capture_output=True)

    def training_sets() -> dict[str | None, MaterializationRecord]:
        assert daemon.poll() is None, (home.root / "daemon.log").read_text()[-3000:]
        assert instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])) == []
        return latest_materializations(instance, TRAINING_SET)

    made = until(training_sets, TIMEOUT_SECONDS, interval=1)
    (january,) = made.values()
    assert list(made) == ["2013-01"]
    assert int(january.metadata("dagster/row_count") or 0) == 27_004
    requesting_sensors = {run.tags.get("dagster/sensor_name") for run in instance.get_runs()}
    expected = {"flights_landed", "weather_landed", "planes_landed", "airports_landed", "auto_materialize"}
    assert expected <= requesting_sensors
