"""Opens the stores of the steps: from Dagster resources for an asset, from a home for the command line."""

from typing import TYPE_CHECKING

from resources.dagster_home import HomeResource
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource
from resources.profiles import REPOSITORY

if TYPE_CHECKING:
    from ml_platform.steps.platform_stores import PlatformStores


def open_stores(
    home: HomeResource,
    lake: LakeResource,
    mlflow: MlflowResource,
    online_store: OnlineStoreResource,
    *,
    deliver: bool = True,
) -> "PlatformStores":
    """Return the stores of these resources. The registry and the online store connect on first use.

    With ``deliver``, the registry first gets the records that wait in the outbox, and the aliases of decisions that
    were recorded without it.
    """
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.following_aliases import set_pending_aliases
    from ml_platform.registry.models import ModelRegistry
    from ml_platform.steps.platform_stores import PlatformStores

    opened = lake.lake()

    def registry() -> ModelRegistry:
        if not deliver:
            return ModelRegistry(mlflow.tracking)
        found = mlflow.models
        set_pending_aliases(found, AuditLog(opened.state))
        return found

    return PlatformStores(
        home=home.home(),
        repository=home.code,
        lake=opened,
        open_registry=registry,
        open_online_store=online_store.store,
    )


def open_home_stores(home: Home, *, deliver: bool = True) -> "PlatformStores":
    """Return the stores in the folders of ``home``, for the command line; see :func:`open_stores`."""
    return open_stores(
        HomeResource(root=str(home.root), repository=str(REPOSITORY)),
        LakeResource.for_home(home),
        MlflowResource.for_home(home),
        OnlineStoreResource.for_home(home),
        deliver=deliver,
    )
