"""The metrics page: its counts, the number of its series, and that rules and dashboards query only what it has."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.home_page import SyntheticDeclarations, write_records
from ml_platform.alerts.alert import Alert
from ml_platform.alerts.lifecycle import transitions
from ml_platform.alerts.records import store_transitions
from ml_platform.console.site.home_overview import Declarations, DeclaredDataset
from ml_platform.console.site.platform_metrics import PlatformMetrics
from ml_platform.console.site.server import site_app
from ml_platform.data.contract_record import record_failed, record_passed
from ml_platform.monitoring.cost_records import StepCost, Used, record_step
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.gateway_traffic import Traffic
from ml_platform.serving.processes import free_port
from ml_platform.state.store import StateStore
from ml_platform_tests.polling import until
from resources.home import Home

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Declared:
    """The synthetic declarations with two datasets."""

    def current(self) -> Declarations:
        datasets = [DeclaredDataset("orders", "shops"), DeclaredDataset("parcels", "shops")]
        return Declarations(SyntheticDeclarations(2).current().models, datasets, {})


@pytest.fixture
def state(state_store: StateStore) -> StateStore:
    write_records(state_store, ["m00"], 30)
    record_passed(state_store, "orders", "2026-11", content_digest="a", landed_sha256="a")
    record_failed(state_store, "parcels", "2026-11", check="schema", landed_sha256="b")
    firing = [Alert("drift", "m00", "Drift.", "/models/m00"), Alert("drift", "m01", "Drift.", "/models/m01")]
    store_transitions(state_store, transitions([], firing, {}, (), NOW))
    stable, candidate = (ServedVersion(version=each, bento=f"m00/{each}") for each in ("2", "3"))
    weights = {"stable": 90, "candidate": 10}
    swap_desired_state(state_store, "m00", DesiredState(stable=stable, candidate=candidate, weights=weights), 0)
    for run, failed, ended in (("a", False, NOW), ("b", True, NOW), ("c", False, NOW - timedelta(days=40))):
        used = Used(wall_seconds=10.0, cpu_seconds=20.0, bytes_written=5, money=0.5)
        record_step(state_store, StepCost(run, "m00/champion", 0, "domain_0", "m00", failed, ended, used))
    return state_store


def metrics(state: StateStore, currency: str | None = "USD", home: Home | None = None) -> PlatformMetrics:
    return PlatformMetrics(AuditLog(state), Declared(), lambda: {"success": 4, "failure": 1}, currency, home)


def samples(page: bytes) -> Samples:
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        assert family.documentation
        for sample in family.samples:
            found[sample.name.removeprefix("ml_platform_"), tuple(sorted(sample.labels.items()))] = sample.value
    return found


def named(found: Samples, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of ``name`` by the values of their labels, in the order of the names of labels."""
    return {tuple(value for _, value in labels): number for (each, labels), number in found.items() if each == name}


def test_page_has_runs_data_alerts_rollouts_and_costs(state: StateStore) -> None:
    found = samples(metrics(state).page(NOW))
    assert named(found, "runs") == {("success",): 4.0, ("failure",): 1.0}
    assert named(found, "open_alerts") == {("info",): 0.0, ("warning",): 2.0, ("critical",): 0.0}
    assert named(found, "dataset_contract_failing") == {("orders", "shops"): 0.0, ("parcels", "shops"): 1.0}
    assert list(named(found, "dataset_published_timestamp_seconds")) == [("orders", "shops")]
    assert named(found, "rollout_weight_percent") == {("stable", "m00", "2"): 90.0, ("candidate", "m00", "3"): 10.0}
    # Only this month counts: one step ended in October.
    assert named(found, "steps_total") == {("domain_0", "m00"): 2.0}
    assert named(found, "step_failures_total") == {("domain_0", "m00"): 1.0}
    assert named(found, "step_cpu_seconds_total") == {("domain_0", "m00"): 40.0}
    assert named(found, "step_cost_total") == {("domain_0", "m00"): 1.0}
    assert named(samples(metrics(state, currency=None).page(NOW)), "step_cost_total") == {}


def test_quality_of_the_champion_is_promised_realised_and_estimated(state: StateStore) -> None:
    found = samples(metrics(state).page(NOW))
    assert named(found, "champion_version") == {("domain_0", "m00"): 3.0}
    kinds = {(metric, kind) for kind, metric, _ in named(found, "model_quality")}
    assert {("auc", each) for each in ("promised", "realised", "estimated")} < kinds


