"""Scores rows with a CatBoost model read from its native file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bento.scorer import Features, Scores
from ml_platform.data.contributions import explained_contributions

MODEL_FILE = "model.cbm"
DESCRIPTION_FILE = "model_features.json"
MISSING = b"missing"
"""Category of rows without a known value."""


def preload() -> None:
    """Load the library before there is a model; a process that is forked later shares its memory."""
    import catboost  # noqa: F401


def load(model_dir: Path) -> "CatboostScorer":
    """Return the model in ``model_dir``."""
    import catboost

    description = json.loads((model_dir / DESCRIPTION_FILE).read_text())
    model = catboost.CatBoost().load_model(str(model_dir / MODEL_FILE), format="cbm")
    return CatboostScorer(model, description["categories"], description["probabilities"])


class CatboostScorer:
    """A model with the columns that hold codes of categories; it scores on one thread."""

    def __init__(self, model: Any, categories: Sequence[int], probabilities: bool) -> None:
        self.model, self.categories, self.probabilities = model, list(categories), probabilities

    def predict(self, features: Features) -> Scores:
        """Return the outputs (rows, outputs): probabilities of the classes by their codes, or values."""
        kind = "Probability" if self.probabilities else "RawFormulaVal"
        found = self.model.predict(feature_table(features, self.categories), prediction_type=kind, thread_count=1)
        scores = np.asarray(found, dtype=np.float64).reshape(len(features), -1)
        return scores[:, 1:] if self.probabilities and scores.shape[1] == 2 else scores

    def contributions(self, features: Features) -> Scores:
        """Return CatBoost's own contributions (rows, features): Shapley values, without the expected value.

        With several classes they explain the most probable one.

        After Lundberg, Erion and Lee (2018), Consistent individualized feature attribution for tree ensembles.
        """
        import catboost

        pool = catboost.Pool(feature_table(features, self.categories))
        found = self.model.get_feature_importance(pool, type="ShapValues", thread_count=1)
        ordered = explained_contributions(found, features, self.predict)
        restored = np.empty_like(ordered)
        restored[:, column_order(features.shape[1], self.categories)] = ordered
        return restored


def column_order(columns: int, categories: Sequence[int]) -> list[int]:
    """Return the columns in CatBoost's order: first the numbers, then the categories."""
    return [*(each for each in range(columns) if each not in categories), *categories]


def feature_table(features: Features, categories: Sequence[int]) -> Any:
    """Return ``features`` (rows, features) for CatBoost, with the codes of categories as names."""
    import catboost

    numbers = [each for each in range(features.shape[1]) if each not in categories]
    return catboost.FeaturesData(
        num_feature_data=np.ascontiguousarray(features[:, numbers]) if numbers else None,
        cat_feature_data=_names(features[:, list(categories)]) if categories else None,
    )


def _names(codes: Features) -> npt.NDArray[np.object_]:
    names = np.full(codes.shape, MISSING, dtype=object)
    known = np.isfinite(codes)
    names[known] = [b"%d" % code for code in codes[known].astype(int)]
    return names
