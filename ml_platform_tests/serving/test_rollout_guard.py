"""Rollouts behind a real gateway, with real bentos: bad candidates leave, and a good one arrives."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ml_platform.registry.audit import AuditLog
from ml_platform.serving.bento_build import BuiltBento, build_bento
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.desired_state import (
    DesiredState,
    ServedVersion,
    change_desired_state,
    read_desired_state,
    swap_desired_state,
    with_stable,
)
from ml_platform.serving.processes import PLAN_FILE, ProcessPlan, ProcessSpec, free_port, serve_temporarily
from ml_platform.serving.rollout import ROLLOUT_KIND, Rollout, read_rollout
from ml_platform.serving.rollout_settings import RolloutSettings, RolloutStep
from ml_platform.serving.serving_status import read_serving_status
from ml_platform.steps.rollouts import start_rollout
from ml_platform_tests.polling import until
from ml_platform_tests.serving.conftest import CONTRACT, LOCK, ToyModel, row

pytestmark = pytest.mark.slow

SETTINGS = RolloutSettings(
    strategy="shadow_then_canary",
    shadow=RolloutStep(weight=0, min_requests=20, min_seconds=0),
    steps=(RolloutStep(weight=20, min_requests=20, min_seconds=0), RolloutStep(weight=50, min_requests=20)),
)
QUICK = SETTINGS.model_copy(
    update={"steps": tuple(each.model_copy(update={"min_seconds": 0}) for each in SETTINGS.steps)}
)
CANARY = QUICK.model_copy(update={"strategy": "canary"})


def served(built: BuiltBento) -> ServedVersion:
    return ServedVersion(version=built.tag.partition(":")[2].partition("-")[0], bento=built.path.name)


@dataclasses.dataclass(frozen=True)
class Platform:
    """A running gateway with the guard; version 1 is stable."""

    plan: ProcessPlan
    url: str
    toy: ToyModel

    def build(self, version: str, **files: Any) -> ServedVersion:
        """Build version ``version`` of the model with the JSON files ``files`` replaced."""
        directory = self.plan.run.parent / f"model-{version}"
        shutil.copytree(self.toy.model_dir, directory)
        for name, value in files.items():
            (directory / f"{name}.json").write_text(json.dumps(value))
        contract = type(CONTRACT).model_validate(files.get("contract", CONTRACT.model_dump()))
        return served(
            build_bento(
                directory, contract, version=version, bentos_root=self.plan.bentos.parents[1], locks=BentoLocks(LOCK)
            )
        )

    def start(self, candidate: ServedVersion, settings: RolloutSettings) -> None:
        start_rollout(self.plan.open_state(), "toy", candidate, settings, by="test", at=datetime.now(UTC))

    def outcome(self, candidate: ServedVersion) -> Rollout:
        """Return the rollout of ``candidate`` once it has ended and the gateway follows it."""
        state = self.plan.open_state()

        def ended() -> Rollout | None:
            found = read_rollout(state, "toy")
            same = self.generation() == read_desired_state(state, "toy").generation
            return found if found and found.candidate == candidate and found.outcome != "running" and same else None

        return until(ended, seconds=40)  # type: ignore[return-value]

    def generation(self) -> int:
        """Return the generation of the desired state that the gateway follows."""
        status = read_serving_status(self.plan.status_file)
        return status.models["toy"].generation if status else 0

    @contextmanager
    def traffic(self) -> Iterator[list[int]]:
        """Send requests on two connections during the block; yield the list of the statuses."""
        stopping, statuses = threading.Event(), []
        body = {"rows": [row("UA"), row("AA")]}

        def send() -> None:
            with httpx.Client(timeout=20) as client:
                while not stopping.is_set():
                    statuses.append(client.post(f"{self.url}/v1/toy/predict", json=body).status_code)
                    stopping.wait(0.005)

        with ThreadPoolExecutor(2) as pool:
            senders = [pool.submit(send) for _ in range(2)]
            try:
                yield statuses
            finally:
                stopping.set()
        for each in senders:
            each.result()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, toy: ToyModel, built_bento: BuiltBento) -> Iterator[Platform]:
    root = tmp_path_factory.mktemp("home")
    run = root / "run"
    guard = [sys.executable, "-m", "ml_platform.steps.rollout_guard", str(run / PLAN_FILE)]
    plan = ProcessPlan(
        run=run,
        logs=root / "logs",
        state=str(root / "state.db"),
        bentos=built_bento.path.parent,
        online=str(toy.online),
        predictions=root / "predictions",
        gateway_port=free_port(),
        processes=[ProcessSpec(name="rollout_guard", command=guard)],
    )
    state = plan.open_state()
    state.migrate()
    swap_desired_state(state, "toy", DesiredState(stable=served(built_bento), weights={"stable": 100}), 0)
    with serve_temporarily(plan) as url:
        yield Platform(plan, url, toy)


def processes_with(word: str, folder: Path) -> list[psutil.Process]:
    """Return the processes whose command has ``word`` and ``folder``."""
    return [
        each
        for each in psutil.process_iter(["cmdline"])
        if word in " ".join(each.info["cmdline"] or []) and str(folder) in " ".join(each.info["cmdline"] or [])
    ]


def test_candidate_with_shifted_scores_is_rolled_back_in_its_shadow(platform: Platform) -> None:
    candidate = platform.build("11", calibration={"method": "isotonic", "x": [0.0, 0.5, 1.0], "y": [0.5, 0.7, 1.0]})
    long_shadow = QUICK.shadow.model_copy(update={"min_requests": 100_000})
    with platform.traffic() as statuses:
        platform.start(candidate, QUICK.model_copy(update={"shadow": long_shadow}))
        ended = platform.outcome(candidate)
    assert (ended.outcome, ended.step, "scores" in ended.reason) == ("rolled_back", 0, True)
    # No user saw an answer of the candidate.
    assert set(statuses) == {200}


def test_bad_blue_green_switch_goes_back_although_the_stable_version_gets_copies_only(platform: Platform) -> None:
    candidate = platform.build("13", calibration={"method": "isotonic", "x": [0.0, 0.5, 1.0], "y": [0.5, 0.7, 1.0]})
    with platform.traffic() as statuses:
        platform.start(candidate, QUICK.model_copy(update={"strategy": "blue_green"}))
        ended = platform.outcome(candidate)
    assert (ended.outcome, "scores" in ended.reason, set(statuses)) == ("rolled_back", True, {200})
    assert ended.totals["candidate"].answers > 0
    assert read_desired_state(platform.plan.open_state(), "toy").weights == {"stable": 100}


def test_candidate_that_refuses_all_requests_is_rolled_back_also_when_reconciler_and_guard_are_killed(
    platform: Platform,
) -> None:
    contract = CONTRACT.model_dump()
    contract["fields"] = [*contract["fields"], {"name": "gate", "type": "string", "examples": ["A1"]}]
    candidate = platform.build("12", contract=contract)
    with platform.traffic() as statuses:
        platform.start(candidate, CANARY)
        until(lambda: 422 in statuses)
        for word in ("serving.reconcile", "rollout_guard"):
            for process in processes_with(word, platform.plan.run):
                process.send_signal(signal.SIGKILL)
        ended = platform.outcome(candidate)
        before = len(statuses)
        until(lambda: len(statuses) > before + 50)
    assert (ended.outcome, "errors" in ended.reason) == ("rolled_back", True)
    assert set(statuses) == {200, 422}
    assert set(statuses[before + 2 :]) == {200}
    record = AuditLog(platform.plan.open_state()).records(ROLLOUT_KIND, "toy")[-1]
    assert (record.actor, record.facts["candidate"], record.facts["versions"]) == (
        "rollout guard",
        "12",
        {"stable": "1"},
    )


def test_good_candidate_is_stable_after_its_steps(platform: Platform, second_bento: BuiltBento) -> None:
    candidate = served(second_bento)
    with platform.traffic() as statuses:
        platform.start(candidate, QUICK)
        ended = platform.outcome(candidate)
    assert (ended.outcome, ended.step, set(statuses)) == ("completed", 2, {200})
    state = platform.plan.open_state()
    desired = read_desired_state(state, "toy")
    assert (desired.stable, desired.previous) == (candidate, ended.stable)

    # The version before runs on, so a rollback starts no service and fails no request.
    def services(version: ServedVersion) -> list[int]:
        return [each.pid for each in processes_with(version.bento, platform.plan.bentos.resolve())]

    before = services(ended.stable)
    assert before
    with platform.traffic() as statuses:
        until(lambda: statuses)
        back = change_desired_state(state, "toy", lambda current: with_stable(current, ended.stable))
        until(lambda: platform.generation() == back.generation)
    assert services(ended.stable) == before
    assert set(statuses) == {200}
    until(lambda: services(candidate) == [])


def test_guard_imports_neither_dagster_nor_mlflow() -> None:
    program = "import sys, ml_platform.steps.rollout_guard; print(sorted({'dagster', 'mlflow'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
