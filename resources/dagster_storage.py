"""Storage of `dg launch` and `dagster dev` in the home, with the runs of `ml-platform`; dagster.yaml names it.

Without it, a command without DAGSTER_HOME would use a temporary instance and lose its runs at its end.
"""

from collections.abc import Mapping
from typing import Any

from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from resources.home import Home
from resources.home_version import prepare_home


class HomeStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite files of the home that the environment names."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> "HomeStorage":
        home = Home.from_environment()
        prepare_home(home)
        return cls.from_local(str(home.dagster), inst_data)
