"""Settings of the profile `cluster`: the Postgres, the object store, the Valkey and the MLflow server that it uses.

They are a YAML file, by default `cluster.yaml` beside `dagster.yaml`. The variable
`ML_PLATFORM_CLUSTER__POSTGRES__ADDRESS` replaces the value of `postgres.address`, and so on for each setting.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError
from resources.secret_reference import SecretReference

FILE_VARIABLE = "ML_PLATFORM_CLUSTER_FILE"
DEFAULT_FILE = Path(__file__).resolve().parent.parent / "cluster.yaml"
PREFIX, SEPARATOR = "ML_PLATFORM_CLUSTER__", "__"


class ClusterSettingsError(PlatformError):
    """Raised when the settings of the profile `cluster` are missing, wrong or contradictory."""


def _with_scheme(*schemes: str) -> AfterValidator:
    def check(address: str) -> str:
        if address.partition("://")[0] not in schemes or "://" not in address:
            raise ValueError(f"an address begins with {' or '.join(f'{each}://' for each in schemes)}")
        return address.rstrip("/")

    return AfterValidator(check)


class Databases(Settings):
    """Names of the databases on the Postgres server; each has a schema of its own, so all must differ."""

    state: str = Field(default="ml_platform", description="State store of the platform.")
    dagster: str = Field(default="dagster", description="Runs, events and ticks of Dagster.")
    mlflow: str = Field(default="mlflow", description="Runs and model versions of MLflow.")
    studies: str = Field(default="studies", description="Trials of Optuna.")


class PostgresSettings(Settings):
    """The Postgres server."""

    address: Annotated[str, _with_scheme("postgresql")] = Field(
        description="Address without password and database: postgresql://user@host:5432."
    )
    password: SecretReference | None = Field(default=None, description="Password of the user; null: none is needed.")
    databases: Databases = Field(default_factory=Databases, description="Names of the databases.")

    @model_validator(mode="after")
    def _require_different(self) -> "PostgresSettings":
        names = self.databases.model_dump()
        for store, name in names.items():
            other = next((each for each in names if each != store and names[each] == name), None)
            if other is not None:
                raise ValueError(f"databases: {store} and {other} share the database '{name}', and each needs its own")
        from sqlalchemy import make_url

        if make_url(self.address).password:
            raise ValueError("address: it contains a password; name it in `password` by reference")
        return self

    def url(self, store: str, driver: str = "") -> str:
        """Return the address of the database of ``store`` with its password, for SQLAlchemy and ``driver``."""
        from sqlalchemy import make_url

        url = make_url(self.address).set(database=getattr(self.databases, store))
        if driver:
            url = url.set(drivername=f"postgresql+{driver}")
        if self.password is not None:
            url = url.set(password=self.password.read("postgres.password"))
        return url.render_as_string(hide_password=False)


class ObjectStoreSettings(Settings):
    """The object store with the interface of S3."""

    lake: Annotated[str, _with_scheme("s3")] = Field(description="Bucket and prefix of the tables: s3://bucket/lake.")
    artifacts: Annotated[str, _with_scheme("s3")] = Field(
        description="Bucket and prefix of MLflow's artifacts: s3://bucket/artifacts."
    )
    endpoint: str = Field(default="", description="Address of a store other than AWS: http://host:9000; empty: AWS.")
    region: str = Field(default="us-east-1", description="Region of the buckets.")
    access_key_id: SecretReference | None = Field(
        default=None, description="Access key; null: the identity of the machine or of the environment."
    )
    secret_access_key: SecretReference | None = Field(default=None, description="Secret of the access key.")

    @model_validator(mode="after")
    def _require_consistent(self) -> "ObjectStoreSettings":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together; one of them is missing")
        lake, artifacts = f"{self.lake}/", f"{self.artifacts}/"
        if lake.startswith(artifacts) or artifacts.startswith(lake):
            raise ValueError(
                f"lake ({self.lake}) and artifacts ({self.artifacts}) overlap, so cleaning the lake would find "
                "artifacts; give them different prefixes"
            )
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError("endpoint: an address begins with http:// or https://")
        return self

    def options(self) -> dict[str, str]:
        """Return the options of object_store, which Polars and delta-rs use; secrets are read now."""
        options = {"AWS_REGION": self.region}
        if self.endpoint:
            options["AWS_ENDPOINT_URL"] = self.endpoint.rstrip("/")
            options["AWS_ALLOW_HTTP"] = str(self.endpoint.startswith("http://")).lower()
        if self.access_key_id is not None and self.secret_access_key is not None:
            options["AWS_ACCESS_KEY_ID"] = self.access_key_id.read("object_store.access_key_id")
            options["AWS_SECRET_ACCESS_KEY"] = self.secret_access_key.read("object_store.secret_access_key")
        return options


class ValkeySettings(Settings):
    """The Valkey or Redis server of the online store."""

    address: Annotated[str, _with_scheme("redis", "rediss", "valkey", "valkeys")] = Field(
        description="Address without password, with the number of the database: redis://host:6379/0."
    )
    password: SecretReference | None = Field(default=None, description="Password of the user; null: none is needed.")

    @model_validator(mode="after")
    def _require_no_password(self) -> "ValkeySettings":
        if urlsplit(self.address).password:
            raise ValueError("address: it contains a password; name it in `password` by reference")
        return self

    def url(self) -> str:
        """Return the address with its password."""
        if self.password is None:
            return self.address
        scheme, _, rest = self.address.partition("://")
        user, _, host = rest.rpartition("@")
        return f"{scheme}://{user}:{quote(self.password.read('valkey.password'), safe='')}@{host}"


class MlflowSettings(Settings):
    """MLflow's tracking server."""

    address: str = Field(
        default="",
        description="Address of the server: https://mlflow.internal; empty: processes use Postgres and S3 themselves.",
    )


