"""Requests around a restart of the platform: `python -m benchmarks.restart [--home HOME] [--seconds 30] [--json]`.

Clients send requests through the gateway, some over new connections and some over kept ones. The process manager is
killed and started again; later it is stopped by SIGINT. A request is failed when it is not answered with 200. After the
SIGINT, a refused connection is no failure, but an accepted request without a good answer is.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.serving import made_up, of_home, process_plan
from ml_platform.serving.processes import ProcessPlan
from ml_platform.serving.serving_status import read_serving_status

CLIENTS = 4
PAUSE_SECONDS = 0.02


class Clients:
    """Clients that send requests until they are stopped; ``outcomes`` has the time and the outcome of each."""

    def __init__(self, address: str, content: str) -> None:
        self.outcomes: list[tuple[float, str]] = []
        self._address, self._content = address, content
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(at % 2 == 0,)) for at in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until the last request of each client has its outcome."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float) -> dict[str, Any]:
        """Return the numbers of outcomes after ``moment``, and the longest time without an answer of 200."""
        found = sorted(each for each in self.outcomes if each[0] >= moment)
        good = [moment, *(at for at, outcome in found if outcome == "200"), max(moment, *(at for at, _ in found))]
        return {
            "requests": len(found),
            "outcomes": dict(Counter(outcome for _, outcome in found)),
            "failed": sum(outcome != "200" for _, outcome in found),
            "longest_gap_seconds": max((end - start for start, end in pairwise(good)), default=None),
        }

    def _run(self, keeps: bool) -> None:
        headers = {"content-type": "application/json"}
        client = httpx.Client(timeout=30, headers=headers)
        while not self._ended.wait(PAUSE_SECONDS):
            if not keeps:
                client.close()
                client = httpx.Client(timeout=30, headers=headers)
            try:
                outcome = str(client.post(self._address, content=self._content).status_code)
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            self.outcomes.append((time.perf_counter(), outcome))
        client.close()


def main() -> None:
    """Serve a model, kill, start and stop the platform under load, and print what the clients saw."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--home", type=Path, help="home whose champion is served; default: a synthetic model")
    options.add_argument("--seconds", type=float, default=30, help="seconds after the restart")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subject = of_home(arguments.home, root, deployed=False) if arguments.home else made_up(root)
        plan = process_plan(subject, root)
        address = f"{plan.gateway.url}{subject.contract.path}"
        result = measure(plan, address, json.dumps({"rows": [subject.row]}), arguments.seconds)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


def measure(plan: ProcessPlan, address: str, content: str, seconds: float) -> dict[str, Any]:
    """Return what clients saw from a SIGKILL until ``seconds`` after the next start, and around a SIGINT."""
    running = start(plan)
    while read_serving_status(plan.status_file) is None or httpx.post(address, content=content).status_code == 503:
        threading.Event().wait(0.1)
    clients = Clients(address, content)
    threading.Event().wait(2)
    killed_at = time.perf_counter()
    running.kill()
    running.wait()
    running = start(plan)
    threading.Event().wait(seconds)
    killed = clients.since(killed_at)
    stopped_at = time.perf_counter()
    running.send_signal(signal.SIGINT)
    running.wait()
    stop_seconds = time.perf_counter() - stopped_at
    clients.stop()
    stopped = clients.since(stopped_at)
    refused = stopped["outcomes"].get("ConnectError", 0)
    return {
        "killed": killed,
        "stopped": {
            "seconds": stop_seconds,
            "accepted": stopped["requests"] - refused,
            "cut": stopped["failed"] - refused,
            "outcomes": stopped["outcomes"],
        },
    }


def start(plan: ProcessPlan) -> "subprocess.Popen[bytes]":
    """Start the processes of ``plan``."""
    plan.run.mkdir(parents=True, exist_ok=True)
    given = plan.run / "given.json"
    given.write_text(plan.model_dump_json())
    command = [sys.executable, "-m", "ml_platform.serving.processes", str(given)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def show(result: dict[str, Any]) -> None:
    """Print the measurements as a table."""
    killed, stopped = result["killed"], result["stopped"]
    gap = killed["longest_gap_seconds"]
    table = Table("what", "requests", "failed", "outcomes", title="Restart under load")
    table.add_row("SIGKILL and start", str(killed["requests"]), str(killed["failed"]), str(killed["outcomes"]))
    table.add_row("SIGINT", str(stopped["accepted"]), str(stopped["cut"]), str(stopped["outcomes"]))
    table.caption = f"longest time without an answer {gap:.2f} s; stopped after {stopped['seconds']:.1f} s"
    Console().print(table)


if __name__ == "__main__":
    main()
