"""What the attribute `serving` of a model declares, with real bentos, gateway, process manager and reconciler."""

import json
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ml_platform.serving.arm_counts import ArmCounts, read_counts
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.bento_digest import DIGEST_DIGITS, content_digest
from ml_platform.serving.desired_state import DesiredState, ServedVersion, read_desired_state, swap_desired_state
from ml_platform.serving.gateway import cluster_name
from ml_platform.serving.marked_processes import SERVICE_PREFIX, process_name, processes_of
from ml_platform.serving.processes import ProcessPlan, free_port, serve_temporarily
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

    def processes(self, model: str, served: ServedVersion) -> list[psutil.Process]:
        """Return the processes that serve ``served``."""
        name = f"{SERVICE_PREFIX}{cluster_name(model, served)}"
        return [each for each in processes_of(self.plan.run) if process_name(each).partition("@")[0] == name]

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
    finally:
        hanging.send_signal(signal.SIGCONT)
