"""Tests a built bento under its declared load: a real service process, in turns with a bare endpoint."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from ml_platform.data.scratch import scratch_folder
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.load_profile import (
    CALIBRATION,
    ROUNDS,
    SERVICE,
    LoadTestResult,
    LoadTestSettings,
    LoadTurn,
    Outcome,
    judge,
)
from ml_platform.serving.open_loop import LoadMeasurement, arrivals, send
from ml_platform.serving.smoke_test import TIMEOUT_SECONDS, last_output, piped_server, service_environment

WARM_UP_REQUESTS, WARM_UP_RATE = 50, 100.0

MAX_RUNS = 2
"""A run that is too noisy for a decision is repeated once."""


def run_load_test(
    bento: BuiltBento,
    rows: Sequence[Mapping[str, Any]],
    settings: LoadTestSettings,
    *,
    online: str,
    clock: Callable[[], datetime],
) -> LoadTestResult:
    """Return the result of the load test of ``bento`` with requests of ``rows``, which are used in turn.

    ``online`` is the location of the online store; ``clock`` returns the time of now. Raises
    :class:`~ml_platform.serving.bento_sources.BentoError` when the service does not start.
    """
    model = bento.tag.partition(":")[0]
    path = json.loads((bento.path / "src" / "package.json").read_text())["path"]
    bodies = request_bodies(rows, settings.rows)
    turns: list[LoadTurn] = []
    outcome: Outcome = "noisy"
    reason = ""
    with _running_service(bento, online) as service, _running_calibration() as bare:
        ports = {CALIBRATION: bare, SERVICE: service}
        for port in ports.values():
            warm_up = arrivals(WARM_UP_RATE, WARM_UP_REQUESTS / WARM_UP_RATE, seed=0)
            send(port, path, bodies, warm_up.tolist())
        for run in range(1, MAX_RUNS + 1):
            found = list(_turns(run, ports, path, bodies, settings))
            turns += found
            outcome, reason = judge(found, settings)
            if outcome != "noisy":
                break
    return LoadTestResult(
        model=model,
        bento=bento.tag,
        sha256=bento.sha256,
        settings=settings,
        outcome=outcome,
        reason=reason,
        turns=turns,
        at=clock(),
    )


def request_bodies(rows: Sequence[Mapping[str, Any]], rows_per_request: int) -> list[bytes]:
    """Return JSON bodies with ``rows_per_request`` rows each; ``rows`` are repeated until the last one is complete."""
    count = -(-len(rows) // rows_per_request)
    endless = cycle(rows)
    return [json.dumps({"rows": list(islice(endless, rows_per_request))}).encode() for _ in range(count)]


def _turns(
    run: int, ports: Mapping[str, int], path: str, bodies: Sequence[bytes], settings: LoadTestSettings
) -> Iterator[LoadTurn]:
    """Measure the endpoints in turns; an error of the service ends the run after its turn."""
    for number in range(1, ROUNDS + 1):
        # Both endpoints of a round get the same arrivals.
        times = arrivals(settings.rate, settings.seconds / ROUNDS, seed=number).tolist()
        for endpoint, port in ports.items():
            turn = _turn(run, number, endpoint, send(port, path, bodies, times))
            yield turn
        if turn.errors:
            return


def _turn(run: int, number: int, endpoint: str, found: LoadMeasurement) -> LoadTurn:
    p50, p99 = np.percentile(found.latencies_ms, [50, 99]).tolist() if found.latencies_ms.size else (0.0, 0.0)
    return LoadTurn.model_validate(
        {
            "run": run,
            "round": number,
            "endpoint": endpoint,
            "requests": len(found.latencies_ms) + len(found.errors),
            "errors": len(found.errors),
            "p50_ms": round(p50, 3),
            "p99_ms": round(p99, 3),
            "error": found.errors[0] if found.errors else "",
        }
    )


@contextmanager
def _running_service(bento: BuiltBento, online: str) -> Iterator[int]:
    source = bento.path / "src"
    with scratch_folder("load-test") as folder:
        environment = service_environment(source, online, folder)
        yield from _running("bento.smoke_test_server", f"Bento {bento.tag}", source, environment)


@contextmanager
def _running_calibration() -> Iterator[int]:
    yield from _running("ml_platform.serving.calibration_server", "Calibration of the load test", None, None)


def _running(module: str, subject: str, folder: Path | None, environment: dict[str, str] | None) -> Iterator[int]:
    """Run a server that prints its port, and yield the port; the server ends afterwards."""
    with piped_server(module, folder, environment) as (server, errors):
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise BentoError(
                subject,
                expected="a service that starts",
                found=f"error output: {last_output(errors)}",
                fix="Fix the error in the last line, then materialize the bento again.",
            )
        yield json.loads(line)["port"]
        server.communicate(timeout=TIMEOUT_SECONDS)
