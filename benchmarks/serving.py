"""Latency and throughput of the endpoint, direct and through the gateway, compared with uvicorn + orjson; and by stage.

`python benchmarks/serving.py [--home HOME] [--seconds 6] [--rows 1] [--others] [--json]`. One client sends requests for
the same booster to each server in turn, over persistent connections. The ratio to the bare server is the cost of the
platform; `in turns` is the ratio of times for one client whose turns are a few requests long, so that other load
affects all servers alike. Without `--home`, the model is synthetic and as large as a real one. With `--home`, it is the
champion of that home with its online features, in a bento built from the current code or, with `--deployed`, in the
deployed bento. `--others` measures the service of BentoML's tutorial and `mlflow models serve` too, each with features
in memory.

`wrk` measures the throughput where it is installed, else threads of this process, which are slower than the servers.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np
import orjson
import polars as pl
from rich.console import Console
from rich.table import Table

from bento.prediction_id import PredictionIds
from bento.prediction_log import AnsweredRequest, blocks_of
from bento.predictor import Predictor
from ml_platform.data.log_block import pack_block
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import Snapshot
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.serving.bento_build import build_bento
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.desired_state import DesiredState, ServedVersion, all_desired_states, swap_desired_state
from ml_platform.serving.processes import ProcessPlan, free_port, serve_temporarily
from ml_platform.serving.request_contract import RequestContract
from ml_platform.state.store import StateStore

VIEWS, FEATURES_OF_A_VIEW, ENTITIES, TREES = 20, 12, 1000, 400
LOCK = Path(__file__).parents[1] / "requirements.lock"
ROUNDS = 3
STAGE_ROUNDS = 300
TURN_REQUESTS, WARM_REQUESTS = 24, 4
RATIOS = ("ratio_in_turns", "ratio_lower_quartile", "ratio_upper_quartile")
BARE = """
import asyncio, sys
import lightgbm, numpy, orjson, uvicorn
booster = lightgbm.Booster(model_file=sys.argv[1])
facts = numpy.load(sys.argv[2])
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
    scores = booster.predict(facts[: len(rows)], num_threads=1)
    answer = orjson.dumps({"predictions": [{"score": score, "label": score >= 0.5} for score in scores.tolist()]})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})
uvicorn.run(app, port=int(sys.argv[3]), log_level="error", access_log=False)
"""


TUTORIAL = """
import bentoml, lightgbm, numpy

@bentoml.service
class Tutorial:
    def __init__(self):
        self.booster = lightgbm.Booster(model_file={model!r})

    @bentoml.api
    def predict(self, rows: list[list[float | None]]) -> list[float]:
        return self.booster.predict(numpy.array(rows, dtype=float)).tolist()
"""


@dataclass(frozen=True)
class Server:
    """A server on loopback, and the request that it answers."""

    port: int
    path: str
    body: bytes


@dataclass(frozen=True)
class Subject:
    """The served model: its bento, contract, model directory and online features, and one valid request row.

    ``trusted_keys`` has the public key that signed the bento; None for one that is not signed.
    """

    bento: Path
    contract: RequestContract
    model_dir: Path
    online: Path
    row: dict[str, Any]
    build_seconds: float
    trusted_keys: Path | None = None


def main() -> None:
    """Build and serve the bento, send requests, print the measurements."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--home", type=Path, help="home whose champion is served; default: a synthetic model")
    options.add_argument("--deployed", action="store_true", help="serve the bento deployed in that home")
    options.add_argument("--seconds", type=float, default=6.0, help="total seconds of requests to each server")
    options.add_argument("--rows", type=int, default=1, help="rows per request")
    options.add_argument("--connections", type=int, default=8, help="concurrent connections for the throughput")
    options.add_argument("--others", action="store_true", help="measure BentoML's tutorial and mlflow models serve too")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subject = of_home(arguments.home, root, deployed=arguments.deployed) if arguments.home else made_up(root)
        result = measure(
            subject, root, arguments.seconds, arguments.rows, arguments.connections, others=arguments.others
        )
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


