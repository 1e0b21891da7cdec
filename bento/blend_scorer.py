"""Scores rows with the members of a blend, and averages their scores as training does."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bento.scorer import BLEND_FILE, Features, PathScorer, Scorer, Scores, load_scorer
from ml_platform.data.averaging import mean_prediction
from ml_platform.tasks.catalog import as_task


def load(model_dir: Path) -> "BlendScorer":
    """Return the members that `blend.json` of ``model_dir`` lists."""
    stored = json.loads((model_dir / BLEND_FILE).read_text())
    members = [load_scorer(member, model_dir / member["folder"]) for member in stored["members"]]
    kind = PathBlendScorer if any(isinstance(each, PathScorer) for each in members) else BlendScorer
    return kind(members, probabilities=as_task(stored["task"]).has_probabilities)


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


class PathBlendScorer(BlendScorer):
    """A blend of which at least one member has decision paths."""

    @property
    def contribution_milliseconds(self) -> float:
        """Expected time of :meth:`contributions` for one row, without that of members that have no paths."""
        return sum(each.contribution_milliseconds for each in self._members if isinstance(each, PathScorer))

    def path_contributions(self, features: Features) -> Scores:
        """Return the mean contributions (rows, features), along the decision paths of the members that have any."""
        found = [
            each.path_contributions(features) if isinstance(each, PathScorer) else each.contributions(features)
            for each in self._members
        ]
        return np.asarray(np.mean(found, axis=0))
