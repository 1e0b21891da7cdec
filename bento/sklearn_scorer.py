"""Scores rows with an estimator of scikit-learn's interface, read from a file of skops, which is no pickle."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bento.hidden_modules import hidden_modules
from bento.scorer import Features, ModelUnreadableError, Scores
from ml_platform.errors import listed

MODEL_FILE = "estimator.skops"
DESCRIPTION_FILE = "estimator.json"
MIN_PROBABILITY = 1e-6
"""Probabilities are clipped to this distance from 0 and 1 before taking their log-odds."""

ROWS_AT_ONCE = 20_000
"""Rows with a replaced feature that are scored in one call."""


def preload() -> None:
    """Load the library before there is a model; a process that is forked later shares its memory."""
    import_skops_alone()


def load(model_dir: Path) -> "SklearnScorer":
    """Return the estimator in ``model_dir``.

    Raises :class:`~bento.scorer.ModelUnreadableError` when the file has types that the trainer did not record.
    """
    skops_io = import_skops_alone()
    description = json.loads((model_dir / DESCRIPTION_FILE).read_text())
    unknown = sorted(set(skops_io.get_untrusted_types(file=model_dir / MODEL_FILE)) - set(description["types"]))
    if unknown:
        raise ModelUnreadableError(
            f"Estimator {model_dir / MODEL_FILE}",
            expected="only types that the trainer trusted and recorded",
            found=listed(unknown),
            fix="Use the file that the trainer wrote: this one was changed.",
        )
    return SklearnScorer(skops_io.load(model_dir / MODEL_FILE, trusted=description["types"]), description)


class SklearnScorer:
    """An estimator and what its scores need.

    ``description`` has the number of ``outputs``, ``probabilities`` (whether scores are probabilities), and the
    ``typical`` value of each feature (null: missing).
    """

    def __init__(self, estimator: Any, description: Mapping[str, Any]) -> None:
        from threadpoolctl import ThreadpoolController

        self.estimator, self.description = estimator, description
        # With several threads, a request of one row waits until they start.
        self._threads = ThreadpoolController()
        self._typical = np.array([np.nan if each is None else each for each in description["typical"]], np.float32)

    def predict(self, features: Features) -> Scores:
        """Return the outputs (rows, outputs): probabilities of the classes by their codes, or values."""
        with self._threads.limit(limits=1):
            return self._predict(features)

    def contributions(self, features: Features) -> Scores:
        """Return each score minus the score with one feature as in the typical row (rows, features).

        The unit is log-odds of a probability, or that of the label. With several classes the most probable one is
        explained. Features are replaced one at a time, so a joint effect counts for each of them.

        After Robnik-Sikonja and Kononenko (2008), Explaining classifications for individual instances.
        """
        size = max(1, ROWS_AT_ONCE // max(1, features.shape[1]))
        parts = [self._contributions(features[start : start + size]) for start in range(0, len(features), size)]
        return np.concatenate(parts) if parts else np.zeros(features.shape)

    def _predict(self, features: Features) -> Scores:
        if not self.description["probabilities"]:
            return np.asarray(self.estimator.predict(features), dtype=np.float64).reshape(len(features), -1)
        found = np.asarray(self.estimator.predict_proba(features), dtype=np.float64)
        classes = np.asarray(self.estimator.classes_).astype(int)
        if self.description["outputs"] == 1:
            return found[:, classes == 1]
        # A sample of the rows may lack a class.
        scores = np.zeros((len(features), self.description["outputs"]))
        scores[:, classes] = found
        return scores

    def _contributions(self, features: Features) -> Scores:
        rows, columns = features.shape
        outputs = self.predict(features)
        explained = outputs.argmax(axis=1)
        copies = np.repeat(features[:, np.newaxis, :], columns, axis=1)
        places = np.arange(columns)
        copies[:, places, places] = self._typical
        changed = self.predict(copies.reshape(rows * columns, columns)).reshape(rows, columns, -1)
        before = self._unit(outputs[np.arange(rows), explained])
        after = self._unit(changed[np.arange(rows)[:, np.newaxis], places, explained[:, np.newaxis]])
        return np.asarray(before[:, np.newaxis] - after)

    def _unit(self, scores: Scores) -> Scores:
        if not self.description["probabilities"]:
            return scores
        clipped = np.clip(scores, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return np.asarray(np.log(clipped / (1 - clipped)))


def import_skops_alone() -> ModuleType:
    """Return `skops.io`, without libraries that it would import only because they are installed."""
    import sklearn  # noqa: F401 # the file of an estimator names its classes, so the bento pins the library

    # skops walks through all modules of scikit-learn, one of which imports torch: seconds at a start, for no use.
    with hidden_modules(("torch", "cupy", "dask", "jax", "pandas", "matplotlib")):
        import skops.io
    library: ModuleType = skops.io
    return library


def typical_row(features: Features, categories: Sequence[int]) -> list[float | None]:
    """Return the mean of each number and the most frequent code of each category, None where no row has a value."""
    found: list[float | None] = []
    for column in range(features.shape[1]):
        values = features[:, column][np.isfinite(features[:, column])].astype(np.float64)
        if not len(values):
            found.append(None)
        elif column in categories:
            codes, counts = np.unique(values, return_counts=True)
            found.append(float(codes[counts.argmax()]))
        else:
            found.append(float(values.mean()))
    return found
