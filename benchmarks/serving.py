"""Latency and throughput of the endpoint, direct and through the gateway, beside bare uvicorn + orjson.

`python benchmarks/serving.py [--seconds 4] [--rows 1] [--json]`. The same booster, asked in turns in one run by one
client over kept connections; the ratio to the bare server is what the platform costs.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl

from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online import Snapshot
from ml_platform.features.snapshot import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.serving.contract import RequestContract
from ml_platform.serving.package import build_bento, verify_bento
from ml_platform.serving.processes import Plan, free_port, serve_temporarily
from ml_platform.serving.wanted import Release, WantedState, swap_wanted

FEATURES, ENTITIES, TREES = 50, 1000, 300
LOCK = Path(__file__).parents[1] / "requirements.lock"
ROUNDS = 3
BARE = """
import asyncio, json, sys
import lightgbm, numpy, orjson, uvicorn
booster = lightgbm.Booster(model_file=sys.argv[1])
facts = {name: values for name, values in json.load(open(sys.argv[2])).items()}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive(); await send({"type": "lifespan.startup.complete"}); await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    rows = orjson.loads(body)["rows"]
    scores = booster.predict(numpy.array([facts[row["entity"]] for row in rows], dtype=numpy.float32), num_threads=1)
    answer = orjson.dumps({"predictions": [{"score": score, "label": score >= 0.5} for score in scores.tolist()]})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})
uvicorn.run(app, port=int(sys.argv[3]), log_level="error", access_log=False)
"""


def main() -> None:
    """Build, serve, ask, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=4.0, help="how long each is asked, in all")
    options.add_argument("--rows", type=int, default=1, help="rows in a request")
    options.add_argument("--connections", type=int, default=8, help="connections when throughput is measured")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), asked.seconds, asked.rows, asked.connections)
    print(json.dumps(result) if asked.json else table(result))


def measure(root: Path, seconds: float, rows: int, connections: int) -> dict[str, Any]:
    """Return milliseconds and requests per second of each way to be asked, and the seconds of building and starting."""
    contract, facts, scores = write_model(root)
    started = time.perf_counter()
    package = build_bento(root / "model", contract, version="1", bentos_root=root / "bentos", lock=LOCK)
    built = time.perf_counter() - started
    request = [{"entity": f"e{place}"} for place in range(rows)]
    verify_bento(package, request, scores[:rows], online_root=root / "online")
    plan = Plan(
        run=root / "run",
        logs=root / "logs",
        serving=root / "serving",
        online=root / "online",
        predictions=root / "predictions",
        gateway_port=free_port(),
        admin_port=free_port(),
    )
    wanted = WantedState(stable=Release(version="1", bento=str(package.path)), weights={"stable": 100})
    swap_wanted(plan.serving / contract.model, wanted, 0)
    body = json.dumps({"rows": request}).encode()
    started = time.perf_counter()
    with serve_temporarily(plan), bare(root, facts) as bare_port:
        ready = time.perf_counter() - started
        direct_port = int(next(plan.run.glob("*.port")).read_text())
        ports = {"bare": bare_port, "direct": direct_port, "gateway": plan.gateway_port}
        found: dict[str, dict[str, list[float]]] = {name: {"milliseconds": [], "rates": []} for name in ports}
        for _ in range(ROUNDS):  # in turns, so that a busy moment of the machine hits all alike
            for name, port in ports.items():
                found[name]["milliseconds"] += ask(port, contract.path, body, seconds / ROUNDS / 2)
                found[name]["rates"].append(load(port, contract.path, body, seconds / ROUNDS / 2, connections))
    ways = {name: summary(each["milliseconds"], each["rates"]) for name, each in found.items()}
    for way in ways.values():
        way["latency_ratio"] = way["p50_ms"] / ways["bare"]["p50_ms"]
        way["throughput_ratio"] = way["requests_per_second"] / ways["bare"]["requests_per_second"]
    about = {"rows": rows, "features": FEATURES, "trees": TREES, "connections": connections}
    return {**about, "build_seconds": built, "ready_seconds": ready, "ways": ways}