def made_up(root: Path) -> Subject:
    """Return a synthetic model with as many features and views as a real one."""
    contract = write_model(root)
    return built(root / "model", contract, root / "online", {"entity": "e0"}, root)


def of_home(home: Path, root: Path, *, deployed: bool) -> Subject:
    """Return the stable version of the first model that ``home`` serves."""
    state = next(iter(all_desired_states(StateStore(path=home / "state.db")).readable.values()))
    if state.stable is None:
        raise SystemExit(f"{home} serves no model: run the demo on it first.")
    bento = home / "bentos" / state.stable.bento
    model_dir = bento / "src" / "model"
    contract = RequestContract.model_validate(json.loads((model_dir / "contract.json").read_text()))
    row = {field.name: field.examples[0] for field in contract.fields}
    if deployed:
        return Subject(bento, contract, model_dir, home / "online", row, 0.0, SigningKeys(home / "signing").trusted)
    return built(model_dir, contract, home / "online", row, root)


def built(model_dir: Path, contract: RequestContract, online: Path, row: dict[str, Any], root: Path) -> Subject:
    """Build a bento of the model in ``model_dir`` and return it as a subject."""
    started = time.perf_counter()
    package = build_bento(model_dir, contract, version="1", bentos_root=root / "bentos", locks=BentoLocks(LOCK))
    return Subject(package.path, contract, model_dir, online, row, time.perf_counter() - started)


def process_plan(subject: Subject, root: Path) -> ProcessPlan:
    """Return the plan of gateway and service of ``subject``, with their files in ``root``."""
    desired = DesiredState(stable=ServedVersion(version="1", bento=subject.bento.name), weights={"stable": 100})
    swap_desired_state(StateStore.in_folder(root), subject.contract.model, desired, 0)
    return ProcessPlan(
        run=root / "run",
        logs=root / "logs",
        state=str(root / "state.db"),
        bentos=subject.bento.parent,
        trusted_keys=subject.trusted_keys,
        online=str(subject.online),
        predictions=root / "predictions",
        gateway_port=free_port(),
        workers=len(os.sched_getaffinity(0)),
    )


def measure(
    subject: Subject, root: Path, seconds: float, rows: int, connections: int, *, others: bool = False
) -> dict[str, Any]:
    """Return milliseconds and requests per second of each server, milliseconds of each stage, and seconds to start."""
    plan = process_plan(subject, root)
    body = json.dumps({"rows": [subject.row] * rows}).encode()
    predictor = Predictor(subject.model_dir, SnapshotStore(subject.online))
    features = predictor.predict(subject.contract.validate(body), datetime.now(UTC)).served.encode(predictor.encoder)
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(serve_temporarily(plan))
        ready = time.perf_counter() - started
        direct_port = int(next(plan.run.glob("*.port")).read_text())
        path = subject.contract.path
        servers = {
            "bare": Server(stack.enter_context(bare(subject.model_dir, features)), path, body),
            "direct": Server(direct_port, path, body),
            "gateway": Server(plan.gateway_port, path, body),
        }
        if others:
            matrix = np.repeat(features[:1], rows, axis=0).tolist()
            tutorial_body = json.dumps({"rows": matrix}).encode()
            servers["BentoML tutorial"] = Server(
                stack.enter_context(tutorial(subject.model_dir, root)), "/predict", tutorial_body
            )
            mlflow_body = json.dumps({"inputs": np.nan_to_num(np.array(matrix)).tolist()}).encode()
            servers["mlflow models serve"] = Server(
                stack.enter_context(mlflow_server(subject.model_dir, root)), "/invocations", mlflow_body
            )
        found: dict[str, dict[str, list[float]]] = {
            name: {"milliseconds": [], "rates": [], "alone": [], "many": []} for name in servers
        }
        part = seconds / ROUNDS / 4
        for _ in range(ROUNDS):  # in turn, so that other load on the machine affects all servers
            for name, server in servers.items():
                found[name]["milliseconds"] += ask(server, part)
                for key, count in (("alone", 1), ("rates", connections), ("many", 4 * connections)):
                    found[name][key].append(load(server, part, count))
        ratios = in_turns(servers, seconds)
    ways = {name: summary(each) for name, each in found.items()}
    for name, way in ways.items():
        way |= ratios[name]
        way["latency_ratio"] = way["p50_ms"] / ways["bare"]["p50_ms"]
        for key in ("requests_per_second_alone", "requests_per_second", "requests_per_second_many"):
            way[key.replace("requests_per_second", "throughput_ratio")] = way[key] / ways["bare"][key]
    about = {"rows": rows, "features": features.shape[1], "views": len(predictor.features.views)}
    return {
        **about,
        "connections": connections,
        "build_seconds": subject.build_seconds,
        "ready_seconds": ready,
        "ways": ways,
        "stages_ms": stages(predictor, body),
    }


