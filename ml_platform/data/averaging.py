"""The mean prediction of several models, for training and for serving.

Probabilities are averaged as log-odds: the mean of equal probabilities is that probability, and one sure model weighs
more than in the mean of probabilities (Satopää and others 2014, Combining multiple probability predictions using a
simple logit model).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Predictions = npt.NDArray[np.float64]
MINIMUM_PROBABILITY = 1e-15
"""Probabilities are clipped to this distance from 0 and 1, so that their log-odds are finite."""


def mean_prediction(predictions: Sequence[Predictions], *, probabilities: bool) -> Predictions:
    """Return the mean of ``predictions`` of one shape: of the log-odds for ``probabilities``, else of values.

    Probabilities of several outputs, shape (rows, outputs), are scaled to add up to 1.

    >>> float(mean_prediction([np.array([0.2]), np.array([0.8])], probabilities=True)[0])
    0.5
    """
    if not probabilities:
        return np.asarray(np.mean(predictions, axis=0))
    clipped = np.clip(predictions, MINIMUM_PROBABILITY, 1 - MINIMUM_PROBABILITY)
    odds = np.mean(np.log(clipped) - np.log1p(-clipped), axis=0)
    # tanh does not overflow for large odds, unlike exp.
    mean = np.asarray(0.5 * (1 + np.tanh(0.5 * odds)))
    return mean / mean.sum(axis=1, keepdims=True) if mean.ndim > 1 and mean.shape[1] > 1 else mean
