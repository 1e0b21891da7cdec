"""Creates the application of a bento, by default of the one with this code; the caller chooses the server.

Environment variables locate its features and its log, because a bento can run anywhere:

- ``ML_PLATFORM_ONLINE``: folder of the online snapshots, or address of a Valkey or Redis server with them, such as
  ``redis://host:6379/0``
- ``ML_PLATFORM_PREDICTION_LOG``: folder of the prediction log; unset: no log
- ``ML_PLATFORM_PII_KEY``: key by which the log hashes values that identify a person, or its file; unset: the key in the
  file ``ML_PLATFORM_PII_KEY_FILE``, which is made when there is none
- ``ML_PLATFORM_CLIENT_PLACES``: file by which the services of a platform count the requests under way of each client
  of the gateway; unset: each process counts alone
"""

import json
import os
from pathlib import Path

from bento.app import PredictApp, ServiceConfig
from bento.predictor import Predictor
from ml_platform.data.pseudonyms import PII_KEY_FILE_VARIABLE, PseudonymKey, pseudonym_key
from ml_platform.features.stores import open_store
from ml_platform.serving.bento_digest import MODEL_FOLDER, PACKAGE_FILE

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
ONLINE_VARIABLE = "ML_PLATFORM_ONLINE"
LOG_VARIABLE = "ML_PLATFORM_PREDICTION_LOG"
PLACES_VARIABLE = "ML_PLATFORM_CLIENT_PLACES"


def create_packed_app() -> PredictApp:
    """Return the application of the model that is packed beside this code, located by the environment variables."""
    log_folder = os.environ.get(LOG_VARIABLE)
    return create_app(
        SOURCE_FOLDER, os.environ.get(ONLINE_VARIABLE, "online"), Path(log_folder) if log_folder else None
    )


def create_app(source: Path, online: str, log_folder: Path | None) -> PredictApp:
    """Return the application of the bento with files in ``source``; it loads the model when the server starts it.

    ``online`` is the location of the online store; without ``log_folder`` it writes no prediction log.
    """
    metadata = json.loads((source / PACKAGE_FILE).read_text())
    store = open_store(online)
    share = float(metadata.get("serving", {}).get("log_share", 1.0))
    places = os.environ.get(PLACES_VARIABLE)
    config = ServiceConfig(
        metadata["model"], metadata["version"], log_folder, _log_key, share, Path(places) if places else None
    )
    return PredictApp(config, lambda: Predictor(source / MODEL_FOLDER, store))


def _log_key() -> PseudonymKey:
    file = os.environ.get(PII_KEY_FILE_VARIABLE)
    return pseudonym_key(Path(file) if file else None, os.environ)
