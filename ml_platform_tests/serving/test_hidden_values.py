"""Values that identify a person reach the scorer and the client, and no file of the home."""

import asyncio
import json
import logging
import stat
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from bento.app import PredictApp, ServiceConfig
from bento.app_factory import create_app
from bento.predictor import Predictor
from ml_platform.data.lake import Lake
from ml_platform.data.pii import MASK
from ml_platform.data.pseudonyms import (
    PII_KEY_FILE_VARIABLE,
    PII_KEY_VARIABLE,
    PseudonymKeyError,
    pseudonym_key,
)
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.monitoring.log_lines import read_records
from ml_platform.monitoring.prediction_log import ingest_log_files, pair_by_role, predictions_table
from ml_platform.serving.bento_digest import MODEL_FOLDER, PACKAGE_FILE
from ml_platform_tests.serving.conftest import CONTRACT, ToyModel

PERSON, OTHER = "ada.lovelace@example.org", "grace.hopper@example.org"
TREATMENTS: dict[str, Any] = {"carrier": "hash", "tail": "hash"}


def contract_with(treatments: dict[str, Any], features: dict[str, Any]) -> dict[str, Any]:
    declared = json.loads(CONTRACT.model_dump_json())
    fields = [{**each, "pii": treatments.get(each["name"])} for each in declared["fields"]]
    return {**declared, "fields": fields, "pii_features": features}