class RaySettings(Settings):
    """The Ray cluster that executes the steps with declared resources."""

    address: str = Field(
        default="", description="Address of the dashboard: http://head:8265; empty: steps execute where their run does."
    )


class ClusterSettings(Settings):
    """The services behind the profile `cluster`."""

    postgres: PostgresSettings = Field(description="The Postgres server.")
    object_store: ObjectStoreSettings = Field(description="The object store.")
    valkey: ValkeySettings = Field(description="The server of the online store.")
    mlflow: MlflowSettings = Field(default_factory=MlflowSettings, description="MLflow's tracking server.")
    ray: RaySettings = Field(default_factory=RaySettings, description="The Ray cluster.")


def settings_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the settings file that the environment names, or the default one."""
    return Path(environment.get(FILE_VARIABLE) or DEFAULT_FILE)


def cluster_settings(environment: Mapping[str, str] = os.environ) -> ClusterSettings:
    """Return the settings of the file, with the values of ``environment`` in place of its own.

    A file is not needed when the environment has every value. Raises :class:`ClusterSettingsError`, which names each
    setting that is missing, unknown or contradictory.
    """
    file = settings_file(environment)
    values = _read(file) if file.exists() or environment.get(FILE_VARIABLE) else {}
    for name, value in environment.items():
        if name.startswith(PREFIX):
            _replace(values, name, value)
    try:
        return ClusterSettings.model_validate(values)
    except ValidationError as error:
        raise ClusterSettingsError(
            f"Settings of the profile 'cluster' in {file if file.exists() else f'{file} (no such file)'}",
            expected="the address and the credentials of Postgres, the object store and Valkey",
            found="; ".join(_problems(error)),
            fix=f"Correct the file or name another one by {FILE_VARIABLE}; {PREFIX}POSTGRES__ADDRESS and the like "
            "replace single values. docs/how-to/run-on-a-cluster.md shows a complete file.",
        ) from error


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
    if not isinstance(found, dict):
        raise ClusterSettingsError(
            f"Settings of the profile 'cluster' in {file}",
            expected="a YAML file with postgres, object_store and valkey",
            found=str(found)[:200],
            fix=f"Correct the file, or name another one by {FILE_VARIABLE}.",
        )
    return found


def _replace(values: dict[str, Any], variable: str, value: str) -> None:
    *parents, last = variable.removeprefix(PREFIX).lower().split(SEPARATOR)
    for name in parents:
        inner = values.get(name)
        values[name] = dict(inner) if isinstance(inner, dict) else {}
        values = values[name]
    if last in SecretReference.model_fields:
        # A secret has one reference: that of the environment replaces that of the file.
        values.clear()
    values[last] = value


def _problems(error: ValidationError) -> Iterator[str]:
    for each in error.errors():
        place = ".".join(str(part) for part in each["loc"])
        text = "missing" if each["type"] == "missing" else each["msg"].removeprefix("Value error, ")
        yield f"{place}: {text}"
