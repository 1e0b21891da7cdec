"""A bento served for a moment in a process of its own, as it will serve, and asked over HTTP as an app asks.

Apart because it is the one place that knows how long a request takes: server, log and all, and not the model alone.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ml_platform.serving.sources import PackageRefused

START_SECONDS = 120
ROUNDS, REQUESTS = 5, 150
ONE_THREAD = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
"""One model, one core: more threads only take them from the neighbours."""


@dataclass(frozen=True)
class Rehearsal:
    """The scores of the rows asked for, milliseconds of requests of one row, and which files were loaded by module.

    The milliseconds are those of the best of several rounds: what else the machine does can only add to them.
    """

    scores: list[float]
    latency_p50_ms: float
    latency_p99_ms: float
    modules: dict[str, str]


def rehearse(source: Path, path: str, rows: Sequence[Mapping[str, Any]], *, online: str, doing: str) -> Rehearsal:
    """Serve the bento whose code and model lie in ``source``, post ``rows`` to ``path``, and time rows one by one.

    ``online`` is the location of the online store; ``doing`` names the bento in messages. Raises
    :class:`PackageRefused` when it does not start or answers anything but predictions, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        environment = {
            **os.environ,
            **ONE_THREAD,
            "PYTHONPATH": str(source.resolve()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ML_PLATFORM_ONLINE": online,
            "ML_PLATFORM_PREDICTION_LOG": folder,
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "bento.verify"],
            cwd=source,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            return _asked(server, path, rows)
        except (OSError, ValueError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            server.kill()
            server.wait()
            raise PackageRefused(
                doing,
                expected="a service that answers with predictions",
                found=f"{error}; it said: {_end_of(errors)}",
                mend="Mend what the last line names and materialize the bento again.",
            ) from error
        finally:
            server.kill()
            server.wait()


def _asked(server: "subprocess.Popen[str]", path: str, rows: Sequence[Mapping[str, Any]]) -> Rehearsal:
    assert server.stdin is not None
    assert server.stdout is not None
    port = json.loads(server.stdout.readline())["port"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    predictions = _posted(connection, path, json.dumps({"rows": list(rows)}).encode())
    singles = cycle([json.dumps({"rows": [row]}).encode() for row in rows])
    rounds = []
    for _ in range(ROUNDS):
        milliseconds = []
        for body in islice(singles, REQUESTS):
            started = time.perf_counter()
            _posted(connection, path, body)
            milliseconds.append((time.perf_counter() - started) * 1000)
        rounds.append(np.percentile(milliseconds, [50, 99]))
    connection.close()
    told, _ = server.communicate(timeout=START_SECONDS)
    p50, p99 = np.min(rounds, axis=0).tolist()
    return Rehearsal([each["score"] for each in predictions], p50, p99, json.loads(told)["modules"])


def _posted(connection: http.client.HTTPConnection, path: str, body: bytes) -> list[dict[str, Any]]:
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"status {answer.status}: {data.decode(errors='replace')[:1000]}")
    predictions: list[dict[str, Any]] = json.loads(data)["predictions"]
    return predictions


def _end_of(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read().strip()[-2000:] or "nothing"
