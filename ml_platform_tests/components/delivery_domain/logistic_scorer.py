"""Scorer of a logistic regression. A bento carries this module, so it imports no training code."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

FILE = "logistic.json"


def load(model_dir: Path) -> "Logistic":
    """Return the model in ``model_dir``."""
    stored = json.loads((model_dir / FILE).read_text())
    return Logistic(*(np.asarray(stored[name]) for name in ("mean", "spread", "weight")))


class Logistic:
    """Logistic regression on standardised features.

    ``weight`` has shape (features + 1,) with the intercept last. A missing value counts as the mean.
    """

    def __init__(self, mean: npt.NDArray, spread: npt.NDArray, weight: npt.NDArray) -> None:
        self.mean, self.spread, self.weight = mean, spread, weight

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return probabilities, shape (rows,)."""
        return 1 / (1 + np.exp(-(self.contributions(features).sum(axis=1) + self.weight[-1])))

    def contributions(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the contribution of each feature to the log-odds, shape (rows, features)."""
        return np.nan_to_num((features - self.mean) / self.spread) * self.weight[:-1]
