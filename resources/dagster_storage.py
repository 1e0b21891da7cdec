"""Where a bare `dg launch` or `dagster dev` keeps its runs: in the home, beside those of `ml-platform`.

Apart because Dagster loads it from dagster.yaml, by name. Without it, a command given without DAGSTER_HOME would start
on an empty instance and forget its runs when it ends.
"""

from collections.abc import Mapping
from typing import Any

from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from resources.home import Home
from resources.home_version import prepare_home


class HomeStorage(DagsterSqliteStorage):
    """Runs, events and schedules in the SQLite files of the home that the environment names."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> "HomeStorage":
        home = Home.from_environment()
        prepare_home(home)
        return cls.from_local(str(home.dagster), inst_data)
