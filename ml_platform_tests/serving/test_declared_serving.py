"""Models with the attribute `serving`, with real bentos, gateway, process manager and reconciler."""

import json
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.arm_counts import ArmCounts, read_counts
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.bento_digest import DIGEST_DIGITS, content_digest
from ml_platform.serving.desired_state import DesiredState, ServedVersion, read_desired_state, swap_desired_state
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.gateway_clusters import cluster_name
from ml_platform.serving.marked_processes import SERVICE_PREFIX, process_name, processes_of
from ml_platform.serving.open_loop import send
from ml_platform.serving.openapi import NDJSON
from ml_platform.serving.processes import ProcessPlan, free_port, serve_temporarily
from ml_platform.serving.replicas import replica_names
from ml_platform.serving.serving_status import read_serving_status
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import ToyModel

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Platform:
    """A running gateway without a model at first; ``bento`` is copied for each one."""

    plan: ProcessPlan
    url: str
    toy: ToyModel
    bento: Path

    def version(self, model: str, version: str, declared: Mapping[str, Any]) -> ServedVersion:
        """Return a version of ``model`` whose bento declares the serving settings ``declared``."""
        staged = self.plan.bentos / "staged"
        shutil.copytree(self.bento, staged)
        more: dict[str, dict[str, Any]] = {
            "package.json": {
                "model": model,
                "version": version,
                "path": f"/v1/{model}/predict",
                "serving": dict(declared),
            },
            "model/contract.json": {"model": model},
        }
        for name, fields in more.items():
            file = staged / "src" / name
            file.chmod(0o600)
            file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        bento = staged.rename(self.plan.bentos / f"{model}-{version}-{content_digest(staged)[:DIGEST_DIGITS]}")
        return ServedVersion(version=version, bento=bento.name)

    def serve(self, model: str, **state: Any) -> DesiredState:
        """Replace the desired state of ``model`` and return it once it serves."""
        store = self.plan.open_state()
        generation = read_desired_state(store, model).generation
        stored = swap_desired_state(store, model, DesiredState(**state), generation)
        until(lambda: self.generation(model) == stored.generation, 60)
        return stored

    def generation(self, model: str) -> int:
        status = read_serving_status(self.plan.status_file)
        return status.models[model].generation if status and model in status.models else 0

    def replicas(self, model: str, version: str) -> int:
        """Return the number of replicas of ``version`` that are ready."""
        status = read_serving_status(self.plan.status_file)
        return status.models[model].replicas[version] if status else 0

    def processes(self, model: str, served: ServedVersion, replica: int = 1) -> list[psutil.Process]:
        """Return the processes of a replica of ``served``."""
        name = f"{SERVICE_PREFIX}{replica_names(cluster_name(model, served), replica)[-1]}"
        return [each for each in processes_of(self.plan.run) if process_name(each) == name]

    @contextmanager
    def down(self, versions: Mapping[str, ServedVersion]) -> Iterator[None]:
        """Kill all processes of ``versions``, by model, which cannot start again during the block."""
        for served in versions.values():
            (self.plan.bentos / served.bento).rename(self.plan.bentos / f"{served.bento}.aside")
        try:
            for model, served in versions.items():
                for process in self.processes(model, served):
                    process.kill()
            yield
        finally:
            for served in versions.values():
                (self.plan.bentos / f"{served.bento}.aside").rename(self.plan.bentos / served.bento)

    def logged(self, model: str) -> set[str]:
        """Return the ids of the requests in the prediction log of ``model``."""
        files = (self.plan.predictions / model).glob("*.jsonl")
        return {str(record["request_id"]) for file in files for record in read_records(file)}

    def counts(self, model: str, served: ServedVersion) -> ArmCounts:
        name = cluster_name(model, served)
        return read_counts(self.plan.gateway.folder, {name: 250}, self.plan.run)[name]

    def post(self, model: str, **keywords: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{model}/predict", json={"rows": self.toy.rows}, timeout=60, **keywords)

    def posts(self, model: str, requests: int) -> list[tuple[httpx.Response, float]]:
        """Return the answers to ``requests`` at once, with the seconds that each took."""

        def post(_: int) -> tuple[httpx.Response, float]:
            started = time.monotonic()
            return self.post(model), time.monotonic() - started

        with ThreadPoolExecutor(requests) as pool:
            return list(pool.map(post, range(requests)))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, toy: ToyModel, built_bento: BuiltBento) -> Iterator[Platform]:
    root = tmp_path_factory.mktemp("home")
    plan = ProcessPlan(
        run=root / "run",
        logs=root / "logs",
        state=str(root / "state.db"),
        bentos=root / "bentos",
        online=str(toy.online),
        predictions=root / "predictions",
        gateway_port=free_port(),
    )
    plan.bentos.mkdir()
    plan.open_state().migrate()
    with serve_temporarily(plan) as url:
        yield Platform(plan, url, toy, built_bento.path)


def test_request_to_a_version_that_hangs_is_answered_in_its_declared_time(platform: Platform) -> None:
    one, two = (platform.version("slow", number, {"timeout_seconds": 1}) for number in ("1", "2"))
    platform.serve("slow", stable=one, candidate=two, weights={"stable": 50, "candidate": 50})
    assert {answer.status_code for answer, _ in platform.posts("slow", 8)} == {200}
    before = platform.counts("slow", two)
    (hanging,) = platform.processes("slow", two)
    hanging.send_signal(signal.SIGSTOP)
    try:
        answers = platform.posts("slow", 16)
        assert {answer.status_code for answer, _ in answers} == {200, 504}
        late = [answer for answer, _ in answers if answer.status_code == 504]
        error = late[0].json()["error"]
        assert (error["status"], error["reason"], error["details"]) == (504, "timeout", [])
        # Without the declaration it would take ten seconds.
        assert max(seconds for _, seconds in answers) < 8
        counted = platform.counts("slow", two).since(before)
        assert (counted.errors, counted.answers) == (len(late), len(late))
        # It would not end by itself within the time that a service has for its last answers.
        platform.serve("slow", stable=one, weights={"stable": 100})
        until(lambda: not hanging.is_running() or hanging.status() == psutil.STATUS_ZOMBIE, 20)
    finally:
        with suppress(psutil.NoSuchProcess):
            hanging.send_signal(signal.SIGCONT)


