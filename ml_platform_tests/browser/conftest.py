"""Fixtures of the browser tests: a webserver with its own home, a server of the reports, and a headless Chromium."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from assets.aviation.landing import land
from ml_platform.console.services import platform_processes
from ml_platform.data.landing import Landing
from ml_platform.serving.processes import ProcessSpec, free_port
from ml_platform_tests.browser.page import Page
from resources.addresses import port_variable
from resources.home import Home
from resources.orchestration import prepare

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

SENSORS = """{ repositoriesOrError { ... on RepositoryConnection { nodes { sensors { sensorState { id } } } } }
  workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { ... on PythonError { message } } } } } }
"""
STOP = """mutation ($id: String!) { stopSensor(id: $id) { __typename } }"""


@dataclass(frozen=True)
class Site:
    """The addresses of a running webserver and of the reports, and their home."""

    home: Home
    webserver: str
    reports: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Yield a site with two landed months, no materialization, and all sensors stopped."""
    home = Home(tmp_path_factory.mktemp("site"))
    land(Landing(home.landing), "2013-02")
    with running_site(home, ROOT, own_variables(home)) as started:
        yield started


def own_variables(home: Home) -> dict[str, str]:
    """Return the variables that select ``home`` and free ports."""
    ports = {port_variable(name): str(free_port()) for name in ("webserver", "reports", "mlflow", "gateway")}
    return {"ML_PLATFORM_HOME": str(home.root), "DAGSTER_HOME": str(home.dagster), **ports}


@contextmanager
def selected(home: Home, variables: Mapping[str, str]) -> Iterator[None]:
    """Prepare ``home``, and make it that of this process for the body alone: other tests read the same variables."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        prepare(home)
        yield


@contextmanager
def running_site(home: Home, project: Path, variables: Mapping[str, str]) -> Iterator[Site]:
    """Start webserver, reports and daemon of the `workspace.yaml` in ``project``, with all sensors stopped."""
    with selected(home, variables):
        processes = {each.name: each for each in platform_processes(home, project).processes}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("webserver", "reports"):
            started.append(_start(processes[name], home, variables))
            _wait_for(processes[name].address, started[-1])
        _stop_sensors(processes["webserver"].address)
        started.append(_start(processes["daemon"], home, variables))
        yield Site(home, processes["webserver"].address, processes["reports"].address)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield a headless Chromium."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium or chromedriver is not installed; run: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1600,1200"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def _start(process: ProcessSpec, home: Home, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    home.logs.mkdir(parents=True, exist_ok=True)
    with (home.logs / f"{process.name}.log").open("wb") as log:
        environment = {
            **os.environ,
            **variables,
            **process.environment,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        return subprocess.Popen(process.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    # The transport retries a refused connection with increasing pauses.
    with httpx.Client(transport=httpx.HTTPTransport(retries=9), timeout=180) as client:
        assert client.get(address, follow_redirects=True).status_code < 500
    assert process.poll() is None


def _stop_sensors(webserver: str) -> None:
    with httpx.Client(base_url=webserver, timeout=180) as client:
        found = client.post("/graphql", json={"query": SENSORS}).json()["data"]
        ids = [
            sensor["sensorState"]["id"] for node in found["repositoriesOrError"]["nodes"] for sensor in node["sensors"]
        ]
        assert ids, found["workspaceOrError"]
        for each in ids:
            stopped = client.post("/graphql", json={"query": STOP, "variables": {"id": each}}).json()
            assert stopped["data"]["stopSensor"]["__typename"] == "StopSensorMutationResult"


@pytest.fixture
def page(browser: Any, site: Site, tmp_path: Path) -> Iterator[Page]:
    yield Page(browser, site, tmp_path)
    browser.save_screenshot(str(tmp_path / "last.png"))
