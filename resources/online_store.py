"""The online store as a Dagster resource: snapshot files by default, a Valkey server where many machines serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.features.online import OnlineStore


class OnlineStoreResource(dg.ConfigurableResource):
    """Where the last facts of each feature view are published, and read by what serves."""

    kind: Literal["snapshot", "valkey"] = Field(
        default="snapshot", description="snapshot: memory-mapped files. valkey: a Valkey or Redis server."
    )
    root: str = Field(default="", description="Folder of the snapshot files.")
    url: str = Field(default="", description="Address of the server, like redis://host:6379/0.")

    @classmethod
    def of_home(cls, home: Home) -> "OnlineStoreResource":
        """Return the resource whose snapshots lie in the folder ``online`` of ``home``."""
        return cls(root=str(home.online))

    def store(self) -> "OnlineStore":
        """Return the store; a server is connected to on first use."""
        if self.kind == "valkey":
            from ml_platform.features.valkey import ValkeyStore

            return ValkeyStore(self.url)
        from ml_platform.features.snapshot import SnapshotStore

        return SnapshotStore(Path(self.root))
