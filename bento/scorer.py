"""The model of a bento as a function: one module per kind of model, chosen by what `model.json` says of the trainer.

A scorer's module has `load(model_dir) -> Scorer` and imports what it needs; a bento carries the module of its own model
and no other. A trainer from `assets/` names its own as ``"scorer": "package.module:load"`` in `model.json`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ml_platform.data.references import load_function
from ml_platform.errors import PlatformError, listed

SCORERS = {"lightgbm": "bento.lightgbm_scorer:load", "torch": "bento.network_scorer:load"}
"""The `load` of each trainer of the project."""

Features = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


class ModelUnreadableError(PlatformError):
    """Raised when a model directory is not whole, or of a kind that no bento can serve."""


class Scorer(Protocol):
    """A model that is loaded and ready. Safe to share between threads."""

    def predict(self, features: Features) -> Scores:
        """Return the raw scores (rows,) of ``features`` (rows, features), before calibration."""

    def contributions(self, features: Features) -> Scores:
        """Return by how much each feature raises each score (rows, features): log-odds, or units of the label."""


def scorer_reference(description: Mapping[str, Any]) -> str:
    """Return ``module:function`` of the `load` for the model that ``description`` (`model.json`) is about.

    Raises :class:`ModelUnreadableError` for a trainer that neither is one of the project nor brings a scorer.
    """
    reference = description.get("scorer") or SCORERS.get(description["trainer"])
    if reference is None:
        raise ModelUnreadableError(
            f"Model of trainer '{description['trainer']}'",
            expected=f"a trainer of {listed(SCORERS)}, or a 'scorer' in model.json",
            found="neither",
            fix="Promote a candidate of one of these trainers, or give the trainer a scorer.",
        )
    return str(reference)


def load_scorer(description: Mapping[str, Any], model_dir: Path) -> Scorer:
    """Return the model in ``model_dir``; raises :class:`ModelUnreadableError` for an unknown trainer."""
    load: Callable[[Path], Scorer] = load_function(scorer_reference(description))
    return load(model_dir)
