"""Addresses in MLflow's database become relative to the home; addresses elsewhere stay."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from resources.file_state_import import IMPORTED_SUFFIX, _set_aside, relocate_artifacts, relocated
from resources.home import Home


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/srv/home/mlflow/artifacts", "home:/artifacts"),
        ("/srv/home/mlflow/artifacts/1/abc/artifacts", "home:/artifacts/1/abc/artifacts"),
        ("file:///srv/a%20home/mlflow/artifacts/1/a%23b", "home:/artifacts/1/a%23b"),
        ("/srv/a home/mlflow/artifacts/1/a#b", "home:/artifacts/1/a%23b"),
        ("/data/mlflow/artifacts/home/mlflow/artifacts/7", "home:/artifacts/7"),
        ("/srv/home/mlflow/artifacts-old/7", "/srv/home/mlflow/artifacts-old/7"),
        ("runs:/abc/model", "runs:/abc/model"),
        ("models:/m-123", "models:/m-123"),
        ("s3://bucket/mlflow/artifacts/1", "s3://bucket/mlflow/artifacts/1"),
        ("mlflow-artifacts:/1/abc", "mlflow-artifacts:/1/abc"),
        ("home:/artifacts/1", "home:/artifacts/1"),
        ("/srv/own-folder/1", "/srv/own-folder/1"),
        (None, None),
    ],
)
def test_address_of_an_artifact_is_relative_to_the_home(address: str | None, expected: str | None) -> None:
    assert relocated(address) == expected
    assert relocated(expected) == expected


def test_only_addresses_of_the_home_are_changed_in_the_database(tmp_path: Path) -> None:
    home = Home(tmp_path / "a home #1")
    home.mlflow.mkdir(parents=True)
    with closing(sqlite3.connect(home.mlflow / "mlflow.db")) as connection, connection:
        connection.executescript(
            """
            CREATE TABLE experiments (experiment_id INTEGER, artifact_location TEXT);
            CREATE TABLE runs (experiment_id INTEGER, artifact_uri TEXT);
            CREATE TABLE model_versions (source TEXT, storage_location TEXT);
            INSERT INTO experiments VALUES (0, '/srv/code/mlruns/0'), (1, '/old/mlflow/artifacts/1');
            INSERT INTO runs VALUES (1, '/old/mlflow/artifacts/1/r/artifacts'), (1, 's3://bucket/1');
            INSERT INTO model_versions VALUES ('runs:/r/model', '/old/mlflow/artifacts/1/r/artifacts/model');
            """
        )
    assert relocate_artifacts(home).made == ["made 4 addresses of MLflow artifacts relative to the home"]
    with closing(sqlite3.connect(home.mlflow / "mlflow.db")) as connection:
        assert connection.execute("SELECT artifact_location FROM experiments").fetchall() == [
            ("home:/artifacts/0",),
            ("home:/artifacts/1",),
        ]
        assert connection.execute("SELECT artifact_uri FROM runs").fetchall() == [
            ("home:/artifacts/1/r/artifacts",),
            ("s3://bucket/1",),
        ]
        assert connection.execute("SELECT * FROM model_versions").fetchall() == [
            ("runs:/r/model", "home:/artifacts/1/r/artifacts/model")
        ]
    assert relocate_artifacts(home).made == []


def test_file_of_an_earlier_import_is_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "audit.jsonl").write_text(text)
        _set_aside(tmp_path / "audit.jsonl")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {f"audit.jsonl{IMPORTED_SUFFIX}": "first", f"audit.jsonl{IMPORTED_SUFFIX}-2": "second"}
