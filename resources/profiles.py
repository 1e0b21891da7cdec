"""The resources of each profile. The profile `local` needs no server: everything is stored under the home."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resources.addresses import stored_address
from resources.home import Home

REPOSITORY = Path(__file__).resolve().parent.parent


def resources_of_profile(home: Home | None = None) -> Mapping[str, Any]:
    """Return the resources by the keys that assets and ops require, on ``home`` (default: the environment's)."""
    from resources.dagster_home import HomeResource
    from resources.lake import LakeResource
    from resources.mlflow import MlflowResource
    from resources.online_store import OnlineStoreResource
    from resources.studies import StudiesResource
    from resources.team_mlflow import team_mlflow

    chosen = home or Home.from_environment()
    return {
        "home": HomeResource(
            root=str(chosen.root), repository=str(REPOSITORY), reports_address=stored_address("reports")
        ),
        "lake": LakeResource.for_home(chosen),
        "mlflow": MlflowResource.for_home(chosen),
        "mlflow_tracking": team_mlflow(chosen),
        "studies": StudiesResource.for_home(chosen),
        "online_store": OnlineStoreResource.for_home(chosen),
    }