def write_model(root: Path) -> tuple[RequestContract, pl.DataFrame, list[float]]:
    """Write a made-up model and its online features under ``root``; return contract, facts, and their scores."""
    rng = np.random.default_rng(1)
    names = [f"f{place}" for place in range(FEATURES)]
    values = rng.normal(size=(ENTITIES, FEATURES)).astype(np.float32)
    known = datetime(2013, 1, 1, tzinfo=UTC)
    facts = pl.DataFrame(values, schema=names).with_columns(
        entity=pl.Series([f"e{place}" for place in range(ENTITIES)]), known_at=pl.lit(known)
    )
    view = FeatureView.model_validate(
        {
            "name": "facts",
            "entity": ["entity"],
            "function": "made.up:facts",
            "code_version": "1",
            "features": [{"name": name, "description": name} for name in names],
        }
    )
    SnapshotStore(root / "online").publish(Snapshot(view, facts, known))
    features = FeatureSet([view])
    encoder = Encoder(tuple(features.feature_names), {})
    label = (values[:, :5].sum(axis=1) + rng.normal(size=ENTITIES) > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(values, label), TREES)
    contract = RequestContract.model_validate({"model": "made_up", "fields": [{"name": "entity", "type": "string"}]})
    held: dict[str, Any] = {
        "model.json": {
            "format": "ml_platform/1",
            "trainer": "lightgbm",
            "task": "classification",
            "threshold": 0.5,
        },
        "calibration.json": {"method": "none"},
        "features.json": features.to_dict(),
        "contract.json": contract.model_dump(),
    }
    directory = root / "model"
    directory.mkdir()
    for name, value in held.items():
        (directory / name).write_text(json.dumps(value))
    (directory / "encoder.json").write_text(encoder.to_json())
    booster.save_model(directory / "model.txt")
    return contract, facts, np.asarray(booster.predict(values)).tolist()


@contextmanager
def bare(root: Path, facts: pl.DataFrame) -> Iterator[int]:
    """Serve the same booster by uvicorn and orjson alone; yield its port once it answers."""
    values = facts.drop("entity", "known_at").to_numpy().tolist()
    (root / "facts.json").write_text(json.dumps(dict(zip(facts["entity"].to_list(), values, strict=True))))
    port = free_port()
    arguments = [str(root / "model" / "model.txt"), str(root / "facts.json"), str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, "-c", BARE, *arguments], env=environment)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                threading.Event().wait(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


def ask(port: int, path: str, body: bytes, seconds: float) -> list[float]:
    """Return the milliseconds of each request made for ``seconds`` over one connection; refuses any answer but 200."""
    length = str(len(body)).encode()
    request = (
        b"POST " + path.encode() + b" HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\ncontent-length: "
        b"" + length + b"\r\n\r\n" + body
    )
    found = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            connection.sendall(request)
            read_answer(connection)
            found.append((time.perf_counter() - started) * 1000)
    return found


def read_answer(connection: socket.socket) -> None:
    """Read one whole answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"not answered: {data[:300]!r}")
    (length,) = (
        int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)


def load(port: int, path: str, body: bytes, seconds: float, connections: int) -> float:
    """Return the requests per second that ``connections`` at once get answered."""
    counts = [0] * connections

    def one(place: int) -> None:
        counts[place] = len(ask(port, path, body, seconds))

    threads = [threading.Thread(target=one, args=(place,)) for place in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def summary(milliseconds: list[float], rates: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "requests_per_second": float(np.median(rates)),
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as a table for people."""
    head = "{rows} row(s) a request, {features} features, {trees} trees; built in {build_seconds:.1f} s, ".format(
        **result
    )
    lines = [head + f"ready in {result['ready_seconds']:.1f} s", ""]
    lines.append(f"{'':<10}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'req/s':>9}{'latency ×':>11}{'req/s ×':>9}")
    for name, way in result["ways"].items():
        lines.append(
            f"{name:<10}{way['p50_ms']:>9.3f}{way['p95_ms']:>9.3f}{way['p99_ms']:>9.3f}"
            f"{way['requests_per_second']:>9.0f}{way['latency_ratio']:>11.2f}{way['throughput_ratio']:>9.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
