"""The BentoML service of every bento: the model directory beside this code, served by `app.py`.

Where it reads features and logs predictions is said by the environment, because a bento runs wherever it is put:
``ML_PLATFORM_ONLINE`` (folder of the online snapshots, or the address of a Valkey or Redis server that holds them, like
``redis://host:6379/0``) and ``ML_PLATFORM_PREDICTION_LOG`` (folder; unset: no log).
"""

import json
import os
from pathlib import Path
from typing import Any

import bentoml

from bento.app import PredictApp, Served
from bento.predictor import Predictor
from ml_platform.features.stores import open_store

SOURCE = Path(__file__).resolve().parent.parent
MODEL_DIRECTORY = SOURCE / "model"
PACKAGE_FILE = SOURCE / "package.json"
ONLINE_VARIABLE = "ML_PLATFORM_ONLINE"
LOG_VARIABLE = "ML_PLATFORM_PREDICTION_LOG"


class PlainService(bentoml.Service[Any]):
    """A BentoML service whose application is ours, without the layers that cost four fifths of the throughput."""

    def to_asgi(self, is_main: bool = True) -> Any:
        return application()


def application() -> PredictApp:
    """Return the application for the model that lies beside this code."""
    packed = json.loads(PACKAGE_FILE.read_text())
    log = os.environ.get(LOG_VARIABLE)
    served = Served(packed["model"], packed["version"], Path(log) if log else None)
    store = open_store(os.environ.get(ONLINE_VARIABLE, "online"))
    return PredictApp(served, lambda: Predictor(MODEL_DIRECTORY, store))


@bentoml.service(name="model", service_class=PlainService, workers=1)
class Model:
    """Scores the rows of a request with the packed model."""
