"""The artifact store `home:` of MLflow: files in the MLflow folder of the home, wherever the home lies.

MLflow stores the address of each run's artifacts in its database. An absolute path there would point to the original
after a home was moved or restored elsewhere; `home:/artifacts/…` is relative to the folder of the database. MLflow
finds this class by the entry point `mlflow.artifact_repository` of the package.
"""

import os
import urllib.parse
from pathlib import Path

import mlflow
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from resources.home import Home

SQLITE_PREFIX = "sqlite:///"


class HomeArtifactRepository(LocalArtifactRepository):
    """Artifacts below the folder of the MLflow database; a tracking server finds this folder by its home."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        # For an address `runs:/…`, MLflow gives no tracking address to the repository behind it.
        if tracking_uri is None and mlflow.is_tracking_uri_set():  # type: ignore[no-untyped-call]
            tracking_uri = mlflow.get_tracking_uri()
        super().__init__(artifact_folder(artifact_uri, tracking_uri).as_uri(), tracking_uri, registry_uri)


def artifact_folder(artifact_uri: str, tracking_uri: str | None) -> Path:
    """Return the folder of ``artifact_uri`` (``home:/artifacts/…``), below that of the SQLite file ``tracking_uri``.

    With another or no tracking address, the home of the environment counts.
    """
    relative = urllib.parse.unquote(artifact_uri.partition(":")[2]).lstrip("/")
    root = Home.from_environment().mlflow
    if tracking_uri and tracking_uri.startswith(SQLITE_PREFIX):
        root = Path(urllib.parse.unquote(tracking_uri.removeprefix(SQLITE_PREFIX))).parent
    folder = Path(os.path.normpath(root / relative))
    if not folder.is_relative_to(root):
        raise ValueError(f"{artifact_uri} lies outside {root}")
    return folder