def stages(predictor: Predictor, body: bytes) -> dict[str, float]:
    """Return the median milliseconds of each stage of a request, measured one after the other in this process.

    All stages except the log are part of the latency. A separate thread writes the log, in turn with requests.
    """
    now = datetime.now(UTC)
    request = predictor.contract.validate(body)
    prediction = predictor.predict(request, now)
    served, rows = prediction.served, predictor.rows_together([(request, now)])
    matrix = served.encode(predictor.encoder)
    answer = [{"score": score, "label": True} for score in prediction.scores]
    ids = PredictionIds()

    def logged() -> None:
        # A served result caches its computations, so the log gets a new one, as in the thread of the service.
        fresh = predictor.predict(request, now)
        answered = AnsweredRequest(ids.next(), "id", "stable", now, request.rows, fresh)
        began = time.perf_counter()
        for block in blocks_of([answered]):
            pack_block(block)
        elapsed["log (another thread)"].append(time.perf_counter() - began)

    timed: dict[str, Callable[[], object]] = {
        "validate": lambda: predictor.contract.validate(body),
        "rows by column": lambda: predictor.rows_together([(request, now)]),
        "request views and lookup": lambda: predictor.features.serving_plan.serve(rows, predictor.store),
        "encode": lambda: served.encode(predictor.encoder),
        "score": lambda: predictor.scorer.predict(matrix),
        "respond": lambda: orjson.dumps({"predictions": answer}),
    }
    elapsed: dict[str, list[float]] = {name: [] for name in (*timed, "log (another thread)")}
    for _ in range(STAGE_ROUNDS):
        for name, action in timed.items():
            started = time.perf_counter()
            action()
            elapsed[name].append(time.perf_counter() - started)
        logged()
    return {name: float(np.median(seconds)) * 1000 for name, seconds in elapsed.items()}


