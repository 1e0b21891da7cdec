"""Dagster resource of the Optuna studies: SQLite files by default, or Postgres for several machines.

The profile or ``ML_PLATFORM_STUDIES`` sets an address in SQLAlchemy's form (``postgresql://host/studies``). By default
each study is a file in the folder ``models/studies`` of the home.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from resources.home import Home
from resources.profile import active_profile, locations


class StudiesResource(dg.ConfigurableResource[Any]):
    """The database in which Optuna stores trials, so that a killed search can continue."""

    root: str = Field(
        default="",
        description="Folder of the SQLite files, one for each candidate; empty: that of the profile.",
    )
    url: str = Field(
        default="", description="Address of a common database, such as postgresql://host/studies; empty: SQLite files."
    )

    @classmethod
    def for_home(cls, home: Home) -> "StudiesResource":
        """Return the resource of the active profile; by default the folder ``models/studies`` of ``home``."""
        if active_profile() == "cluster":
            # The address may contain a password, and the UI shows the configuration.
            return cls()
        return cls(root=str(home.models / "studies"), url=locations(home).studies)

    def storage(self, name: str) -> str:
        """Return the address of the database for the studies of ``name``; a folder for SQLite files is created."""
        if self.url:
            return self.url
        if not self.root:
            return locations(Home.from_environment()).studies
        Path(self.root).mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{Path(self.root) / name}.db"
