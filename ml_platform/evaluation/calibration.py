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


def reliability(label: npt.ArrayLike, probability: npt.ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Return at most ``bins`` bins with equally many rows each, in order of probability; equal scores share a bin.

    The interval is Wilson's (1927), which stays within 0 and 1. Raises as
    :func:`~ml_platform.evaluation.metrics.score` does.
    """
    truth, scores = classification_arrays(label, probability)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    of_row = np.searchsorted(edges, scores, side="left")
    return [_bin(truth[of_row == number], scores[of_row == number]) for number in np.unique(of_row)]


def _bin(truth: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> ReliabilityBin:
    rows, share, z = len(truth), float(truth.mean()), NORMAL_975
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z * np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return ReliabilityBin(rows, float(scores.mean()), share, float(max(0.0, middle - reach)), float(middle + reach))