def write_model(root: Path) -> RequestContract:
    """Write a synthetic model and its online features under ``root`` and return its contract."""
    rng = np.random.default_rng(1)
    known = datetime(2013, 1, 1, tzinfo=UTC)
    entity = pl.Series("entity", [f"e{place}" for place in range(ENTITIES)])
    views, blocks = [], []
    for number in range(VIEWS):
        names = [f"f{place}" for place in range(FEATURES_OF_A_VIEW)]
        values = rng.normal(size=(ENTITIES, FEATURES_OF_A_VIEW)).astype(np.float32)
        facts = pl.DataFrame(values, schema=names).with_columns(entity, known_at=pl.lit(known))
        view = FeatureView.model_validate(
            {
                "name": f"facts_{number}",
                "entity": ["entity"],
                "function": "made.up:facts",
                "code_version": "1",
                "features": [{"name": name, "description": name} for name in names],
            }
        )
        SnapshotStore(root / "online").publish(Snapshot(view, facts, known))
        views.append(view)
        blocks.append(values)
    features = FeatureSet(views)
    matrix = np.hstack(blocks)
    label = (matrix[:, :5].sum(axis=1) + rng.normal(size=ENTITIES) > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": 63, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(matrix, label), TREES)
    contract = RequestContract.model_validate({"model": "made_up", "fields": [{"name": "entity", "type": "string"}]})
    results: dict[str, Any] = {
        "model.json": {
            "format": "ml_platform/1",
            "trainer": "lightgbm",
            "task": "binary",
            "threshold": 0.5,
        },
        "calibration.json": {"method": "none"},
        "features.json": features.to_dict(),
        "contract.json": contract.model_dump(),
    }
    directory = root / "model"
    directory.mkdir()
    for name, value in results.items():
        (directory / name).write_text(json.dumps(value))
    (directory / "encoder.json").write_text(Encoder(tuple(features.feature_names), {}).to_json())
    booster.save_model(directory / "model.txt")
    return contract


@contextmanager
def bare(model_dir: Path, features: np.ndarray) -> Iterator[int]:
    """Serve the same booster with only uvicorn and orjson, with features in memory; yield its port once it is ready."""
    facts = Path(tempfile.mkdtemp()) / "features.npy"
    np.save(facts, features)
    port = free_port()
    with process(["-c", BARE, str(model_dir / "model.txt"), str(facts), str(port)], port):
        yield port


@contextmanager
def tutorial(model_dir: Path, root: Path) -> Iterator[int]:
    """Serve the booster as BentoML's tutorial does, with features in memory; yield its port once it is ready."""
    folder = root / "tutorial"
    folder.mkdir()
    (folder / "service.py").write_text(TUTORIAL.format(model=str(model_dir / "model.txt")))
    port = free_port()
    command = ["-m", "bentoml", "serve", "service:Tutorial", "--port", str(port), "--host", "127.0.0.1"]
    with process(command, port, cwd=folder):
        yield port


@contextmanager
def mlflow_server(model_dir: Path, root: Path) -> Iterator[int]:
    """Serve the booster by `mlflow models serve`; yield its port once it is ready."""
    import mlflow.lightgbm

    folder = root / "mlflow_model"
    mlflow.lightgbm.save_model(lightgbm.Booster(model_file=model_dir / "model.txt"), folder)
    port = free_port()
    command = ["-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local", "--port", str(port)]
    with process([*command, "--workers", "1"], port):
        yield port


@contextmanager
def process(arguments: Sequence[str], port: int, cwd: Path | None = None) -> Iterator[None]:
    """Run Python with ``arguments`` until the block ends; wait until ``port`` takes connections."""
    # `mlflow models serve` looks for uvicorn in PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True"}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit(f"{arguments} ended with {server.returncode}") from None
                threading.Event().wait(0.05)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


class Client:
    """One connection to a server, over which one request follows the other."""

    def __init__(self, server: Server) -> None:
        length = str(len(server.body)).encode()
        head = b"POST " + server.path.encode() + b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._request = head + b"content-length: " + length + b"\r\n\r\n" + server.body
        self._address = ("127.0.0.1", server.port)

    def __enter__(self) -> Self:
        self._connection = socket.create_connection(self._address)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self) -> float:
        """Return the milliseconds of a request; raise on any status but 200."""
        started = time.perf_counter()
        self._connection.sendall(self._request)
        read_answer(self._connection)
        return (time.perf_counter() - started) * 1000


def ask(server: Server, seconds: float) -> list[float]:
    """Return the milliseconds of each request sent for ``seconds`` over one connection; raise on any status but 200."""
    found = []
    until = time.perf_counter() + seconds
    with Client(server) as client:
        while time.perf_counter() < until:
            found.append(client.ask())
    return found


