"""Loads the model of a bento as a scorer; the trainer named in `model.json` decides which module scores it.

The module of a scorer has `load(model_dir) -> Scorer` and imports its own library. A bento carries only the module of
its own model, and those of the members of a blend. A trainer from `assets/` names its scorer as ``"scorer":
"package.module:load"`` in `model.json`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ml_platform.data.references import load_function
from ml_platform.errors import PlatformError, listed

SCORERS = {
    "lightgbm": "bento.lightgbm_scorer:load",
    "torch": "bento.network_scorer:load",
    "blend": "bento.blend_scorer:load",
    "sklearn": "bento.sklearn_scorer:load",
    "xgboost": "bento.xgboost_scorer:load",
    "catboost": "bento.catboost_scorer:load",
}
"""The `load` function for each built-in trainer."""

BLEND_FILE = "blend.json"
"""Lists the members of a blend: the trainer, the scorer and the folder of each."""

Features = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


class ModelUnreadableError(PlatformError):
    """Raised when a model directory is incomplete, or of a kind that no bento can serve."""


class Scorer(Protocol):
    """A loaded model. Safe to share between threads."""

    def predict(self, features: Features) -> Scores:
        """Return the outputs (rows, outputs) of ``features`` (rows, features), before calibration."""

    def contributions(self, features: Features) -> Scores:
        """Return the amount by which each feature raises each score (rows, features), in log-odds or label units."""


@runtime_checkable
class PathScorer(Scorer, Protocol):
    """A model of trees that also has a fast approximation of its contributions."""

    @property
    def contribution_milliseconds(self) -> float:
        """Expected time of :meth:`contributions` for one row."""

    def path_contributions(self, features: Features) -> Scores:
        """Return the contributions (rows, features) along the decision paths of the trees, in the same units."""


def scorer_reference(description: Mapping[str, Any]) -> str:
    """Return ``module:function`` of the `load` function for the model of ``description`` (`model.json`).

    Raises :class:`ModelUnreadableError` for a trainer that is not built in and names no scorer.
    """
    reference = description.get("scorer") or SCORERS.get(description["trainer"])
    if reference is None:
        raise ModelUnreadableError(
            f"Model of trainer '{description['trainer']}'",
            expected=f"a trainer of {listed(SCORERS)}, or a 'scorer' in model.json",
            found="neither",
            fix="Promote a candidate of one of these trainers, or let the trainer name a scorer.",
        )
    return str(reference)


def scorer_references(description: Mapping[str, Any], model_dir: Path) -> list[str]:
    """Return the `load` functions of the model in ``model_dir`` and of the members of a blend, without repetition.

    Raises :class:`ModelUnreadableError` as :func:`scorer_reference` does.
    """
    listed_members = model_dir / BLEND_FILE
    members = json.loads(listed_members.read_text())["members"] if listed_members.is_file() else []
    return list(dict.fromkeys(scorer_reference(each) for each in [description, *members]))


def load_scorer(description: Mapping[str, Any], model_dir: Path) -> Scorer:
    """Return the loaded model of ``model_dir``. Raises :class:`ModelUnreadableError` for an unknown trainer."""
    load: Callable[[Path], Scorer] = load_function(scorer_reference(description))
    return load(model_dir)
