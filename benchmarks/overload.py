"""The endpoint under five times the load that it can answer: `python -m benchmarks.overload [--home HOME] [--json]`.

`wrk` sends requests over many connections for `--seconds`, each again as soon as it is answered, so refusals only raise
the load. A client beside it sends one request after the other, and tries again after a refusal. Its times and statuses
are measured before, during and after. `wrk` must be installed.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving import made_up, of_home, process_plan
from ml_platform.serving.processes import serve_temporarily

CONNECTIONS = 320
PAUSE_SECONDS = 0.05
"""Time after which the measuring client tries again; Retry-After says a second."""


def main() -> None:
    """Serve a model, overload it, and print what a client beside the load saw."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--home", type=Path, help="home whose champion is served; default: a synthetic model")
    options.add_argument("--seconds", type=int, default=30, help="seconds of overload")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = options.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk: expected in PATH, found none. Install it, for example by apt-get install wrk.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subject = of_home(arguments.home, root, deployed=False) if arguments.home else made_up(root)
        with serve_temporarily(process_plan(subject, root)) as url:
            result = measure(f"{url}{subject.contract.path}", {"rows": [subject.row]}, root, arguments.seconds)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


def measure(address: str, body: dict[str, Any], root: Path, seconds: int) -> dict[str, Any]:
    """Return the times and statuses of a client before, during and after the overload, and what the load received."""
    content = json.dumps(body)
    observe(address, content, 2.0)  # warm
    phases = {"before": observe(address, content, 5.0)}
    script = root / "overload.lua"
    (root / "body.json").write_text(content)
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
        f'local file = io.open("{root / "body.json"}", "rb")\nwrk.body = file:read("*a")\nfile:close()\n'
    )
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), address]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    phases["during"] = observe(address, content, seconds - 1.0)
    printed, _ = load.communicate()
    started = time.perf_counter()
    while observe(address, content, 0.2)["statuses"].keys() != {200}:
        pass
    recovered = time.perf_counter() - started
    phases["after"] = observe(address, content, 5.0)
    refused = int(printed.partition("Non-2xx or 3xx responses: ")[2].split("\n")[0] or 0)
    answered = int(printed.partition(" requests in ")[0].split()[-1])
    return {
        "connections": CONNECTIONS,
        "seconds": seconds,
        "load_answered_per_second": (answered - refused) / seconds,
        "load_refused_per_second": refused / seconds,
        "seconds_until_normal": recovered,
        "p99_ratio": phases["during"]["p99_ms"] / phases["before"]["p99_ms"],
        "phases": phases,
    }


def observe(address: str, content: str, seconds: float) -> dict[str, Any]:
    """Return the statuses of requests sent one after the other for ``seconds``, and the times of those answered."""
    statuses: Counter[int] = Counter()
    times = []
    headers = {"content-type": "application/json"}
    with httpx.Client(timeout=30) as client:
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            status = client.post(address, content=content, headers=headers).status_code
            statuses[status] += 1
            if status == httpx.codes.OK:
                times.append((time.perf_counter() - started) * 1000)
            else:
                threading.Event().wait(PAUSE_SECONDS)
    p50, p99 = np.percentile(times, [50, 99]) if times else (float("nan"), float("nan"))
    return {"statuses": dict(statuses), "p50_ms": float(p50), "p99_ms": float(p99)}


def show(result: dict[str, Any]) -> None:
    """Print the measurements as a table."""
    caption = (
        f"{result['connections']} connections for {result['seconds']} s: per second "
        f"{result['load_answered_per_second']:.0f} answered and {result['load_refused_per_second']:.0f} refused; "
        f"accepted p99 {result['p99_ratio']:.1f} times that before; normal after {result['seconds_until_normal']:.1f} s"
    )
    table = Table("client beside the load", "p50 ms", "p99 ms", "statuses", title="Overload", caption=caption)
    for name, phase in result["phases"].items():
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(phase["statuses"].items()))
        table.add_row(name, f"{phase['p50_ms']:.2f}", f"{phase['p99_ms']:.2f}", statuses)
    Console().print(table)


if __name__ == "__main__":
    main()
