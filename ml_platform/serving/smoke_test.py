"""Serves a bento in its own process for a short time, posts requests over HTTP, and measures their latency.

The latency is that of a real request: it includes the server and the prediction log, not only the model.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ml_platform.data.pseudonyms import PII_KEY_FILE_VARIABLE
from ml_platform.data.scratch import scratch_folder
from ml_platform.serving.bento_sources import BentoError
from ml_platform.tasks.task import answered_numbers

TIMEOUT_SECONDS = 120
LATENCY_ROUNDS, REQUESTS_PER_ROUND = 5, 150
ONE_THREAD_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
"""Each model uses one core: more threads would take cores from the other services."""


NO_NUMBERS = ("score", "label", "reasons", "degraded")
"""Fields of an answer that have none of the numbers that training gives besides the score."""


@dataclass(frozen=True)
class SmokeTestResult:
    """Numbers of the answers, latency (ms) of one-row requests, and the file of each loaded module of the project.

    ``scores`` has for each row the score or, when the answer has further numbers, the list of all, score first.
    Each latency is the minimum over several rounds, because other work on the machine can only increase it.
    """

    scores: list[float] | list[list[float]]
    latency_p50_ms: float
    latency_p99_ms: float
    modules: dict[str, str]


def run_smoke_test(
    source: Path, path: str, rows: Sequence[Mapping[str, Any]], *, online: str, subject: str
) -> SmokeTestResult:
    """Serve the bento with code and model in ``source``, post ``rows`` to ``path``, then time one-row requests.

    ``online`` is the location of the online store; ``subject`` names the bento in messages. Raises
    :class:`BentoError`, with the server's error output, when it does not start or does not answer with predictions.
    """
    with (
        scratch_folder("smoke-test") as folder,
        piped_server("bento.smoke_test_server", source, service_environment(source, online, folder)) as started,
    ):
        server, errors = started
        try:
            return _measure(server, path, rows)
        except (OSError, ValueError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            server.kill()
            server.wait()
            raise BentoError(
                subject,
                expected="a service that answers with predictions",
                found=f"{error}; error output: {last_output(errors)}",
                fix="Fix the error in the last line, then materialize the bento again.",
            ) from error


@contextmanager
def piped_server(
    module: str, folder: Path | None, environment: Mapping[str, str] | None
) -> Iterator[tuple["subprocess.Popen[str]", IO[str]]]:
    """Run the server ``module`` in ``folder``; yield it with the file of its error output, and kill it afterwards."""
    with tempfile.TemporaryFile("w+") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield server, errors
        finally:
            server.kill()
            server.wait()


def bento_code_environment(code: Path) -> dict[str, str]:
    """Return the environment of a process that runs the code in ``code`` alone, and leaves its folder as it is."""
    return {
        **os.environ,
        **ONE_THREAD_ENVIRONMENT,
        "PYTHONPATH": str(code.resolve()),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def service_environment(source: Path, online: str, log_folder: Path) -> dict[str, str]:
    """Return the environment of a service that runs the code in ``source`` and logs to ``log_folder``."""
    return {
        **bento_code_environment(source),
        "ML_PLATFORM_ONLINE": online,
        "ML_PLATFORM_PREDICTION_LOG": str(log_folder),
        PII_KEY_FILE_VARIABLE: str(log_folder / "pii.key"),
    }


def last_output(errors: IO[str]) -> str:
    """Return the end of the output of a process in the file ``errors``."""
    errors.seek(0)
    return errors.read().strip()[-2000:] or "nothing"


def _measure(server: "subprocess.Popen[str]", path: str, rows: Sequence[Mapping[str, Any]]) -> SmokeTestResult:
    assert server.stdin is not None
    assert server.stdout is not None
    port = json.loads(server.stdout.readline())["port"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    predictions = _post(connection, path, json.dumps({"rows": list(rows)}).encode())
    single_row_bodies = cycle([json.dumps({"rows": [row]}).encode() for row in rows])
    percentiles_by_round = []
    for _ in range(LATENCY_ROUNDS):
        latencies_ms = []
        for body in islice(single_row_bodies, REQUESTS_PER_ROUND):
            started = time.perf_counter()
            _post(connection, path, body)
            latencies_ms.append((time.perf_counter() - started) * 1000)
        percentiles_by_round.append(np.percentile(latencies_ms, [50, 99]))
    connection.close()
    output, _ = server.communicate(timeout=TIMEOUT_SECONDS)
    p50, p99 = np.min(percentiles_by_round, axis=0).tolist()
    return SmokeTestResult([_numbers(each) for each in predictions], p50, p99, json.loads(output)["modules"])


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> list[dict[str, Any]]:
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"status {answer.status}: {data.decode(errors='replace')[:1000]}")
    predictions: list[dict[str, Any]] = json.loads(data)["predictions"]
    return predictions


def _numbers(answer: Mapping[str, Any]) -> Any:
    """Return the score of ``answer``, or all its numbers if it has further ones."""
    numbers = answered_numbers({key: answer[key] for key in answer if key not in NO_NUMBERS})
    return [answer["score"], *numbers] if numbers else answer["score"]
