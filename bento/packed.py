"""The application for the model that lies beside this code, in a bento: who runs it decides under which server.

Where it reads features and logs predictions is said by the environment, because a bento runs wherever it is put:
``ML_PLATFORM_ONLINE`` (folder of the online snapshots, or the address of a Valkey or Redis server that holds them, like
``redis://host:6379/0``) and ``ML_PLATFORM_PREDICTION_LOG`` (folder; unset: no log).
"""

import json
import os
from pathlib import Path

from bento.app import PredictApp, Served
from bento.predictor import Predictor
from ml_platform.features.stores import open_store

SOURCE = Path(__file__).resolve().parent.parent
MODEL_DIRECTORY = SOURCE / "model"
PACKAGE_FILE = SOURCE / "package.json"
ONLINE_VARIABLE = "ML_PLATFORM_ONLINE"
LOG_VARIABLE = "ML_PLATFORM_PREDICTION_LOG"


def application() -> PredictApp:
    """Return the application; the model is loaded when the server starts it."""
    packed = json.loads(PACKAGE_FILE.read_text())
    log = os.environ.get(LOG_VARIABLE)
    served = Served(packed["model"], packed["version"], Path(log) if log else None)
    store = open_store(os.environ.get(ONLINE_VARIABLE, "online"))
    return PredictApp(served, lambda: Predictor(MODEL_DIRECTORY, store))
