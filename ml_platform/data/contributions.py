"""The contributions of features to the explained output of a model, for training and for serving."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]


def explained_contributions(found: Any, features: Features, predict: Callable[[Features], Scores]) -> Scores:
    """Return the contributions (rows, features) to the most probable output, without the expected value.

    ``found`` has for each row of ``features``, and for each output, the contributions of the features and then the
    expected value. ``predict`` returns the outputs; it is called only if there are several.
    """
    contributions = np.asarray(found, dtype=np.float64).reshape(len(features), -1, features.shape[1] + 1)
    if contributions.shape[1] == 1:
        return contributions[:, 0, :-1]
    explained = predict(features).argmax(axis=1)
    return contributions[np.arange(len(features)), explained, :-1]
