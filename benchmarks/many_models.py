"""Many models in one host: memory, start, and what one costs another: `python -m benchmarks.many_models [--json]`.

Each model is a small LightGBM booster of its own with a bento of its own. All have equal code and read one feature
view. The memory is the proportional set size (PSS), which divides each page among the processes that share it. The
times of one model are measured alone, while another one is flooded (by `wrk`, if it is installed), while that one is
flooded in a process apart, and while others are loaded, in turns. `--models` sets the number of models.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.serving import LOCK, Server, ask, load
from bento.host_plan import PLAN_FILE, STATUS_FILE, HostedService, HostPlan, HostStatus
from ml_platform.data.atomic import write_json, write_text
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import Snapshot
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.serving.bento_build import build_bento
from ml_platform.serving.bento_digest import DIGEST_DIGITS, code_digest, content_digest
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.request_contract import RequestContract
from ml_platform.serving.smoke_test import ONE_THREAD_ENVIRONMENT

FEATURES, ENTITIES, TREES = 12, 1000, 100
LOADED = 10
"""Models that stay loaded in the measurement of models that are loaded on demand."""

ROUNDS, CONNECTIONS = 5, 16
PACE_SECONDS = 0.004
BODY = json.dumps({"rows": [{"entity": "e7"}]}).encode()


def main() -> None:
    """Build the bentos, serve them, print the measurements."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--models", type=int, default=50, help="number of models")
    options.add_argument("--seconds", type=float, default=4.0, help="seconds of each phase of a round")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.models, arguments.seconds)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


def measure(root: Path, models: int, seconds: float) -> dict[str, Any]:
    """Return the measurements of ``models`` models."""
    bentos = build_bentos(root, models)
    result: dict[str, Any] = {"models": models}
    with alone(root, bentos["model_0"]) as (process, port, started_s):
        ask(Server(port, "/v1/model_0/predict", BODY), 0.5)
        result["process"] = {"start_s": started_s, "pss_mb": pss_mb([process])}
        with hosted(root / "warm", root, bentos, warm=True) as host:
            result["warm"] = {"start_s": host.start_s, **host.memory(list(bentos))}
            result["p99"] = interference(host, Server(port, "/v1/model_0/predict", BODY), seconds)
    with hosted(root / "lazy", root, bentos, warm=False, max_loaded=LOADED) as host:
        result["on_demand"] = {"loaded": LOADED, **host.memory([]), "cold_starts": cold_starts(host)}
    return result


def build_bentos(root: Path, models: int) -> dict[str, Path]:
    """Return the bentos of ``models`` models with equal code: one is built, and the others are copies of its code."""
    known = datetime(2013, 1, 1, tzinfo=UTC)
    rng = np.random.default_rng(1)
    names = [f"f{place}" for place in range(FEATURES)]
    values = rng.normal(size=(ENTITIES, FEATURES)).astype(np.float32)
    view = FeatureView.model_validate(
        {
            "name": "facts",
            "entity": ["entity"],
            "function": "made.up:facts",
            "code_version": "1",
            "features": [{"name": name, "description": name} for name in names],
        }
    )
    entity = pl.Series("entity", [f"e{place}" for place in range(ENTITIES)])
    facts = pl.DataFrame(values, schema=names).with_columns(entity, known_at=pl.lit(known))
    SnapshotStore(root / "online").publish(Snapshot(view, facts, known))
    features = FeatureSet([view])
    contract = RequestContract.model_validate({"model": "model_0", "fields": [{"name": "entity", "type": "string"}]})
    model_dir = root / "model"
    model_dir.mkdir()
    description = {"format": "ml_platform/1", "trainer": "lightgbm", "task": "binary", "threshold": 0.5}
    files = {"model.json": description, "calibration.json": {"method": "none"}, "features.json": features.to_dict()}
    for name, content in files.items():
        (model_dir / name).write_text(json.dumps(content))
    (model_dir / "encoder.json").write_text(Encoder(tuple(features.feature_names), {}).to_json())
    train(values, 0, model_dir / "model.txt")
    built = build_bento(model_dir, contract, version="1", bentos_root=root / "bentos", locks=BentoLocks(LOCK))
    bentos = {"model_0": built.path}
    for number in range(1, models):
        model = f"model_{number}"
        staged = root / "staged"
        shutil.copytree(built.path, staged)
        source = staged / "src"
        package = json.loads((source / "package.json").read_text())
        write_json(source / "package.json", {**package, "model": model, "path": f"/v1/{model}/predict"})
        renamed = contract.model_copy(update={"model": model})
        (source / "model" / "contract.json").write_text(renamed.model_dump_json())
        train(values, number, source / "model" / "model.txt")
        bentos[model] = staged.rename(root / f"{model}-1-{content_digest(staged)[:DIGEST_DIGITS]}")
    return bentos


