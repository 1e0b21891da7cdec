"""The profile `cluster` puts each store where its settings say; wrong, contradictory and missing ones are refused."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_platform.console.doctor.diagnosis import diagnose
from ml_platform.console.doctor.finding import Finding, Subject
from ml_platform.console.doctor.services import object_store, postgres, profile, tracking_server, valkey
from ml_platform.console.services import platform_processes
from ml_platform.serving.processes import free_port
from resources.cluster_settings import FILE_VARIABLE, PREFIX, ClusterSettingsError, cluster_settings
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource
from resources.profile import PROFILE_VARIABLE, ProfileError, locations
from resources.secret_reference import SecretError
from resources.studies import StudiesResource
from resources.tracking_location import object_store_environment

SETTINGS: dict[str, Any] = {
    "postgres": {"address": "postgresql://platform@db:5432", "password": {"env": "PG_PASSWORD"}},
    "object_store": {
        "lake": "s3://bucket/lake",
        "artifacts": "s3://bucket/artifacts",
        "endpoint": "http://store:9000",
        "access_key_id": {"env": "S3_KEY"},
        "secret_access_key": {"env": "S3_SECRET"},
    },
    "valkey": {"address": "redis://valkey:6379/0", "password": {"env": "VALKEY_PASSWORD"}},
}
SECRETS = {"PG_PASSWORD": "p@ss/word", "S3_KEY": "key", "S3_SECRET": "s3-secret", "VALKEY_PASSWORD": "v#1"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Select the profile `cluster` with complete settings, and return their file."""
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    for name, value in {**SECRETS, PROFILE_VARIABLE: "cluster", FILE_VARIABLE: str(path)}.items():
        monkeypatch.setenv(name, value)
    return path


def changed(file: Path, section: str, **values: Any) -> None:
    file.write_text(yaml.safe_dump({**SETTINGS, section: {**SETTINGS[section], **values}}))


def test_without_a_profile_everything_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROFILE_VARIABLE, raising=False)
    home = Home(tmp_path)
    found = locations(home)
    assert (found.state, found.lake, found.online) == (str(home.state), str(home.lake), str(home.online))
    assert (found.dagster, found.lake_options, found.tracking) == (None, {}, home.tracking_uri)


def test_unknown_profile_is_refused_with_the_closest_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROFILE_VARIABLE, "clutser")
    with pytest.raises(ProfileError, match=r"'local', 'cluster', found 'clutser'.* Did you mean 'cluster'"):
        locations(Home(tmp_path))


def test_cluster_profile_puts_each_store_on_its_server(file: Path, tmp_path: Path) -> None:
    found = locations(Home(tmp_path))
    assert found.state == "postgresql+psycopg://platform:p%40ss%2Fword@db:5432/ml_platform"
    assert found.dagster == "postgresql+psycopg2://platform:p%40ss%2Fword@db:5432/dagster"
    assert found.tracking == "postgresql+psycopg://platform:p%40ss%2Fword@db:5432/mlflow"
    assert found.studies == "postgresql+psycopg://platform:p%40ss%2Fword@db:5432/studies"
    assert found.online == "redis://:v%231@valkey:6379/0"
    assert (found.lake, found.artifacts) == ("s3://bucket/lake", "s3://bucket/artifacts")
    assert found.lake_options == {
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://store:9000",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3-secret",
    }
    assert object_store_environment(found.lake_options)["MLFLOW_S3_ENDPOINT_URL"] == "http://store:9000"


