"""A fit in a separate process that a test kills: `python killed_fit.py TRAINER SETTINGS CHECKPOINT OUT`.

It prints a line per report, so the test can kill it in the middle, and writes the predictions at the end.
"""

import json
import sys
from pathlib import Path

import numpy as np

from ml_platform.training.trainer import Matrix, TrainerSettings, make_trainer


def rows() -> Matrix:
    """Return 3,000 rows of six features whose label depends on the first three."""
    rng = np.random.default_rng(11)
    features = rng.normal(size=(3000, 6)).astype(np.float32)
    features[rng.random(features.shape) < 0.05] = np.nan
    score = np.nan_to_num(features[:, 0]) + np.nan_to_num(features[:, 1] * features[:, 2]) + 0.5 * rng.normal(size=3000)
    return Matrix(features, (score > 0).astype(np.float64), [f"f{at}" for at in range(6)])


def main(trainer: str, settings: str, checkpoint: str, out: str) -> None:
    everything = rows()
    declared = TrainerSettings(trainer=trainer, settings=json.loads(settings))
    fitted = make_trainer(declared, "binary").fit(
        everything.part(0, 2400),
        everything.part(2400, 3000),
        checkpoint=Path(checkpoint),
        report=lambda step, loss: print(step, loss, flush=True),
    )
    np.savez(out, scores=fitted.predict(everything.features), losses=[loss for _, loss in fitted.history])
    print("notes", json.dumps(fitted.notes), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
