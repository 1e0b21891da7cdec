"""The commands of `dg` and `dagster dev` at the root of the repository: check, list, scaffold, launch and serve."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import httpx
import psutil
import pytest

from assets.aviation.landing import land
from ml_platform.data.landing import Landing
from ml_platform_tests.end_to_end.checkout import Checkout
from resources.orchestration import open_instance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the environment after each test, because opening an instance sets its home there."""
    for name in ("ML_PLATFORM_HOME", "DAGSTER_HOME"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture(scope="module")
def scaffolded(checkout: Checkout) -> Checkout:
    checkout.run("dg", "scaffold", "defs", "ml_platform.Model", "claims/late_case")
    checkout.run("dg", "scaffold", "defs", "ml_platform.Dataset", "orders")
    checkout.run("dg", "scaffold", "defs", "ml_platform.FeatureView", "busy_desks", "--dataset", "late_case_cases")
    return checkout


def materialized(checkout: Checkout, key: str) -> dg.EventLogEntry | None:
    with open_instance(checkout.home) as instance:
        return instance.get_latest_materialization_event(dg.AssetKey(key.split("/")))


def test_all_components_are_listed(checkout: Checkout) -> None:
    listed = re.findall(r"ml_platform\.\w+", checkout.run("dg", "list", "components"))
    assert listed == ["ml_platform.Dataset", "ml_platform.FeatureView", "ml_platform.Model"]


def test_scaffolded_folders_pass_both_checks(scaffolded: Checkout) -> None:
    assert "validated successfully" in scaffolded.run("dg", "check", "yaml")
    assert "loaded successfully" in scaffolded.run("dg", "check", "defs")


def test_scaffolded_assets_are_listed_owned_and_connected(scaffolded: Checkout) -> None:
    listed = json.loads(scaffolded.run("dg", "list", "defs", "--json"))["assets"]
    assets = {each["asset_key"]: each for each in listed}
    made = {key: each for key, each in assets.items() if each["group_name"] in ("late_case", "orders", "busy_desks")}

    assert {key.removeprefix("late_case/") for key in made} >= {
        *("datasets/late_case_cases", "features/late_case_request", "features/late_case_desk", "datasets/orders"),
        *("training_set", "candidate_lightgbm", "evaluation", "champion", "bento", "rollout", "drift"),
    }
    assert made["features/busy_desks"]["dependency_keys"] == ["datasets/late_case_cases"]
    assert all(each["owners"] and each["description"] for each in made.values())


def test_commands_in_the_comment_of_a_scaffolded_model_land_and_materialize_it(scaffolded: Checkout) -> None:
    comment = (scaffolded.root / "assets/claims/late_case/defs.yaml").read_text().split("type:")[0]
    landing, training_set, _ = (command.split("--partitions")[0] for command in re.findall("ml-platform (.*)", comment))
    scaffolded.run("sh", "-c", f"ml-platform {landing} && ml-platform {training_set} --partitions 2024-01")

    made = materialized(scaffolded, "late_case/training_set")
    assert made is not None
    assert (
        made.asset_materialization.metadata["dagster/row_count"].value == 5 * 24 * 31  # type: ignore[union-attr]
    )  # five desks, one case per hour


def test_launched_run_is_stored_in_the_home(checkout: Checkout) -> None:
    land(Landing(checkout.home.landing), "2013-01")
    checkout.run("dg", "launch", "--assets", 'key:"datasets/airports"')
    made = materialized(checkout, "datasets/airports")
    assert made is not None
    assert made.asset_materialization.metadata["dagster/row_count"].value == 1458  # type: ignore[union-attr]


def test_development_server_lists_the_assets(checkout: Checkout) -> None:
    query = """{ repositoriesOrError { ... on RepositoryConnection { nodes { assetNodes { assetKey { path } } } } }
                 workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"""
    with development_server(checkout) as address:
        response = httpx.post(f"{address}/graphql", json={"query": query}, timeout=60).json()["data"]

    loaded = [entry["locationOrLoadError"] for entry in response["workspaceOrError"]["locationEntries"]]
    keys = {"/".join(node["assetKey"]["path"]) for node in response["repositoriesOrError"]["nodes"][0]["assetNodes"]}
    assert loaded == [{"__typename": "RepositoryLocation"}]
    assert {"datasets/flights", "features/weather", "departure_risk/champion"} <= keys


@contextmanager
def development_server(checkout: Checkout) -> Iterator[str]:
    """Yield the address of `dagster dev`; at the end stop it and every process that it started."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    log = checkout.root / "dev.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)],
            cwd=checkout.root, env=checkout.environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            while not _answers(address):
                assert server.poll() is None, log.read_text()[-3_000:]
            yield address
        finally:
            started = psutil.Process(server.pid).children(recursive=True)
            server.send_signal(signal.SIGINT)
            server.wait(60)
            # Code servers would wait for a last heartbeat before they exit.
            _, left = psutil.wait_procs(started, timeout=5)
            for process in left:
                process.kill()


def _answers(address: str) -> bool:
    try:
        # The request waits for the response; a failed connection raises after the retries of the transport.
        with httpx.Client(transport=httpx.HTTPTransport(retries=3), timeout=60) as client:
            return client.get(f"{address}/server_info").status_code == 200
    except httpx.TransportError:
        return False
