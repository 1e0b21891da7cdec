"""The stores that the steps read and write, in one object: lake, model registry, online store, audit log and home.

An asset, a command or a test opens them once and passes them to every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.registry.audit import AuditLog
from resources.home import Home

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake
    from ml_platform.features.online_store import OnlineStore
    from ml_platform.registry.models import ModelRegistry
    from ml_platform.state.store import StateStore


@dataclass(frozen=True)
class PlatformStores:
    """Stores of one home, and ``repository``, the folder of the code.

    ``open_registry`` and ``open_online_store`` are called on first use, because each may connect to a server.
    """

    home: Home
    repository: Path
    lake: "Lake"
    open_registry: "Callable[[], ModelRegistry]"
    open_online_store: "Callable[[], OnlineStore]"

    @cached_property
    def registry(self) -> "ModelRegistry":
        """Return the model registry."""
        return self.open_registry()

    @cached_property
    def online_store(self) -> "OnlineStore":
        """Return the online store, which serves the last fact of each entity."""
        return self.open_online_store()

    @property
    def state(self) -> "StateStore":
        """Return the state store, which the lake, the audit log and the desired states share."""
        return self.lake.state

    @cached_property
    def audit(self) -> AuditLog:
        """Return the log of decisions."""
        return AuditLog(self.state)