def in_turns(servers: dict[str, Server], seconds: float) -> dict[str, dict[str, float]]:
    """Return the ratio of the bare server's time to each server's for one client: the median and the quartiles.

    The servers take turns of a few requests in random order, and a round gives one ratio, so that a busy machine
    affects all of them alike.
    """
    order = random.Random(0)
    until = time.perf_counter() + seconds * len(servers)
    times: dict[str, list[float]] = {name: [] for name in servers}
    with ExitStack() as stack:
        clients = {name: stack.enter_context(Client(server)) for name, server in servers.items()}
        while time.perf_counter() < until:
            for name in order.sample(list(servers), len(servers)):
                found = [clients[name].ask() for _ in range(TURN_REQUESTS)]
                times[name].append(float(np.median(found[WARM_REQUESTS:])))
    bare_times = np.array(times["bare"])
    return {
        name: dict(zip(RATIOS, np.percentile(bare_times / np.array(found), [50, 25, 75]).tolist(), strict=True))
        for name, found in times.items()
    }


def read_answer(connection: socket.socket) -> None:
    """Read one complete response."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"expected status 200, found {data[:300]!r}")
    (length,) = (
        int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)


def load(server: Server, seconds: float, connections: int) -> float:
    """Return the responses per second over ``connections`` concurrent connections."""
    return wrk_load(server, seconds, connections) if shutil.which("wrk") else thread_load(server, seconds, connections)


def wrk_load(server: Server, seconds: float, connections: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        script, body = Path(folder) / "post.lua", Path(folder) / "body.json"
        body.write_bytes(server.body)
        script.write_text(
            'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
            f'local file = io.open("{body}", "rb")\nwrk.body = file:read("*a")\nfile:close()\n'
        )
        duration = f"{max(1, round(seconds))}s"
        address = f"http://127.0.0.1:{server.port}{server.path}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "-s", str(script), address]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed:
        raise RuntimeError(f"expected status 200 from {address}, found others: {printed}")
    return float(printed.partition("Requests/sec:")[2].split()[0])


def thread_load(server: Server, seconds: float, connections: int) -> float:
    counts = [0] * connections

    def one(place: int) -> None:
        counts[place] = len(ask(server, seconds))

    threads = [threading.Thread(target=one, args=(place,)) for place in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def summary(found: dict[str, list[float]]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(found["milliseconds"], [50, 95, 99])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "requests_per_second_alone": float(np.median(found["alone"])),
        "requests_per_second": float(np.median(found["rates"])),
        "requests_per_second_many": float(np.median(found["many"])),
    }


def show(result: dict[str, Any]) -> None:
    """Print the measurements as tables."""
    about = (
        f"{result['rows']} row(s) per request, {result['features']} features of {result['views']} views; "
        f"built in {result['build_seconds']:.1f} s, ready in {result['ready_seconds']:.1f} s"
    )
    counts = (1, result["connections"], 4 * result["connections"])
    columns = ("p50 ms", "p99 ms", "latency ×", "in turns", *(f"rps, {count} conn." for count in counts))
    ways = Table(
        "server", *columns, title="Endpoint: requests/s by connections, and the ratio to the bare server", caption=about
    )
    for name, way in result["ways"].items():
        figures = [f"{way[key]:.2f}" for key in ("p50_ms", "p99_ms", "latency_ratio")]
        figures.append(f"{way[RATIOS[0]]:.2f}")
        rates = [
            f"{way['requests_per_second' + end]:.0f} ({way['throughput_ratio' + end]:.2f} ×)"
            for end in ("_alone", "", "_many")
        ]
        ways.add_row(name, *figures, *rates)
    parts = Table("stage", "median ms", title="Stages of a request")
    for name, milliseconds in result["stages_ms"].items():
        parts.add_row(name, f"{milliseconds:.3f}")
    for each in (ways, parts):
        Console().print(each)


if __name__ == "__main__":
    main()
