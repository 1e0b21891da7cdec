"""Creates the application for the model that is packed beside this code in a bento; the caller chooses the server.

Two environment variables locate its features and its log, because a bento can run anywhere:

- ``ML_PLATFORM_ONLINE``: folder of the online snapshots, or address of a Valkey or Redis server with them, such as
  ``redis://host:6379/0``
- ``ML_PLATFORM_PREDICTION_LOG``: folder of the prediction log; unset: no log
"""

import json
import os
from pathlib import Path

from bento.app import PredictApp, ServiceConfig
from bento.predictor import Predictor
from ml_platform.features.stores import open_store

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
MODEL_FOLDER = SOURCE_FOLDER / "model"
PACKAGE_FILE = SOURCE_FOLDER / "package.json"
ONLINE_VARIABLE = "ML_PLATFORM_ONLINE"
LOG_VARIABLE = "ML_PLATFORM_PREDICTION_LOG"


def create_app() -> PredictApp:
    """Return the application; it loads the model when the server starts it."""
    metadata = json.loads(PACKAGE_FILE.read_text())
    log_folder = os.environ.get(LOG_VARIABLE)
    config = ServiceConfig(metadata["model"], metadata["version"], Path(log_folder) if log_folder else None)
    store = open_store(os.environ.get(ONLINE_VARIABLE, "online"))
    return PredictApp(config, lambda: Predictor(MODEL_FOLDER, store))
