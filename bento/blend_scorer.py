"""Scores rows with the members of a blend, and averages their scores as training does."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bento.scorer import BLEND_FILE, Features, Scorer, Scores, load_scorer
from ml_platform.data.averaging import mean_prediction
from ml_platform.tasks.catalog import as_task


def load(model_dir: Path) -> "BlendScorer":
    """Return the members that `blend.json` of ``model_dir`` lists."""
    stored = json.loads((model_dir / BLEND_FILE).read_text())
    members = [load_scorer(member, model_dir / member["folder"]) for member in stored["members"]]
    return BlendScorer(members, probabilities=as_task(stored["task"]).has_probabilities)


class BlendScorer:
    """Members that are scored one after the other."""

    def __init__(self, members: Sequence[Scorer], *, probabilities: bool) -> None:
        self._members, self._probabilities = members, probabilities

    def predict(self, features: Features) -> Scores:
        """Return the mean outputs (rows, outputs): the mean of the log-odds for probabilities."""
        return mean_prediction([each.predict(features) for each in self._members], probabilities=self._probabilities)

    def contributions(self, features: Features) -> Scores:
        """Return the mean contributions (rows, features), which are exact for the mean of the log-odds or values."""
        return np.asarray(np.mean([each.contributions(features) for each in self._members], axis=0))
