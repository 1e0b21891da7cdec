"""Eleven bad candidates behind a real gateway: `python -m benchmarks.bad_candidates [--strategy canary] [--json]`.

Each candidate is a real bento with one fault. It is rolled out beside a good version under constant load, with the
guard and the reconciler of `ml-platform up` and without Dagster. Printed are the outcome, the seconds from its first
request to the routes without it, and the requests that users sent meanwhile and that it answered badly. With `--kill`,
guard and reconciler are killed by SIGKILL as soon as the candidate gets requests. The last candidate is good.
"""

import argparse
import dataclasses
import http.client
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.serving import ENTITIES, Subject, made_up, process_plan
from ml_platform.serving.bento_digest import DIGEST_DIGITS, content_digest
from ml_platform.serving.desired_state import ServedVersion, read_desired_state
from ml_platform.serving.processes import PLAN_FILE, ProcessPlan, ProcessSpec, serve_temporarily
from ml_platform.serving.rollout import RUNNING, Rollout, read_rollout
from ml_platform.serving.rollout_settings import Guardrails, RolloutSettings, RolloutStep
from ml_platform.serving.serving_status import read_serving_status
from ml_platform.steps.rollouts import start_rollout

MODEL = "made_up"
CLIENTS = 4
SLOW_SECONDS = 1.0
"""An answer that takes longer counts as bad for its user."""

OUTCOME_SECONDS = 120.0
PROLOGUE = """
import os, threading, time
from dataclasses import replace
from bento.predictor import Predictor

original = Predictor.predict_together
load = Predictor.__init__


def entity(request):
    return int(request.columns["entity"][0][1:])


def changed(found, requests, change):
    pairs = zip(found, requests, strict=True)
    return [replace(one, scores=[change(score, request) for score in one.scores]) for one, (request, _) in pairs]

"""
FAULTS = {
    "raises on a tenth of the rows": """
def faulty(self, requests):
    if any(entity(request) % 10 == 7 for request, _ in requests):
        raise ValueError("a bad row")
    return original(self, requests)
""",
    "always raises": """
def faulty(self, requests):
    raise ValueError("always")
""",
    "50 ms slower": """
def faulty(self, requests):
    time.sleep(0.05)
    return original(self, requests)
""",
    "scores shifted by 0.2": """
def faulty(self, requests):
    return changed(original(self, requests), requests, lambda score, request: min(1.0, score + 0.2))
""",
    "scores all equal": """
def faulty(self, requests):
    return changed(original(self, requests), requests, lambda score, request: 0.5)
""",
    "crashes every 3 s": """
threading.Timer(3, lambda: os._exit(1)).start()
faulty = original
""",
    "hangs after 20 requests": """
seen = []
def faulty(self, requests):
    seen.append(1)
    if len(seen) > 20:
        time.sleep(3600)
    return original(self, requests)
""",
    "leaks 2 MB a request": """
leaked = []
def faulty(self, requests):
    leaked.append(b"x" * 2_000_000)
    return original(self, requests)
""",
    "is never ready": """
def load(self, *arguments):
    time.sleep(3600)
faulty = original
""",
    "wrong for a twentieth of the entities": """
def faulty(self, requests):
    return changed(
        original(self, requests), requests, lambda score, request: score if entity(request) % 20 else 1 - score
    )
""",
    "fails above 200 requests a second": """
times = []
def faulty(self, requests):
    now = time.monotonic()
    times.append(now)
    while times[0] < now - 1:
        times.pop(0)
    if len(times) > 200:
        raise ValueError("too many")
    return original(self, requests)
""",
    "good": "faulty = original\n",
}
EPILOGUE = """
WARM_UP = 2
calls = 0


def after_warm_up(self, requests):
    global calls
    calls += 1
    return (faulty if calls > WARM_UP else original)(self, requests)


Predictor.predict_together = after_warm_up
Predictor.__init__ = load
"""


@dataclasses.dataclass
class Answers:
    """The answers that the clients got during one rollout."""

    statuses: Counter[int] = dataclasses.field(default_factory=Counter)
    versions: Counter[str] = dataclasses.field(default_factory=Counter)
    slow: int = 0
    cut: int = 0

    @property
    def total(self) -> int:
        return sum(self.statuses.values()) + self.cut


