"""Scores rows with a LightGBM booster read from its native file."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bento.hidden_modules import hidden_modules
from bento.scorer import Features, Scores
from ml_platform.data.contributions import explained_contributions


def load(model_dir: Path) -> "LightGbmScorer | LevelsScorer":
    """Return the booster in `model.txt` of ``model_dir``, or the boosters that `levels.json` lists."""
    lightgbm, levels = _import_lightgbm_alone(), model_dir / "levels.json"
    if not levels.is_file():
        return LightGbmScorer(lightgbm.Booster(model_file=model_dir / "model.txt"))
    stored = json.loads(levels.read_text())
    boosters = [LightGbmScorer(lightgbm.Booster(model_file=model_dir / file)) for file in stored["files"]]
    return LevelsScorer(boosters, stored["explained"])


class LightGbmScorer:
    """A booster on one thread: with several threads, one request in a hundred waits until they start."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    def predict(self, features: Features) -> Scores:
        """Return the booster's outputs (rows, outputs)."""
        scores = np.asarray(self._booster.predict(features, num_threads=1), dtype=np.float64)
        return scores.reshape(len(features), -1)

    def contributions(self, features: Features) -> Scores:
        """Return LightGBM's own contributions (rows, features): exact Shapley values, without the expected value.

        With several classes they explain the most probable one.

        After Lundberg, Erion and Lee (2018), Consistent individualized feature attribution for tree ensembles.
        """
        found = self._booster.predict(features, pred_contrib=True, num_threads=1)
        return explained_contributions(found, features, self.predict)


class LevelsScorer:
    """One booster for each level of a task of several quantiles."""

    def __init__(self, boosters: Sequence[LightGbmScorer], explained: int) -> None:
        self._boosters, self._explained = boosters, explained

    def predict(self, features: Features) -> Scores:
        """Return the outputs of all boosters (rows, levels)."""
        return np.column_stack([each.predict(features)[:, 0] for each in self._boosters])

    def contributions(self, features: Features) -> Scores:
        """Return the contributions (rows, features) to the explained level."""
        return self._boosters[self._explained].contributions(features)


def _import_lightgbm_alone() -> ModuleType:
    # LightGBM imports pandas, scikit-learn and others where they are installed: seconds at every start, for no use.
    with hidden_modules(("pandas", "sklearn", "pyarrow", "dask", "matplotlib")):
        import lightgbm
    return lightgbm
