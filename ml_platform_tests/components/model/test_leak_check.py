"""The leak check of a model, as the gate and the command line run it: it finds five planted leaks."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.data.lake import Lake
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.materialize import materialize
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.steps.candidates import build_training_sets
from ml_platform.steps.evaluation import leaking_features
from ml_platform_tests.features.test_leak import FLIGHTS, WEATHER, view

MONTHS = PartitionScheme(start="2013-03", end="2013-04", time_zone="UTC")
MONTH, ROWS = "2013-03", 1_500


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    late = (pl.col("arr_delay") > 15).cast(pl.Int8)
    rows = sources["flights"].with_row_index("number")
    return rows.select(
        pl.col("number").cast(pl.String).alias("example_id"), "origin", "due", label=late, label_known_at="landed"
    )


def bound(name: str, source: dict[str, Any]) -> ModelAssets:
    declared = {
        "name": name,
        "description": "Whether a flight comes late",
        "owners": ["team:aviation"],
        "target": "comes late",
        "partitions": MONTHS.model_dump(),
        "examples": {"function": f"{__name__}:examples", "sources": ["flights"]},
        "prediction_time": {"field": "due", "minutes_before": 120},
        "request": [
            {"name": "origin", "type": "string", "description": "Airport"},
            {"name": "due", "type": "datetime", "description": "Scheduled departure"},
        ],
        "features": [name],
        "trainers": {"lightgbm": {"trainer": "lightgbm"}},
        "gates": [{"type": "leak"}],
    }
    return ModelAssets(Model.model_validate(declared), [view(name, source)])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with one month of flights and the hourly weather of both airports."""
    lake = Lake.standalone(tmp_path_factory.mktemp("lake"))
    start, end = MONTHS.bounds(MONTH)
    random = np.random.default_rng(2)
    due = [start + (end - start) * float(at) for at in sorted(random.random(ROWS))]
    delay = pl.Series(random.normal(10, 30, ROWS).round())
    flights = pl.DataFrame({"due": due, "dep_delay": delay, "arr_delay": delay + 3}).with_columns(
        origin=pl.Series(random.choice(["EWR", "JFK"], ROWS)),
        left=pl.col("due") + pl.duration(minutes=pl.col("dep_delay") + 20),
    )
    lake.write("datasets/flights", flights.with_columns(landed=pl.col("left") + timedelta(hours=3)), MONTH)
    hours = [start + timedelta(hours=at) for at in range(31 * 24)]
    weather = pl.DataFrame({"observed": hours * 2, "origin": ["EWR"] * len(hours) + ["JFK"] * len(hours)})
    temperature = pl.Series(random.normal(50, 9, weather.height).round(1))
    lake.write("datasets/weather", weather.with_columns(temp=temperature), MONTH)
    return lake


def found(lake: Lake, folder: Path, name: str, source: dict[str, Any]) -> list[str]:
    model = bound(name, source)
    materialize(model.stored_views[0], lake, SnapshotStore(folder), [MONTH], MONTHS)
    build_training_sets(model, [MONTH], lake)
    return leaking_features(model, MONTH, lake)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("weather_of_the_departure_hour", WEATHER),
        ("own_delay", FLIGHTS),
        ("mean_with_the_row_itself", FLIGHTS),
        ("joined_on_the_date", FLIGHTS),
        ("target_encoded", FLIGHTS),
    ],
)
def test_planted_leak_is_found(lake: Lake, tmp_path: Path, name: str, source: dict[str, Any]) -> None:
    assert found(lake, tmp_path, name, source) == [f"{name}__value"]


@pytest.mark.parametrize(("name", "source"), [("recent_delay", FLIGHTS), ("observed_weather", WEATHER)])
def test_view_without_leak_passes(lake: Lake, tmp_path: Path, name: str, source: dict[str, Any]) -> None:
    assert found(lake, tmp_path, name, source) == []
