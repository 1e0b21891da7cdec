"""Scores rows with an XGBoost booster read from its native JSON file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bento.scorer import Features, Scores
from ml_platform.data.contributions import explained_contributions

MODEL_FILE = "booster.json"
DESCRIPTION_FILE = "booster_features.json"


def preload() -> None:
    """Load the library before there is a model; a process that is forked later shares its memory."""
    import xgboost  # noqa: F401


def load(model_dir: Path) -> "XgboostScorer":
    """Return the booster in ``model_dir``, on one thread."""
    import xgboost

    booster = xgboost.Booster({"nthread": 1}, model_file=str(model_dir / MODEL_FILE))
    types = json.loads((model_dir / DESCRIPTION_FILE).read_text())["types"]
    return XgboostScorer(booster, types)


class XgboostScorer:
    """A booster with the type of each feature: ``q`` for a number, ``c`` for the codes of a category."""

    def __init__(self, booster: Any, types: list[str]) -> None:
        self.booster, self.types = booster, types

    def predict(self, features: Features) -> Scores:
        """Return the booster's outputs (rows, outputs)."""
        found = np.asarray(self.booster.predict(self._matrix(features)), dtype=np.float64)
        return found.reshape(len(features), -1)

    def contributions(self, features: Features) -> Scores:
        """Return XGBoost's own contributions (rows, features): Shapley values, without the expected value.

        With several classes they explain the most probable one.

        After Lundberg, Erion and Lee (2018), Consistent individualized feature attribution for tree ensembles.
        """
        found = self.booster.predict(self._matrix(features), pred_contribs=True)
        return explained_contributions(found, features, self.predict)

    def _matrix(self, features: Features) -> Any:
        import xgboost

        return xgboost.DMatrix(features, feature_types=self.types, enable_categorical=True, nthread=1)
