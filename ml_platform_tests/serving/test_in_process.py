"""A served model in this process gives the answers of the endpoint."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from ml_platform import serving
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.view import FeatureView
from ml_platform.monitoring.log_lines import read_records
from ml_platform.serving.bento_build import BentoVerification, BuiltBento
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.in_process import ServedModel, ServedModelError, _require_same_code
from ml_platform.serving.request_contract import InvalidRequestError
from ml_platform.serving.verified_bentos import record_verified_bento
from ml_platform.state.store import StateStore
from ml_platform_tests.serving.conftest import ToyModel
from resources.home import Home


def test_served_model_answers_like_the_endpoint_in_any_number_of_rows(
    toy: ToyModel, built_bento: BuiltBento, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bentos").mkdir()
    (tmp_path / "bentos" / built_bento.path.name).symlink_to(built_bento.path)
    state = StateStore.in_folder(tmp_path)
    state.migrate()
    with pytest.raises(ServedModelError, match="expected a served model, found none served there"):
        serving.load("toy", tmp_path)
    stable = ServedVersion(version="7", bento=built_bento.path.name)
    swap_desired_state(state, "toy", DesiredState(stable=stable, weights={"stable": 100}), 0)
    monkeypatch.setenv("ML_PLATFORM_ONLINE", str(toy.online))
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    model = serving.load("toy")
    assert model.version == "7"
    assert [answer["score"] for answer in model.predict(toy.rows)] == toy.scores
    assert model.predict(toy.rows)[2]["degraded"] == {"missing": ["delays"]}
    assert [answer["score"] for answer in model.predict(toy.rows * 500)] == toy.scores * 500
    assert model.predict(toy.rows[:1], reasons=1)[0]["reasons"][0]["feature"].startswith("delays__")
    with pytest.raises(InvalidRequestError, match=r"rows\[0\]"):
        model.predict([{"carrier": 1}])
    with pytest.raises(ServedModelError, match="Did you mean 'toy'"):
        serving.load("toys")
    with pytest.raises(ServedModelError, match=r"Version 6 of model 'toy'.*such versions: none"):
        serving.load("toy", version=6)
    checked = BentoVerification(rows=1, latency_p50_ms=1.0, latency_p99_ms=1.0)
    placed = dataclasses.replace(built_bento, path=tmp_path / "bentos" / built_bento.path.name)
    record_verified_bento(state, tmp_path / "bentos", placed, checked, version="6", model_digest="a" * 64)
    earlier = serving.load("toy", version=6)
    assert (earlier.version, [answer["score"] for answer in earlier.predict(toy.rows)]) == ("6", toy.scores)


def test_profile_whose_settings_alone_name_the_stores_is_refused_and_the_home_gets_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_PROFILE", "cluster")
    monkeypatch.delenv("ML_PLATFORM_STATE", raising=False)
    with pytest.raises(ServedModelError, match=r"ML_PLATFORM_PROFILE=cluster.*Use a session, `ml_platform.open\(\)`"):
        serving.load("toy", tmp_path)
    assert not list(tmp_path.iterdir())


def placed_home(root: Path, built_bento: BuiltBento) -> StateStore:
    """Return the store of a home whose stable version 7 is ``built_bento``."""
    (root / "bentos").mkdir()
    (root / "bentos" / built_bento.path.name).symlink_to(built_bento.path)
    state = StateStore.in_folder(root)
    state.migrate()
    stable = ServedVersion(version="7", bento=built_bento.path.name)
    swap_desired_state(state, "toy", DesiredState(stable=stable, weights={"stable": 100}), 0)
    return state


def logged_in(home: Home) -> list[dict[str, Any]]:
    return [record for file in sorted(home.prediction_logs.glob("toy/*.jsonl")) for record in read_records(file)]


def test_answers_are_logged_like_those_of_a_service_if_that_is_wanted(
    toy: ToyModel, built_bento: BuiltBento, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, home = placed_home(tmp_path, built_bento), Home(tmp_path)
    monkeypatch.setenv("ML_PLATFORM_ONLINE", str(toy.online))
    with serving.load("toy", tmp_path) as silent:
        silent.predict(toy.rows)
    assert logged_in(home) == []
    with serving.load("toy", tmp_path, log=True) as model:
        model.predict(toy.rows)
    logged = logged_in(home)
    assert [(each["row"], each["score"], each["version"], each["role"]) for each in logged] == [
        (row, score, "7", "stable") for row, score in enumerate(toy.scores)
    ]
    assert [each["request"] for each in logged] == toy.rows
    assert len({each["prediction_id"] for each in logged}) == 3
    checked = BentoVerification(rows=1, latency_p50_ms=1.0, latency_p99_ms=1.0)
    placed = dataclasses.replace(built_bento, path=tmp_path / "bentos" / built_bento.path.name)
    record_verified_bento(state, tmp_path / "bentos", placed, checked, version="6", model_digest="a" * 64)
    with serving.load("toy", tmp_path, version=6, log=True) as other:
        other.predict(toy.rows[:1])
    assert [each["role"] for each in logged_in(home) if each["version"] == "6"] == ["in_process"]


def test_last_answers_are_logged_at_the_end_of_the_process(
    toy: ToyModel, built_bento: BuiltBento, tmp_path: Path
) -> None:
    placed_home(tmp_path, built_bento)
    program = (
        "import json, sys; from ml_platform import serving; "
        "served = serving.load('toy', sys.argv[1], log=True); served.predict(json.loads(sys.argv[2]) * 9_000)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path), json.dumps(toy.rows)]
    subprocess.run(arguments, env={**os.environ, "ML_PLATFORM_ONLINE": str(toy.online)}, check=True)
    # More rows than the queue takes: a batch waits for the log.
    assert len(logged_in(Home(tmp_path))) == 27_000


def test_tables_of_polars_and_pandas_are_answered_like_rows(toy: ToyModel) -> None:
    model = ServedModel.of_directory("toy", "1", toy.model_dir, str(toy.online))
    answers = model.predict(toy.rows)
    table = pl.DataFrame(toy.rows, infer_schema_length=None).with_columns(other=pl.lit(1))
    found = model.predict_table(table)
    assert found.columns == ["score", "label", "degraded"]
    assert found["score"].to_list() == toy.scores
    assert found["label"].to_list() == [each["label"] for each in answers]
    assert found["degraded"].to_list() == ["degraded" in each for each in answers]
    of_pandas = model.predict_table(table.to_pandas())
    assert isinstance(of_pandas, pd.DataFrame)
    pd.testing.assert_frame_equal(of_pandas, found.to_pandas())
    with pytest.raises(InvalidRequestError, match="the field is missing"):
        model.predict_table(table.drop("carrier"))


def test_model_whose_request_view_has_other_code_here_is_refused(toy: ToyModel) -> None:
    view = FeatureView.model_validate(
        {
            "name": "schedule",
            "kind": "request",
            "function": "assets.aviation.features.request:schedule",
            "takes": "arrays",
            "fields": ["origin"],
            "features": [{"name": "hour", "description": "…"}],
        }
    )
    features = FeatureSet([view])
    _require_same_code("toy", "7", features)
    changed = json.loads(json.dumps(features.to_dict()))
    changed["views"][0]["code_version"] = "0" * 12 + "-" + "1" * 8
    with pytest.raises(ServedModelError, match="Call the endpoint, which runs the code of its bento"):
        _require_same_code("toy", "7", FeatureSet.from_dict(changed))
    assert ServedModel.of_directory("toy", "1", toy.model_dir, str(toy.online)).predict(toy.rows[:1])
