"""Storage of runs, events and schedules: SQLite files of the home, or the Postgres database of the profile `cluster`.

The `dagster.yaml` of the repository names it, because a command without DAGSTER_HOME would use a temporary instance and
lose its runs at its end. So does that of a home, where it keeps the password out of the file.
"""

from collections.abc import Mapping
from typing import Any

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from ml_platform.errors import PlatformError
from resources.home import Home
from resources.home_version import prepare_home
from resources.profile import locations


class DagsterStorageError(PlatformError):
    """Raised when the package that stores Dagster's runs in Postgres is not installed."""


class HomeStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite files of the home that the environment names, or in Postgres."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]  # Dagster requires a DagsterStorage
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> DagsterStorage:
        home = Home.from_environment()
        prepare_home(home)
        address = locations(home).dagster
        return cls.from_local(str(home.dagster), inst_data) if address is None else _postgres(address, inst_data)


def _postgres(address: str, inst_data: ConfigurableClassData) -> DagsterStorage:
    try:
        from dagster_postgres import DagsterPostgresStorage
    except ImportError as error:
        raise DagsterStorageError(
            "Profile 'cluster'",
            expected="the package dagster-postgres",
            found="no such package",
            fix="Install it: pip install 'ml-platform[cluster]'.",
        ) from error
    return DagsterPostgresStorage(address, inst_data=inst_data)