def test_number_of_series_does_not_grow_with_the_records(state: StateStore) -> None:
    before = len(samples(metrics(state).page(NOW)))
    write_records(state, ["m01"], 3)
    small = len(samples(metrics(state).page(NOW)))
    for number in range(200):
        record_step(state, StepCost(f"more {number}", "m00/drift", 0, "domain_0", "m00", False, NOW, Used(1.0)))
    assert len(samples(metrics(state).page(NOW))) == small
    assert before <= small < 150


def test_home_whose_gateway_does_not_run_says_so(state: StateStore, tmp_path: Path) -> None:
    found = samples(metrics(state, home=Home(tmp_path)).page(NOW))
    assert named(found, "gateway_up") == {(): 0.0}
    assert named(found, "home_free_bytes")[()] > 0


def test_sum_of_durations_is_estimated_from_the_buckets() -> None:
    traffic = Traffic({"2xx": 4}, {0.01: 2, 0.03: 4, float("inf"): 5})
    assert traffic.seconds == pytest.approx(2 * 0.005 + 2 * 0.02 + 0.03)


def exposed_names(state: StateStore, home: Home) -> set[str]:
    families = metrics(state, home=home).families(NOW)
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return {each.name + suffix for each in families for suffix in suffixes.get(each.type, [""])}


def queries() -> Iterator[str]:
    import yaml

    for group in yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for file in (DEPLOY / "grafana").glob("*.json"):
        for panel in json.loads(file.read_text())["panels"]:
            yield from (target["expr"] for target in panel["targets"])


def test_rules_and_dashboards_query_only_metrics_that_exist(state: StateStore, tmp_path: Path) -> None:
    import yaml

    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    known = exposed_names(state, Home(tmp_path)) | {
        rule["record"] for each in groups for rule in each["rules"] if "record" in rule
    }
    used = {name for query in queries() for name in re.findall(r"\bml_platform[_:][a-z0-9_:]+", query)}
    assert len(used) > 15
    assert used - known == set()


def test_dashboards_are_those_of_their_script() -> None:
    import runpy

    made = runpy.run_path(str(DEPLOY / "grafana" / "make_dashboards.py"))
    for name in made["DASHBOARDS"]:
        assert (DEPLOY / "grafana" / f"{name}.json").read_text() == made["text"](name)
        ids = [panel["id"] for panel in made["dashboard"](name)["panels"]]
        assert len(ids) == len(set(ids)) > 4


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml"), ("check", "config", "prometheus.yml")],
)
def test_promtool_accepts_rules_and_configuration(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """Start a Prometheus that scrapes ``target`` each second and evaluates the committed rules; yield its address."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    configuration = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    configuration = configuration.replace("127.0.0.1:3001", f"127.0.0.1:{target}").replace("30s", "1s")
    (folder / "prometheus.yml").write_text(configuration.replace("rules.yml", str(DEPLOY / "prometheus" / "rules.yml")))
    port = free_port()
    process = subprocess.Popen(
        [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(address: str, query: str) -> dict[str, Any]:
    """Return the answer of the Prometheus at ``address`` to ``query``."""
    with urllib.request.urlopen(f"{address}/api/v1/query?query={quote(query)}", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def result_of(address: str, query: str, seconds: float = 60) -> list[Any]:
    """Return the result of ``query`` as soon as it is not empty."""

    def result() -> list[Any]:
        with suppress(OSError):  # it is starting
            return list(ask(address, query)["data"]["result"])
        return []

    return until(result, seconds, interval=0.2)


@pytest.mark.slow
def test_prometheus_scrapes_the_page_and_answers_the_queries_of_rules_and_dashboards(
    state: StateStore, tmp_path: Path
) -> None:
    import threading

    import uvicorn

    home, port = Home(tmp_path), free_port()
    page = PlatformMetrics(AuditLog(state), Declared(), lambda: {"success": 4}, "USD", home)
    app = site_app(tmp_path / "reports", AuditLog(state), Declared(), list, metrics=page)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with prometheus(tmp_path, port) as address:
            (up,) = result_of(address, 'up{job="ml_platform"} == 1')
            assert up["metric"]["instance"] == f"127.0.0.1:{port}"
            (weight,) = result_of(address, 'ml_platform_rollout_weight_percent{arm="candidate"}')
            assert (weight["metric"]["model"], weight["value"][1]) == ("m00", "10")
            result_of(address, 'ALERTS{alertname="ContractFailing", dataset="parcels"}')
            for query in queries():
                if "rate" not in query and "increase" not in query and "latency" not in query:
                    assert ask(address, query)["status"] == "success"
    finally:
        server.should_exit = True
        thread.join()