def test_model_without_a_healthy_version_answers_as_declared_until_it_is_back(platform: Platform) -> None:
    policies = {"before": "previous", "fixed": {"constant": 0.1}}
    stable = {model: platform.version(model, "2", {"fallback": policy}) for model, policy in policies.items()}
    previous = platform.version("before", "1", {})
    kept = {"previous": previous, "previous_until": int(time.time()) + 3600}
    for model, served in stable.items():
        platform.serve(model, stable=served, weights={"stable": 100}, **(kept if model == "before" else {}))

    def answers(model: str) -> tuple[int, Any]:
        answer = platform.post(model, headers={"x-request-id": phase})
        return answer.status_code, answer.json().get("model", {}).get("version")

    phase = "up"
    until(lambda: platform.processes("before", previous) and ready(platform, previous))
    assert [answers(model) for model in policies] == [(200, "2")] * 2
    # A killed process loses the rows that wait for its log.
    until(lambda: all("up" in platform.logged(model) for model in policies))
    with platform.down(stable):
        phase = "down"
        assert [answers("before"), answers("fixed")] == [(200, "1"), (200, "2")]
        marked = {"score": 0.1, "label": False, "degraded": {"fallback": True}}
        for _ in range(10):
            assert answers("before") == (200, "1")
            assert platform.post("fixed").json()["predictions"] == [marked] * len(platform.toy.rows)
        wrong = httpx.post(f"{platform.url}/v1/fixed/predict", json={"rows": [{"carrier": 5}]})
        assert (wrong.status_code, wrong.json()["error"]["reason"]) == (422, "field")
        assert platform.post("fixed", headers={"content-type": NDJSON}).status_code == 503
    phase = "back"

    def answers_itself(model: str) -> bool:
        answer = platform.post(model, headers={"x-request-id": phase})
        return answer.status_code == 200 and answer.json()["model"]["version"] == "2" and not is_marked(answer)

    for model in policies:
        until(lambda: answers_itself(model), 60)  # noqa: B023
    # A constant is no prediction, so it is not logged as one.
    until(lambda: platform.logged("fixed") >= {"up", "back"} and platform.logged("before") >= {"up", "down", "back"})
    assert "down" not in platform.logged("fixed")


def test_killed_replica_costs_only_the_requests_inside_it_and_load_starts_one_more(platform: Platform) -> None:
    load = {"max": 3, "target": 0.001, "up_seconds": 1, "down_seconds": 3}
    twin = platform.version("twin", "1", {"replicas": {"min": 2, **load}})
    platform.serve("twin", stable=twin, weights={"stable": 100})
    bodies = [json.dumps({"rows": platform.toy.rows}).encode()]
    (killed,) = platform.processes("twin", twin, replica=2)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            send, platform.plan.gateway_port, "/v1/twin/predict", bodies, np.arange(0, 6, 1 / 50).tolist()
        )
        until(lambda: platform.counts("twin", twin).answers > 50)
        killed.kill()
        measured = running.result()
    # Before there were replicas, everybody waited until the process was back.
    assert measured.latencies_ms.max() < 3000
    assert {each.partition(":")[0] for each in measured.errors} <= {"status 503", "IncompleteReadError"}
    assert len(measured.errors) <= 5
    until(lambda: platform.replicas("twin", "1") >= 2, 60)
    assert platform.processes("twin", twin, replica=2) != [killed]

    def both_scored() -> ArmCounts | None:
        platform.posts("twin", 4)
        counts = platform.counts("twin", twin)
        known = [name for name, each in counts.replicas.items() if sum(each.scores) > 0]
        return counts if len(known) >= 2 else None

    # The counters of the processes are those of the version, also of the one that began again.
    counts = until(both_scored)
    assert counts is not None
    assert sum(counts.scores) == sum(sum(each.scores) for each in counts.replicas.values())

    def scaled_under_load() -> bool:
        send(platform.plan.gateway_port, "/v1/twin/predict", bodies, np.arange(0, 1, 1 / 100).tolist())
        return platform.replicas("twin", "1") == 3

    until(scaled_under_load, 90)
    until(lambda: platform.replicas("twin", "1") == 2)
    until(lambda: platform.processes("twin", twin, replica=3) == [])
    assert {answer.status_code for answer, _ in platform.posts("twin", 8)} == {200}


def is_marked(answer: httpx.Response) -> bool:
    return any("fallback" in each.get("degraded", {}) for each in answer.json()["predictions"])


def ready(platform: Platform, previous: ServedVersion) -> bool:
    """Return whether the gateway sends no request to ``previous`` and could."""
    clusters = query_gateway(platform.plan.gateway.folder, "/clusters?format=json", seconds=2)
    found = {each["name"]: each.get("host_statuses", []) for each in json.loads(clusters)["cluster_statuses"]}
    hosts = found.get(cluster_name("before", previous), [])
    return any("failed_active_health_check" not in each["health_status"] for each in hosts)
