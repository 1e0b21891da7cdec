"""The online store as a Dagster resource: snapshot files by default, a Valkey server where many machines serve.

One setting decides for whoever publishes, verifies and serves: ``ML_PLATFORM_ONLINE``, a folder or an address like
``redis://host:6379/0``. Unset, it is the folder ``online`` of the home.
"""

import os
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.features.online_store import OnlineStore

LOCATION_VARIABLE = "ML_PLATFORM_ONLINE"


class OnlineStoreResource(dg.ConfigurableResource):
    """Where the last facts of each feature view are published, and read by what serves."""

    kind: Literal["snapshot", "valkey"] = Field(
        default="snapshot", description="snapshot: memory-mapped files. valkey: a Valkey or Redis server."
    )
    root: str = Field(default="", description="Folder of the snapshot files.")
    url: str = Field(default="", description="Address of the server, like redis://host:6379/0.")

    @classmethod
    def for_home(cls, home: Home) -> "OnlineStoreResource":
        """Return the resource that ``ML_PLATFORM_ONLINE`` names; unset, the folder ``online`` of ``home``."""
        location = os.environ.get(LOCATION_VARIABLE) or str(home.online)
        return cls(kind="valkey", url=location) if "://" in location else cls(root=location)

    @property
    def location(self) -> str:
        """The folder or address by which another process opens the same store."""
        return self.store().location

    def store(self) -> "OnlineStore":
        """Return the store; a server is connected to on first use."""
        from ml_platform.features.stores import open_store

        return open_store(self.url if self.kind == "valkey" else self.root)