def train(values: np.ndarray, seed: int, file: Path) -> None:
    """Train a small booster whose label depends on ``seed``, and write it to ``file``."""
    rng = np.random.default_rng(seed)
    label = (values @ rng.normal(size=FEATURES) + rng.normal(size=len(values)) > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": 31, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    lightgbm.train(settings, lightgbm.Dataset(values, label), TREES).save_model(file)


class MeasuredHost:
    """A running host in ``folder`` with all its files; ``start_s`` is the time until all models were ready."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", services: list[HostedService]) -> None:
        self.folder, self.process, self.start_s = folder, process, 0.0
        self.services = {each.name: each for each in services}

    @property
    def status(self) -> HostStatus:
        return HostStatus.model_validate_json((self.folder / STATUS_FILE).read_bytes())

    def server(self, model: str) -> Server:
        port = int(self.services[model].port_file.read_text())
        return Server(port, f"/v1/{model}/predict", BODY)

    def memory(self, models: list[str]) -> dict[str, float]:
        """Return the memory of the host and all its workers, after requests to ``models``."""
        for model in models:
            ask(self.server(model), 0.05)
        workers = [each.pid for each in self.status.services.values() if each.pid is not None]
        private = [psutil.Process(pid).memory_full_info().uss / 2**20 for pid in workers]
        return {
            "workers": len(workers),
            "pss_mb": pss_mb([self.process.pid, *workers]),
            "pss_of_host_mb": pss_mb([self.process.pid]),
            "private_mb_of_a_worker": float(np.median(private)),
        }


@contextmanager
def hosted(folder: Path, root: Path, bentos: dict[str, Path], *, warm: bool, **settings: Any) -> Iterator[MeasuredHost]:
    """Run a host of ``bentos`` and yield it when all its models are ready."""
    folder.mkdir()
    services = [
        HostedService(
            name=name,
            bento=bento,
            port_file=folder / f"{name}.port",
            log=folder / f"{name}.log",
            predictions=folder / "predictions" / name,
            warm=warm,
        )
        for name, bento in bentos.items()
    ]
    code = code_digest(services[0].bento)
    plan = HostPlan(code=code, online=str(root / "online"), services=services, **settings)
    write_text(folder / PLAN_FILE, plan.model_dump_json())
    started = time.perf_counter()
    command = [sys.executable, "-m", "ml_platform.serving.host_server", str(folder), str(folder / "host.log")]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: all(each.port_file.exists() for each in services), process)
        found = MeasuredHost(folder, process, services)
        found.start_s = time.perf_counter() - started
        yield found
    finally:
        process.terminate()
        process.wait()


@contextmanager
def alone(root: Path, bento: Path) -> Iterator[tuple[int, int, float]]:
    """Run ``bento`` in a process apart, and yield its process, its port and the seconds until it was ready."""
    port_file, environment = root / "alone.port", {**os.environ, **ONE_THREAD_ENVIRONMENT}
    environment |= {"ML_PLATFORM_ONLINE": str(root / "online"), "ML_PLATFORM_PREDICTION_LOG": str(root / "alone")}
    arguments = [str(bento), str(port_file), str(root / "alone.log")]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "ml_platform.serving.bento_server", *arguments], env=environment)
    try:
        wait_until(port_file.exists, process)
        port = int(port_file.read_text())
        ask(Server(port, "/v1/model_0/predict", BODY), 0.001)  # the socket listens before the model is loaded
        yield process.pid, port, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def cold_starts(host: MeasuredHost) -> dict[str, float]:
    """Return the milliseconds of first requests to unloaded models."""
    unloaded = [name for name, each in host.status.services.items() if each.state == "unloaded"]
    times = []
    for name in unloaded[:LOADED]:  # a model that was just used is not unloaded for the next one
        started = time.perf_counter()
        ask(host.server(name), 0.0001)
        times.append((time.perf_counter() - started) * 1000)
    return {"count": len(times), "median_ms": float(np.median(times)), "max_ms": max(times)}


def interference(host: MeasuredHost, apart: Server, seconds: float) -> dict[str, dict[str, float]]:
    """Return the times of `model_1` alone, beside floods and beside loads, each with its ratio to the time alone."""
    subject, stopping = host.server("model_1"), threading.Event()

    def restarts() -> None:
        # The host loads a model again whose worker was killed.
        names = [name for name in host.services if name != "model_1"]
        while not stopping.wait(0.3):
            pid = host.status.services[names[0]].pid
            names.append(names.pop(0))
            if pid is not None:
                psutil.Process(pid).kill()

    def flood(server: Server) -> Callable[[], Any]:
        return lambda: load(server, seconds + 1, CONNECTIONS)

    phases: dict[str, Callable[[], Any]] = {
        "alone": lambda: None,
        "other_flooded": flood(host.server("model_0")),
        "process_apart_flooded": flood(apart),
        "others_loaded": restarts,
    }
    found: dict[str, list[list[float]]] = {name: [] for name in phases}
    paced(subject, 1.0)
    for _ in range(ROUNDS):
        for name, phase in phases.items():
            stopping.clear()
            beside = threading.Thread(target=phase)
            beside.start()
            stopping.wait(0.5)
            found[name].append(paced(subject, seconds))
            stopping.set()
            beside.join()
            wait_until(lambda: all(each.state == "loaded" for each in host.status.services.values()), host.process)
    summary = {}
    for name, rounds in found.items():
        p50, p99 = np.median([np.percentile(each, [50, 99]) for each in rounds], axis=0).tolist()
        summary[name] = {"p50_ms": p50, "p99_ms": p99}
    return {name: {**each, "p99_ratio": each["p99_ms"] / summary["alone"]["p99_ms"]} for name, each in summary.items()}


def paced(server: Server, seconds: float) -> list[float]:
    """Return the milliseconds of requests that begin at a fixed pace, so that load beside them loses none."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    pause = threading.Event()
    while time.perf_counter() < until:
        times += ask_once(server)
        pause.wait(PACE_SECONDS)
    return times


def ask_once(server: Server) -> list[float]:
    return ask(server, 0.0001)


def pss_mb(pids: list[int]) -> float:
    """Return the proportional set size of the processes ``pids``."""
    return float(sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 2**20)


def wait_until(reached: Callable[[], bool], process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    """Return when ``reached`` is true; raise when ``process`` ended or ``seconds`` are over."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("expected ready services, found none in time; see the logs of the run")
        pause.wait(0.01)


def show(result: dict[str, Any]) -> None:
    """Print the measurements as tables."""
    process, warm, lazy = result["process"], result["warm"], result["on_demand"]
    table = Table("", "workers", "PSS MB", "start", title=f"{result['models']} models")
    table.add_row("one model, a process apart", "1", f"{process['pss_mb']:.0f}", f"{process['start_s']:.2f} s")
    table.add_row("all loaded in a host", f"{warm['workers']}", f"{warm['pss_mb']:.0f}", f"{warm['start_s']:.1f} s")
    starts = lazy["cold_starts"]
    text = f"first request {starts['median_ms']:.0f} ms, at most {starts['max_ms']:.0f} ms"
    table.add_row(f"{lazy['loaded']} loaded, others on demand", f"{lazy['workers']}", f"{lazy['pss_mb']:.0f}", text)
    Console().print(table)
    table = Table("one model", "p50 ms", "p99 ms", "p99 ratio", title="One row at a fixed pace")
    for name, each in result["p99"].items():
        row = [f"{each[key]:.2f}" for key in ("p50_ms", "p99_ms", "p99_ratio")]
        table.add_row(name.replace("_", " "), *row)
    Console().print(table)


if __name__ == "__main__":
    main()