@pytest.fixture
def model_dir(toy: ToyModel, tmp_path: Path) -> Path:
    """Return a copy of the toy model, whose contract the test replaces."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in toy.model_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def running(model_dir: Path, toy: ToyModel, home: Path, contract: dict[str, Any]) -> PredictApp:
    (model_dir / "contract.json").write_text(json.dumps(contract))
    config = ServiceConfig("toy", "3", home / "log", lambda: pseudonym_key(home / "pii.key", {}))
    app = PredictApp(config, lambda: Predictor(model_dir, SnapshotStore(toy.online)))
    app.start()
    return app


def ask(app: PredictApp, rows: list[dict[str, Any]], query: str = "", role: str = "stable") -> httpx.Response:
    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://toy") as client:
            headers = {"x-request-id": "r1", "x-ml-platform-role": role}
            return await client.post(f"/v1/toy/predict{query}", json={"rows": rows}, headers=headers)

    return asyncio.run(request())


def texts_of(home: Path) -> str:
    """Return all that the files below ``home`` contain, with compressed blocks and Parquet files read."""
    found = []
    for path in sorted(home.rglob("*")):
        if not path.is_file():
            continue
        found.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found += [zlib.decompress(b64decode(each["block"]["data"])).decode("latin-1") for each in lines[1:]]
        if path.suffix == ".parquet":
            found.append(pl.read_parquet(path).write_json())
    return "\n".join(found)


def rows_of(toy: ToyModel) -> list[dict[str, Any]]:
    return [{**toy.rows[0], "tail": PERSON}, {**toy.rows[1], "tail": OTHER}, {**toy.rows[2], "tail": PERSON}]


def test_no_file_of_the_home_has_a_hidden_value(
    model_dir: Path, toy: ToyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    app = running(model_dir, toy, home, contract_with(TREATMENTS, {"delays__mean": "hash"}))
    with caplog.at_level(logging.DEBUG):
        answer = ask(app, rows_of(toy))
        assert [each["score"] for each in answer.json()["predictions"]] == toy.scores
        assert ask(app, [{**toy.rows[0], "tail": PERSON, "distance": PERSON}]).status_code == 422
    metrics = app.metrics.page().decode()
    app.stop()
    lake = Lake.standalone(home / "lake")
    assert ingest_log_files(lake, "toy", home / "log").added == 3
    written = texts_of(home)
    assert "r1" in written  # the request is there
    assert not [name for name in (PERSON, OTHER, "ada.lovelace", '"UA"') if name in written]
    assert PERSON not in metrics + caplog.text
    first, second, third = (json.loads(each) for each in lake.scan(predictions_table("toy")).collect()["request"])
    assert first["tail"] == third["tail"] != second["tail"]
    assert first["distance"] == 500.0
    logged = [json.loads(each) for each in lake.scan(predictions_table("toy")).collect()["features"]]
    assert [each["delays__mean"] is None for each in logged] == [False, False, True]
    assert logged[0]["delays__mean"].startswith("hmac:")
    assert logged[0]["delays__age_minutes"] == 60.0
    assert stat.S_IMODE((home / "pii.key").stat().st_mode) == 0o600


def test_dropped_field_and_feature_leave_nothing(model_dir: Path, toy: ToyModel, tmp_path: Path) -> None:
    home = tmp_path / "home"
    app = running(model_dir, toy, home, contract_with({"tail": "drop"}, {"delays__mean": "drop"}))
    assert [each["score"] for each in ask(app, rows_of(toy)).json()["predictions"]] == toy.scores
    app.stop()
    (file,) = (home / "log").glob("*.jsonl")
    records = list(read_records(file))
    assert [set(each["request"]) for each in records] == [{"carrier", "distance", "departs"}] * 3
    assert [each["features"]["delays__mean"] for each in records] == [None, None, None]
    assert PERSON not in texts_of(home)
    assert not (home / "pii.key").exists()  # nothing is hashed


def test_undeclared_contract_logs_as_before(model_dir: Path, toy: ToyModel, tmp_path: Path) -> None:
    app = running(model_dir, toy, tmp_path / "home", contract_with({}, {}))
    ask(app, rows_of(toy))
    app.stop()
    (file,) = (tmp_path / "home" / "log").glob("*.jsonl")
    assert [each["request"]["tail"] for each in read_records(file)] == [PERSON, OTHER, PERSON]


def test_reasons_hide_the_values_of_hidden_features(model_dir: Path, toy: ToyModel, tmp_path: Path) -> None:
    app = running(model_dir, toy, tmp_path / "home", contract_with({}, {"delays__mean": "hash"}))
    (row, _, unknown) = ask(app, rows_of(toy), "?reasons=2").json()["predictions"]
    app.stop()
    values = {each["feature"]: each["value"] for each in row["reasons"]}
    assert values["delays__mean"] == MASK
    assert {each["feature"]: each["value"] for each in unknown["reasons"]}.get("delays__mean") is None


def test_bug_of_custom_code_does_not_show_the_value_that_its_message_quotes(
    model_dir: Path, toy: ToyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = running(model_dir, toy, tmp_path / "home", contract_with(TREATMENTS, {}))

    def fail(*_: Any) -> None:
        raise ValueError(f"cannot parse {PERSON}")

    monkeypatch.setattr(app.predictor.scorer, "predict", fail)
    with caplog.at_level(logging.DEBUG):
        assert ask(app, rows_of(toy)).status_code == 500
    app.stop()
    assert "request r1 failed: ValueError in test_hidden_values.py" in caplog.text
    assert PERSON not in caplog.text


def test_shadow_and_stable_predictions_of_hidden_requests_are_pairs(
    model_dir: Path, toy: ToyModel, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    app = running(model_dir, toy, home, contract_with(TREATMENTS, {}))
    for role in ("stable", "shadow"):
        ask(app, rows_of(toy), role=role)
    app.stop()
    lake = Lake.standalone(home / "lake")
    ingest_log_files(lake, "toy", home / "log")
    pairs = pair_by_role(lake.scan(predictions_table("toy")).collect(), "stable", "shadow")
    assert pairs.select("score_stable", "score_shadow").rows() == [(each, each) for each in toy.scores]


def test_service_that_has_no_key_for_its_log_does_not_start(model_dir: Path, toy: ToyModel, tmp_path: Path) -> None:
    (model_dir / "contract.json").write_text(json.dumps(contract_with(TREATMENTS, {})))
    config = ServiceConfig("toy", "3", tmp_path / "log")
    app = PredictApp(config, lambda: Predictor(model_dir, SnapshotStore(toy.online)))
    with pytest.raises(PseudonymKeyError, match="Set ML_PLATFORM_PII_KEY to 64 hexadecimal digits"):
        app.start()


def test_service_makes_the_key_in_the_file_that_its_environment_names(
    model_dir: Path, toy: ToyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = tmp_path / "src", tmp_path / "serving" / "pii.key"
    (model_dir / "contract.json").write_text(json.dumps(contract_with(TREATMENTS, {})))
    source.mkdir()
    model_dir.rename(source / MODEL_FOLDER)
    (source / PACKAGE_FILE).write_text(json.dumps({"model": "toy", "version": "3"}))
    monkeypatch.delenv(PII_KEY_VARIABLE, raising=False)
    monkeypatch.setenv(PII_KEY_FILE_VARIABLE, str(file))
    app = create_app(source, str(toy.online), tmp_path / "log")
    app.start()
    ask(app, rows_of(toy))
    app.stop()
    (log,) = (tmp_path / "log").glob("*.jsonl")
    logged = [each["request"]["carrier"] for each in read_records(log)]
    assert logged == pseudonym_key(file, {}).pseudonyms("carrier", ["UA", "AA", "ZZ"])
