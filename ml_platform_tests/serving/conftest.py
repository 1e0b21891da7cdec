"""A small real model and its real bentos, built once per session, for the tests of bentos and serving."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import polars as pl
import pytest

from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import Snapshot
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.serving.bento_build import BuiltBento, build_bento
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.request_contract import RequestContract

LOCK = Path(__file__).parents[2] / "requirements.lock"

CONTRACT = RequestContract.model_validate(
    {
        "model": "toy",
        "fields": [
            {"name": "carrier", "type": "string", "examples": ["UA"]},
            {"name": "distance", "type": "float"},
            {"name": "tail", "type": "string", "nullable": True},
            {"name": "departs", "type": "datetime", "examples": ["2013-07-01T08:30:00-04:00"]},
        ],
        "prediction_time": {"field": "departs", "minutes_before": 120},
    }
)
VIEW = FeatureView.model_validate(
    {
        "name": "delays",
        "entity": ["carrier"],
        "function": "assets.none:none",
        "code_version": "1",
        "tolerance_minutes": 600,
        "age": True,
        "features": [{"name": "mean", "description": "Mean delay", "type": "float32"}],
    }
)


@dataclass(frozen=True)
class ToyModel:
    """The model, the folder of its online features, and three rows with the scores of training."""

    model_dir: Path
    online: Path
    rows: list[dict[str, Any]]
    scores: list[float]


def row(carrier: str = "UA", distance: float = 500.0, tail: str | None = "N1") -> dict[str, Any]:
    return {"carrier": carrier, "distance": distance, "tail": tail, "departs": "2013-07-01T12:00:00+00:00"}


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyModel:
    return train_toy_model(tmp_path_factory.mktemp("toy"))


def train_toy_model(root: Path, trees: int = 5) -> ToyModel:
    """Train the model and write it to ``root``/model, its features to ``root``/online."""
    online = root / "online"
    known = datetime(2013, 7, 1, 9, 0, tzinfo=UTC)
    facts = pl.DataFrame({"carrier": ["AA", "UA"], "known_at": [known, known], "mean": [4.0, 40.0]})
    SnapshotStore(online).publish(Snapshot(VIEW, facts, datetime(2013, 7, 1, 9, 30, tzinfo=UTC)))
    features = FeatureSet([VIEW])
    rng = np.random.default_rng(3)
    frame = pl.DataFrame({"delays__mean": rng.normal(20, 15, 500), "delays__age_minutes": rng.uniform(0, 90, 500)})
    encoder = Encoder.fit(frame, features.feature_names)
    label = (frame["delays__mean"].to_numpy() > 20).astype(float)
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 4, "verbose": -1, "num_threads": 1},
        lightgbm.Dataset(encoder.transform(frame), label),
        num_boost_round=trees,
    )
    directory = root / "model"
    directory.mkdir()
    booster.save_model(directory / "model.txt")
    calibration = {"method": "isotonic", "x": [0.0, 0.5, 1.0], "y": [0.1, 0.4, 0.9]}
    files = {
        "model.json": {
            "format": "ml_platform/1",
            "name": "toy",
            "trainer": "lightgbm",
            "task": "binary",
            "threshold": 0.4,
            "feature_names": features.feature_names,
        },
        "calibration.json": calibration,
        "features.json": features.to_dict(),
        "contract.json": CONTRACT.model_dump(),
    }
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value))
    (directory / "encoder.json").write_text(encoder.to_json())
    # The prediction is made at 10:00, so the facts of 09:00 are an hour old; ZZ has no facts.
    feature_rows = np.array([[40.0, 60.0], [4.0, 60.0], [np.nan, np.nan]], dtype=np.float32)
    raw = lightgbm.Booster(model_file=directory / "model.txt").predict(feature_rows)
    scores = np.interp(np.asarray(raw), calibration["x"], calibration["y"])  # type: ignore[arg-type]
    return ToyModel(directory, online, [row("UA"), row("AA"), row("ZZ", tail=None)], scores.tolist())


@contextmanager
def running_envoy(gateway: Gateway) -> Iterator[None]:
    """Run the gateway until the end of the block."""
    quiet = subprocess.DEVNULL
    envoy = subprocess.Popen(gateway.command, cwd=gateway.folder, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        envoy.terminate()
        envoy.wait()


@contextmanager
def running_service(built_bento: BuiltBento, folder: Path, online: str) -> Iterator[str]:
    """Run the service of ``built_bento`` alone, with its files in ``folder``; yield its address once it is ready."""
    folder.mkdir(exist_ok=True)
    port_file = folder / "port"
    environment = {
        **os.environ,
        "ML_PLATFORM_ONLINE": online,
        "ML_PLATFORM_PREDICTION_LOG": str(folder / "predictions"),
    }
    command = ["-m", "ml_platform.serving.bento_server", str(built_bento.path), str(port_file), str(folder / "log")]
    server = subprocess.Popen([sys.executable, *command], env=environment)
    try:
        while not port_file.exists():
            assert server.poll() is None
            threading.Event().wait(0.02)
        url = f"http://127.0.0.1:{port_file.read_text()}"
        # The socket listens from the start, so this request waits until the model is loaded.
        assert httpx.get(f"{url}/readyz", timeout=60).text == "ready\n", (folder / "log").read_text()
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def bentos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bentos")


@pytest.fixture(scope="session")
def built_bento(toy: ToyModel, bentos: Path) -> BuiltBento:
    return build_bento(toy.model_dir, CONTRACT, version="1", bentos_root=bentos, locks=BentoLocks(LOCK))


@pytest.fixture(scope="session")
def second_bento(toy: ToyModel, bentos: Path) -> BuiltBento:
    return build_bento(toy.model_dir, CONTRACT, version="2", bentos_root=bentos, locks=BentoLocks(LOCK))
