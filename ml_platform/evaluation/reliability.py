"""Whether probabilities mean what they say: predicted against observed shares, bin by bin."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml_platform.evaluation.metrics import classification_arrays

NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of similar probability: their mean prediction, the share of positives and its 95 % interval."""

    rows: int
    predicted: float
    observed: float
    low: float
    high: float


def reliability_bins(label: npt.ArrayLike, probability: npt.ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Return at most ``bins`` bins with equally many rows each, in order of probability; equal scores share a bin.

    The interval is Wilson's (1927), which stays within 0 and 1. Raises as
    :func:`~ml_platform.evaluation.metrics.score` does.
    """
    truth, scores = classification_arrays(label, probability)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    bin_of_row = np.searchsorted(edges, scores, side="left")
    return [
        _reliability_bin(truth[bin_of_row == number], scores[bin_of_row == number]) for number in np.unique(bin_of_row)
    ]


def _reliability_bin(truth: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> ReliabilityBin:
    rows, observed, z = len(truth), float(truth.mean()), NORMAL_975
    center = (observed + z * z / (2 * rows)) / (1 + z * z / rows)
    half_width = z * np.sqrt(observed * (1 - observed) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return ReliabilityBin(
        rows, float(scores.mean()), observed, float(max(0.0, center - half_width)), float(center + half_width)
    )
