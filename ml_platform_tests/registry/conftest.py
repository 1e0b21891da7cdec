"""Fixtures: a tracking store on SQLite, and small model directories."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ml_platform.registry.manifest import CodeInfo, HardwareInfo, Manifest
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.tracking import Tracking


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with empty tables, for servers; stores of this process make their own by a copy."""
    folder = tmp_path_factory.mktemp("mlflow")
    assert Tracking(f"sqlite:///{folder}/mlflow.db", folder / "artifacts").client
    return folder / "mlflow.db"


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    return Tracking(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")


@pytest.fixture
def registry(tracking: Tracking) -> ModelRegistry:
    return ModelRegistry(tracking)


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        model="departure_risk",
        partition="2013-06",
        trainer="lightgbm",
        tables={"datasets/flights": 6},
        training_set="a" * 64,
        training_rows=3,
        code=CodeInfo(commit="c0ffee", dirty=False, sha256="b" * 64),
        lock="d" * 64,
        parameters={"num_leaves": 31},
        seeds={"fit": 1},
        hardware=HardwareInfo(machine="x86_64 Linux", cpu_count=2, device="cpu"),
        data_clock="2013-07-01T04:00:00+00:00",
        dagster_run_id="run-1",
        created_at="2026-11-21T08:00:00+00:00",
    )


@pytest.fixture
def model_directory(tmp_path: Path, manifest: Manifest) -> Callable[..., Path]:
    def make(content: str = "tree", manifest: Manifest = manifest) -> Path:
        directory = tmp_path / "directories" / f"{content}-{manifest.digest()[:8]}"
        directory.mkdir(parents=True, exist_ok=True)
        model_json = {"format": "ml_platform/1", "trainer": "lightgbm", "feature_names": ["distance", "carrier"]}
        (directory / "model.json").write_text(json.dumps(model_json))
        (directory / "weights.txt").write_text(content)
        (directory / "manifest.json").write_text(manifest.model_dump_json())
        return directory

    return make


@pytest.fixture
def example() -> pl.DataFrame:
    return pl.DataFrame({"distance": [187.0, None], "carrier": ["UA", "AA"], "hour": [6, 7]})


@pytest.fixture
def registered(
    registry: ModelRegistry, model_directory: Callable[..., Path], example: pl.DataFrame
) -> Callable[[str], ModelVersion]:
    def register(content: str) -> ModelVersion:
        with registry.tracking.run("departure_risk", content, {}) as run:
            return registry.register(
                "departure_risk", model_directory(content), run_id=run.run_id, input_example=example
            )

    return register
