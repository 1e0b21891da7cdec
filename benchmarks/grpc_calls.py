"""Latency and throughput of gRPC beside the REST form of the same requests.

`python -m benchmarks.grpc_calls [--home HOME] [--seconds 10] [--rows 1] [--json]`. Clients ask for the same rows
through the gateway in both forms of the Open Inference Protocol, in turns, over kept connections: one client, then
several at once. The request of the REST form is JSON; that of gRPC has raw contents, as Triton's client sends them, but
without its own cost. The processor time and the memory are those of the bridge.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving import Subject, made_up, of_home, process_plan
from ml_platform.serving.inference_messages import SERVICE, message
from ml_platform.serving.marked_processes import BRIDGE, process_name, processes_of
from ml_platform.serving.processes import ProcessPlan, serve_temporarily

ROUNDS, CLIENTS = 4, 8
READY_SECONDS = 30


def main() -> None:
    """Serve a model, ask in both forms, print the measurements."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--home", type=Path, help="home whose champion is served; default: a synthetic model")
    options.add_argument("--seconds", type=float, default=10.0, help="seconds of requests in each form")
    options.add_argument("--rows", type=int, default=1, help="rows per request")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subject = of_home(arguments.home, root, deployed=False) if arguments.home else made_up(root)
        plan = process_plan(subject, root).model_copy(update={"grpc": True})
        with serve_temporarily(plan):
            found = measure(plan, subject, arguments.seconds, arguments.rows)
    if arguments.json:
        print(json.dumps(found))
        return
    table = Table("form", "clients", "median ms", "p99 ms", "per second")
    for each in found["forms"]:
        numbers = (f"{each[name]:.2f}" for name in ("p50_ms", "p99_ms", "per_second"))
        table.add_row(each["form"], str(each["clients"]), *numbers)
    Console().print(table)
    print(f"bridge: {found['bridge_cpu_ms']:.2f} ms of processor time for a call, {found['bridge_mb']:.0f} MB")


def measure(plan: ProcessPlan, subject: Subject, seconds: float, rows: int) -> dict[str, Any]:
    """Return milliseconds and requests per second of both forms, with one client and with several at once."""
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "REST": lambda: _rest(plan, subject, rows),
        "gRPC": lambda: _grpc(plan, subject, rows),
    }
    _wait_until_ready(makers["gRPC"]())
    bridge = next(each for each in processes_of(plan.run) if process_name(each) == BRIDGE)
    calls, used = 0, 0.0
    forms = []
    for clients in (1, CLIENTS):
        milliseconds: dict[str, list[float]] = {form: [] for form in makers}
        for _ in range(ROUNDS):  # in turn, so that other load on the machine affects both forms
            for form, make in makers.items():
                before = sum(bridge.cpu_times()[:2])
                taken = _ask([make() for _ in range(clients)], seconds / 2 / ROUNDS)
                milliseconds[form] += taken
                if form == "gRPC":
                    used, calls = used + sum(bridge.cpu_times()[:2]) - before, calls + len(taken)
        for form, found in milliseconds.items():
            p50, p99 = np.percentile(found, [50, 99])
            rate = len(found) / (seconds / 2)
            forms.append({"form": form, "clients": clients, "p50_ms": p50, "p99_ms": p99, "per_second": rate})
    memory = bridge.memory_info().rss / 2**20
    return {"rows": rows, "forms": forms, "bridge_cpu_ms": used / calls * 1_000, "bridge_mb": memory}


def _ask(clients: list[Callable[[], object]], seconds: float) -> list[float]:
    """Return the milliseconds of each request that ``clients`` sent at once in ``seconds``."""
    found: list[float] = []

    def one(ask: Callable[[], object]) -> None:
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            ask()
            found.append((time.perf_counter() - started) * 1_000)

    threads = [threading.Thread(target=one, args=(each,)) for each in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _rest(plan: ProcessPlan, subject: Subject, rows: int) -> Callable[[], object]:
    inputs = [
        {"name": name, "datatype": datatype, "shape": [rows], "data": [value] * rows}
        for name, datatype, value in _columns(subject)
    ]
    body = json.dumps({"inputs": inputs})
    connection = http.client.HTTPConnection(plan.host, plan.gateway_port)

    def ask() -> bytes:
        path = f"/v2/models/{subject.contract.model}/infer"
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            sys.exit(content.decode())
        return content

    return ask


def _grpc(plan: ProcessPlan, subject: Subject, rows: int) -> Callable[[], object]:
    request = message("ModelInferRequest")(model_name=subject.contract.model)
    for name, datatype, value in _columns(subject):
        request.inputs.add(name=name, datatype=datatype, shape=[rows])
        content = str(value).encode()
        one = len(content).to_bytes(4, "little") + content if datatype == "BYTES" else np.array(value, "<f8").tobytes()
        request.raw_input_contents.append(one * rows)
    # Each client has a connection of its own.
    channel = grpc.insecure_channel(f"{plan.host}:{plan.gateway_port}", [("grpc.use_local_subchannel_pool", 1)])
    ask = channel.unary_unary(f"/{SERVICE}/ModelInfer", request_serializer=lambda each: each.SerializeToString())
    return lambda: ask(request)


def _columns(subject: Subject) -> list[tuple[str, str, Any]]:
    """Return name, datatype and value of each field; numbers are FP64 here, and all others texts."""
    return [(name, "FP64" if isinstance(value, int | float) else "BYTES", value) for name, value in subject.row.items()]


def _wait_until_ready(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            ask()
            return
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
