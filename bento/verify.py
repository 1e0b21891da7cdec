"""Scores rows with the packed code and model alone: `python -m bento.verify MODEL_DIR ONLINE < request.json`.

Prints one JSON object: scores, milliseconds of single rows, and where each module of the house was loaded from.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bento.predictor import Predictor
from ml_platform.features.stores import open_store

HOUSE = ("ml_platform", "assets", "resources", "bento")


def verify(model_dir: Path, online: str, body: bytes, timed: int = 200) -> dict[str, Any]:
    """Return the scores of the request ``body`` and the milliseconds of ``timed`` requests of its first row."""
    predictor = Predictor(model_dir, open_store(online))
    now = datetime.now(UTC)
    request = predictor.contract.validate(body)
    scores = predictor.predict(request, now).scores
    single = orjson.dumps({"rows": request.rows[:1]})
    milliseconds = []
    for _ in range(timed):
        started = time.perf_counter()
        predictor.predict(predictor.contract.validate(single), now)
        milliseconds.append((time.perf_counter() - started) * 1000)
    loaded = {name: str(module.__file__) for name, module in sys.modules.items() if name.partition(".")[0] in HOUSE}
    return {"scores": scores, "milliseconds": milliseconds, "modules": loaded}


if __name__ == "__main__":
    print(json.dumps(verify(Path(sys.argv[1]), sys.argv[2], sys.stdin.buffer.read())))
