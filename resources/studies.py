"""Where searches for settings are kept, as a Dagster resource: SQLite files by default, Postgres for many machines.

One setting decides: ``ML_PLATFORM_STUDIES``, an address as SQLAlchemy writes it (``postgresql://host/studies``). Unset,
each search is a file in the folder ``models/studies`` of the home.
"""

import os
from pathlib import Path

import dagster as dg
from pydantic import Field

from resources.home import Home

STUDIES_VARIABLE = "ML_PLATFORM_STUDIES"


class StudiesResource(dg.ConfigurableResource):
    """The database in which Optuna keeps trials, so that a search that was killed goes on."""

    root: str = Field(default="", description="Folder of the SQLite files, one for each candidate.")
    url: str = Field(default="", description="Address of one database for all, like postgresql://host/studies.")

    @classmethod
    def for_home(cls, home: Home) -> "StudiesResource":
        """Return the resource that ``ML_PLATFORM_STUDIES`` names; unset, the folder of ``home``."""
        return cls(root=str(home.models / "studies"), url=os.environ.get(STUDIES_VARIABLE, ""))

    def storage(self, name: str) -> str:
        """Return the address of the database for the searches called ``name``, whose folder is there."""
        if self.url:
            return self.url
        Path(self.root).mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{Path(self.root) / name}.db"
