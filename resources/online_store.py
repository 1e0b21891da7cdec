"""Dagster resource of the online store: snapshot files by default, or a Valkey server for several machines.

Publication, verification and serving all use the store of the profile, or that of ``ML_PLATFORM_ONLINE``: a folder, or
an address such as ``redis://host:6379/0``. The default is the folder ``online`` of the home.
"""

from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from resources.home import Home
from resources.profile import active_profile, locations

if TYPE_CHECKING:
    from ml_platform.features.online_store import OnlineStore


class OnlineStoreResource(dg.ConfigurableResource[Any]):
    """The store of the latest facts of each feature view, from which services read."""

    kind: Literal["snapshot", "valkey", "history"] = Field(
        default="snapshot",
        description="snapshot: memory-mapped files. valkey: a Valkey or Redis server. history: files with the facts of "
        "the last weeks, for a replay.",
    )
    root: str = Field(default="", description="Folder of the snapshot files.")
    url: str = Field(
        default="",
        description="Address of the server, such as redis://host:6379/0, or history:// and a folder; empty: that of "
        "the profile.",
    )

    @classmethod
    def for_home(cls, home: Home) -> "OnlineStoreResource":
        """Return the resource of the active profile; by default the folder ``online`` of ``home``."""
        if active_profile() == "cluster":
            # The address may contain a password, and the UI shows the configuration.
            return cls(kind="valkey")
        location = locations(home).online
        if "://" not in location:
            return cls(root=location)
        return cls(kind="history" if location.startswith("history:") else "valkey", url=location)

    @property
    def location(self) -> str:
        """The folder or address with which another process opens the same store."""
        return self.store().location

    def store(self) -> "OnlineStore":
        """Return the store; it connects to a server on first use."""
        from ml_platform.features.stores import open_store

        if self.kind == "snapshot":
            return open_store(self.root)
        return open_store(self.url or locations(Home.from_environment()).online)