def main() -> None:
    """Roll each candidate out and print what followed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--strategy", default="shadow_then_canary", choices=["shadow_then_canary", "canary"])
    options.add_argument("--only", help="part of the names of the candidates; default: all")
    options.add_argument("--kill", action="store_true", help="kill guard and reconciler in mid-step")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = options.parse_args()
    settings = RolloutSettings(
        strategy=arguments.strategy,
        shadow=RolloutStep(weight=0, min_requests=1000, min_seconds=8),
        steps=(
            RolloutStep(weight=20, min_requests=500, min_seconds=8),
            RolloutStep(weight=50, min_requests=500, min_seconds=8),
        ),
        guardrails=Guardrails(ready_seconds=20),
    )
    names = [name for name in FAULTS if arguments.only is None or arguments.only in name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subject = made_up(root)
        results = [
            measure(name, subject, root / str(place), settings, arguments.kill) for place, name in enumerate(names)
        ]
    found = {"strategy": arguments.strategy, "kill": arguments.kill, "clients": CLIENTS, "candidates": results}
    print(json.dumps(found)) if arguments.json else show(found)


def measure(name: str, subject: Subject, root: Path, settings: RolloutSettings, kill: bool) -> dict[str, Any]:
    """Roll the candidate ``name`` out in a platform of its own under ``root`` and return what followed."""
    root.mkdir()
    plan = process_plan(subject, root)
    guard = [sys.executable, "-m", "ml_platform.steps.rollout_guard", str(plan.run / PLAN_FILE)]
    plan = plan.model_copy(update={"processes": [ProcessSpec(name="rollout_guard", command=guard)]})
    candidate = with_fault(subject.bento, FAULTS[name])
    state = plan.open_state()
    with serve_temporarily(plan), load(plan) as answers:
        until(lambda: answers.total > 200, 30)
        start_rollout(state, MODEL, candidate, settings, by="benchmark", at=datetime.now(UTC))
        if kill:
            until(lambda: routed(plan), 40)
            kill_controllers(plan)
        ended = until(lambda: outcome(plan), OUTCOME_SECONDS)
        finished = time.monotonic()
        rate = answers.total
        until(lambda: answers.total > rate + 100, 90)
    first = ended.step_started or ended.started
    return {
        "candidate": name,
        "outcome": ended.outcome,
        "step": ended.step,
        "reason": ended.reason,
        "seconds": (datetime.now(UTC) - first).total_seconds() - (time.monotonic() - finished),
        "answers": answers.total,
        "answers_of_candidate": answers.versions["2"],
        "statuses": {str(status): count for status, count in sorted(answers.statuses.items())},
        "failed": answers.cut + sum(count for status, count in answers.statuses.items() if status != 200),
        "slow": answers.slow,
    }


def with_fault(bento: Path, fault: str) -> ServedVersion:
    """Copy ``bento`` with ``fault`` in its code, as version 2, and return it."""
    staged = bento.parent / "staged"
    shutil.copytree(bento, staged)
    source = staged / "src"
    (source / "bento" / "fault.py").write_text(f"{PROLOGUE}{fault}{EPILOGUE}")
    with (source / "bento" / "app_factory.py").open("a") as factory:
        factory.write("\nimport bento.fault\n")
    package = json.loads((source / "package.json").read_text())
    (source / "package.json").write_text(json.dumps({**package, "version": "2"}))
    target = bento.parent / f"2-{content_digest(staged)[:DIGEST_DIGITS]}"
    staged.replace(target)
    return ServedVersion(version="2", bento=target.name)


@contextmanager
def load(plan: ProcessPlan) -> Iterator[Answers]:
    """Ask the gateway on several connections without a pause during the block; yield what the clients saw."""
    stopping, answers, lock = threading.Event(), Answers(), threading.Lock()

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", plan.gateway_port, timeout=90)
        number = client
        while not stopping.is_set():
            number += CLIENTS
            body = json.dumps({"rows": [{"entity": f"e{number % ENTITIES}"}]})
            started = time.monotonic()
            try:
                connection.request("POST", f"/v1/{MODEL}/predict", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                with lock:
                    answers.cut += 1
                continue
            with lock:
                answers.statuses[answer.status] += 1
                answers.slow += time.monotonic() - started > SLOW_SECONDS
                if answer.status == 200:
                    answers.versions[json.loads(content)["model"]["version"]] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask, client) for client in range(CLIENTS)]
        try:
            yield answers
        finally:
            stopping.set()
    for each in asking:
        each.result()


def routed(plan: ProcessPlan) -> bool:
    """Return whether the gateway routes the first step, or the candidate is not ready after some seconds."""
    found = read_rollout(plan.open_state(), MODEL)
    return found is not None and (
        found.step_started is not None or (datetime.now(UTC) - found.started).total_seconds() > 10
    )


def outcome(plan: ProcessPlan) -> Rollout | None:
    """Return the rollout once it has ended and the gateway follows its outcome."""
    state = plan.open_state()
    found, status = read_rollout(state, MODEL), read_serving_status(plan.status_file)
    follows = status and status.models[MODEL].generation == read_desired_state(state, MODEL).generation
    return found if found and found.outcome != RUNNING and follows else None


def kill_controllers(plan: ProcessPlan) -> None:
    """Kill guard and reconciler; the process manager starts them again."""
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(plan.run) in command and ("rollout_guard" in command or "serving.reconcile" in command):
            process.send_signal(signal.SIGKILL)


def until(reached: Any, seconds: float) -> Any:
    """Return the first true result of ``reached``; raise ``TimeoutError`` after ``seconds``."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := reached()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not reached within {seconds:g} s")
        pause.wait(0.02)
    return found


def show(found: dict[str, Any]) -> None:
    """Print the result as a table."""
    table = Table(title=f"{found['strategy']}, {found['clients']} clients without a pause")
    columns = ("candidate", "outcome", "step", "seconds", "failed", "slow", "its answers", "all", "reason")
    for name in columns:
        table.add_column(name)
    for each in found["candidates"]:
        numbers = (each["failed"], each["slow"], each["answers_of_candidate"], each["answers"])
        step, seconds = str(each["step"] + 1), f"{each['seconds']:.1f}"
        table.add_row(each["candidate"], each["outcome"], step, seconds, *map(str, numbers), each["reason"])
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
