"""A served model in this process gives the answers of the endpoint."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from ml_platform import serving
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.view import FeatureView
from ml_platform.serving.bento_build import BentoVerification, BuiltBento
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.in_process import ServedModel, ServedModelError, _require_same_code
from ml_platform.serving.request_contract import InvalidRequestError
from ml_platform.serving.verified_bentos import record_verified_bento
from ml_platform.state.store import StateStore
from ml_platform_tests.serving.conftest import ToyModel


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
