"""Reliability of probabilities: predicted against observed shares in bins of similar probability."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_platform.tasks.metrics import classification_arrays

CONFIDENCE = 0.95


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of similar probability: their mean prediction, and their share of positives with a 95 % interval."""

    rows: int
    predicted: float
    observed: float
    low: float
    high: float


def reliability_bins(label: npt.ArrayLike, probability: npt.ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Return at most ``bins`` bins of about equally many rows, in order of probability; equal scores share a bin.

    The interval is that of Wilson (1927), which stays within 0 and 1. Raises
    :class:`~ml_platform.tasks.metrics.EvaluationError` as :func:`~ml_platform.tasks.metrics.score` does.
    """
    from statsmodels.stats.proportion import proportion_confint

    truth, scores = classification_arrays(label, probability)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    _, bin_of_row, rows = np.unique(
        np.searchsorted(edges, scores, side="left"), return_inverse=True, return_counts=True
    )
    positives = np.bincount(bin_of_row, weights=truth)
    predicted, observed = np.bincount(bin_of_row, weights=scores) / rows, positives / rows
    low, high = proportion_confint(positives, rows, alpha=1 - CONFIDENCE, method="wilson")
    columns = (values.tolist() for values in (rows, predicted, observed, low, high))
    return [ReliabilityBin(*values) for values in zip(*columns, strict=True)]
