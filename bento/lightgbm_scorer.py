"""Scores rows with a LightGBM booster read from its native file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bento.lightgbm_booster import Booster, library
from bento.scorer import Features, Scores
from ml_platform.data.contributions import explained_contributions


def preload() -> None:
    """Load the library before there is a model; a process that is forked later shares its memory."""
    library()


def load(model_dir: Path) -> "LightGbmScorer | LevelsScorer":
    """Return the booster in `model.txt` of ``model_dir``, or the boosters that `levels.json` lists."""
    levels = model_dir / "levels.json"
    if not levels.is_file():
        return LightGbmScorer(Booster(model_dir / "model.txt"))
    stored = json.loads(levels.read_text())
    return LevelsScorer([LightGbmScorer(Booster(model_dir / file)) for file in stored["files"]], stored["explained"])


class LightGbmScorer:
    """A booster on one thread."""

    def __init__(self, booster: Booster) -> None:
        self._booster = booster

    def predict(self, features: Features) -> Scores:
        """Return the booster's outputs (rows, outputs)."""
        return self._booster.predict(features)

    def contributions(self, features: Features) -> Scores:
        """Return LightGBM's own contributions (rows, features): exact Shapley values, without the expected value.

        With several classes they explain the most probable one.

        After Lundberg, Erion and Lee (2018), Consistent individualized feature attribution for tree ensembles.
        """
        return explained_contributions(self._booster.contributions(features), features, self.predict)


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
