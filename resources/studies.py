"""Dagster resource of the Optuna studies: SQLite files by default, or Postgres for several machines.

``ML_PLATFORM_STUDIES`` sets an address in SQLAlchemy's form (``postgresql://host/studies``). By default each study is a
file in the folder ``models/studies`` of the home.
"""

import os
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from resources.home import Home

STUDIES_VARIABLE = "ML_PLATFORM_STUDIES"


class StudiesResource(dg.ConfigurableResource[Any]):
    """The database in which Optuna stores trials, so that a killed search can continue."""

    root: str = Field(default="", description="Folder of the SQLite files, one file for each candidate.")
    url: str = Field(
        default="", description="Address of a common database, such as postgresql://host/studies; empty: SQLite files."
    )

    @classmethod
    def for_home(cls, home: Home) -> "StudiesResource":
        """Return the resource that ``ML_PLATFORM_STUDIES`` names; by default the folder of ``home``."""
        return cls(root=str(home.models / "studies"), url=os.environ.get(STUDIES_VARIABLE, ""))

    def storage(self, name: str) -> str:
        """Return the address of the database for the studies of ``name``; a folder for SQLite files is created."""
        if self.url:
            return self.url
        Path(self.root).mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{Path(self.root) / name}.db"