def test_no_resource_plan_or_message_contains_a_secret(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    configurations = [
        each.for_home(home).model_dump_json()
        for each in (LakeResource, MlflowResource, OnlineStoreResource, StudiesResource)
    ]
    # The plan sets the addresses in the environment of its processes.
    for name in ("ML_PLATFORM_STATE", "ML_PLATFORM_ONLINE", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in object_store_environment(locations(home).lake_options):
        monkeypatch.setenv(name, "")
    plan = platform_processes(home, Path(__file__).parents[2])
    assert plan.state == "$ML_PLATFORM_STATE"
    shown = "\n".join([*configurations, plan.model_dump_json(), repr(locations(home))])
    assert "s3://bucket/lake" in shown
    assert [secret for secret in (*SECRETS.values(), "p%40ss") if f"{secret}" in shown and secret != "key"] == []


def test_environment_replaces_single_values_and_needs_no_file(file: Path) -> None:
    environment = {
        FILE_VARIABLE: str(file),
        f"{PREFIX}POSTGRES__ADDRESS": "postgresql://other@elsewhere",
        f"{PREFIX}POSTGRES__PASSWORD__FILE": "/run/secrets/postgres",
    }
    found = cluster_settings(environment)
    assert found.postgres.address == "postgresql://other@elsewhere"
    assert found.postgres.password is not None
    assert (found.postgres.password.file, found.postgres.password.env) == ("/run/secrets/postgres", "")
    assert found.object_store.lake == "s3://bucket/lake"

    alone = {
        f"{PREFIX}POSTGRES__ADDRESS": "postgresql://db",
        f"{PREFIX}OBJECT_STORE__LAKE": "s3://a/lake",
        f"{PREFIX}OBJECT_STORE__ARTIFACTS": "s3://a/artifacts",
        f"{PREFIX}VALKEY__ADDRESS": "redis://v",
    }
    assert cluster_settings(alone).object_store.artifacts == "s3://a/artifacts"


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("postgres", {"adress": "x"}, r"postgres.adress: .*Did you mean 'address'"),
        ("postgres", {"address": "mysql://db"}, r"postgres.address: an address begins with postgresql://"),
        ("postgres", {"address": "postgresql://u:secret@db"}, "contains a password; name it in `password`"),
        ("postgres", {"password": "secret"}, r"postgres.password: a secret is given by reference"),
        ("postgres", {"password": {"env": "A", "file": "b"}}, "exactly one of env, file and vault"),
        ("postgres", {"databases": {"state": "one", "mlflow": "one"}}, "state and mlflow share the database 'one'"),
        ("object_store", {"access_key_id": None}, "belong together"),
        ("object_store", {"artifacts": "s3://bucket/lake/artifacts"}, "overlap"),
        ("object_store", {"endpoint": "store:9000"}, "begins with http:// or https://"),
        ("valkey", {"address": "http://valkey"}, r"valkey.address: an address begins with redis://"),
        ("valkey", {"address": "redis://:secret@valkey"}, "contains a password"),
    ],
)
def test_wrong_or_contradictory_setting_is_refused_by_name(
    file: Path, section: str, values: Mapping[str, Any], message: str
) -> None:
    changed(file, section, **values)
    with pytest.raises(ClusterSettingsError, match=message) as raised:
        cluster_settings()
    assert "secret@" not in str(raised.value)


def test_missing_settings_are_listed_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    environment = {f"{PREFIX}POSTGRES__ADDRESS": "postgresql://db"}
    with pytest.raises(ClusterSettingsError, match=r"no such file.*object_store: missing; valkey: missing"):
        cluster_settings(environment)
    with pytest.raises(ClusterSettingsError, match=r"cluster\.yaml.*No such file"):
        cluster_settings({FILE_VARIABLE: str(tmp_path / "cluster.yaml")})


def test_secret_that_is_not_there_is_refused_by_its_setting(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PG_PASSWORD")
    with pytest.raises(SecretError, match=r"postgres.password: expected the environment variable PG_PASSWORD"):
        locations(Home(tmp_path))
    changed(file, "postgres", password={"file": str(tmp_path / "absent")})
    with pytest.raises(SecretError, match=r"Secret of postgres.password: expected the file .*absent, found No such"):
        locations(Home(tmp_path))
    (tmp_path / "absent").write_text("from-file\n")
    assert "platform:from-file@db" in locations(Home(tmp_path)).state


def test_variable_that_contradicts_the_profile_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_ONLINE", "redis://other:6379/0")
    with pytest.raises(ClusterSettingsError, match="ML_PLATFORM_ONLINE unset"):
        locations(Home(tmp_path))


def test_doctor_names_each_service_that_does_not_answer(file: Path, tmp_path: Path) -> None:
    closed = free_port()
    changed_settings = {
        "postgres": {"address": f"postgresql://platform@127.0.0.1:{closed}"},
        "object_store": {**SETTINGS["object_store"], "endpoint": f"http://127.0.0.1:{closed}"},
        "valkey": {"address": f"redis://127.0.0.1:{closed}/0"},
        "mlflow": {"address": f"http://127.0.0.1:{closed}"},
    }
    file.write_text(yaml.safe_dump(changed_settings))
    subject = Subject(Home(tmp_path / "home"), tmp_path, datetime.now(UTC))
    checks = {
        "profile": profile,
        "postgres": postgres,
        "object store": object_store,
        "valkey": valkey,
        "mlflow": tracking_server,
    }
    found = diagnose(subject, checks)

    assert found.pop("profile") == Finding("ok", "'cluster'")
    assert {name: each.state for name, each in found.items()} == dict.fromkeys(found, "failed")
    assert all(str(closed) in each.found and "correct" in each.fix for each in found.values()), found
    assert not (tmp_path / "home").exists()


def test_doctor_names_the_missing_setting_and_tries_no_service(file: Path, tmp_path: Path) -> None:
    file.write_text(yaml.safe_dump({**SETTINGS, "valkey": {}}))
    subject = Subject(Home(tmp_path / "home"), tmp_path, datetime.now(UTC))
    found = diagnose(subject, {"profile": profile, "postgres": postgres})
    assert found["profile"].state == "failed"
    assert "valkey.address: missing" in found["profile"].found
    assert found["postgres"].found.startswith("not tried")
