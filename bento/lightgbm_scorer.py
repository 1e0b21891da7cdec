"""Scores rows with a LightGBM booster read from its native file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bento.lightgbm_booster import Booster, library
from bento.scorer import Features, Scores
from bento.tree_paths import TreePaths
from ml_platform.data.contributions import explained_contributions

_MILLISECONDS_PER_WORK = 3e-6
"""Time of TreeSHAP by the work of its paths, as measured: 4.7 ms for 307 trees of 63 leaves."""


def preload() -> None:
    """Load the library before there is a model; a process that is forked later shares its memory."""
    library()


def load(model_dir: Path) -> "LightGbmScorer | LevelsScorer":
    """Return the booster in `model.txt` of ``model_dir``, or the boosters that `levels.json` lists."""
    levels = model_dir / "levels.json"
    if not levels.is_file():
        return _load_one(model_dir / "model.txt")
    stored = json.loads(levels.read_text())
    return LevelsScorer([_load_one(model_dir / file) for file in stored["files"]], stored["explained"])


def _load_one(file: Path) -> "LightGbmScorer":
    return LightGbmScorer(Booster(file), TreePaths.of_file(file))


class LightGbmScorer:
    """A booster on one thread, and the paths of its trees."""

    def __init__(self, booster: Booster, paths: TreePaths) -> None:
        self._booster, self._paths = booster, paths

    @property
    def contribution_milliseconds(self) -> float:
        """Expected time of :meth:`contributions` for one row."""
        return self._paths.full_work * _MILLISECONDS_PER_WORK

    def predict(self, features: Features) -> Scores:
        """Return the booster's outputs (rows, outputs)."""
        return self._booster.predict(features)

    def contributions(self, features: Features) -> Scores:
        """Return LightGBM's own contributions (rows, features): exact Shapley values, without the expected value.

        With several classes they explain the most probable one.

        After Lundberg, Erion and Lee (2018), Consistent individualized feature attribution for tree ensembles.
        """
        return explained_contributions(self._booster.contributions(features), features, self.predict)

    def path_contributions(self, features: Features) -> Scores:
        """Return the contributions (rows, features) along the decision paths, to the same output; see TreePaths."""
        leaves = self._booster.leaf_numbers(features)
        outputs, width = self._booster.outputs.value, features.shape[1]
        # The trees of the outputs take turns.
        trees = np.arange(leaves.shape[1]).reshape(-1, outputs)
        if outputs == 1:
            return self._paths.contributions(leaves, trees[:, 0], width)
        found = np.zeros((len(features), width))
        explained = self.predict(features).argmax(axis=1)
        for output in np.unique(explained):
            rows, of_output = explained == output, trees[:, output]
            found[rows] = self._paths.contributions(leaves[np.ix_(rows, of_output)], of_output, width)
        return found


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

    @property
    def contribution_milliseconds(self) -> float:
        """Expected time of :meth:`contributions` for one row."""
        return self._boosters[self._explained].contribution_milliseconds

    def path_contributions(self, features: Features) -> Scores:
        """Return the contributions (rows, features) along the decision paths to the explained level."""
        return self._boosters[self._explained].path_contributions(features)
