"""The protocol of calibrators of a team's own, which a trainer declares under `calibration`."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ml_platform.data.extensions import Extension

PROBABILITY_EPSILON = 1e-6
Knots = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


class Calibrator(Extension):
    """A map from scores to probabilities, fitted on validation rows and stored as numbers.

    The endpoint applies the stored knots and runs no code of the class.
    """

    kind: ClassVar[str] = "calibrator"

    @abstractmethod
    def fit(self, score: npt.NDArray[np.float64], label: npt.NDArray[np.float64]) -> Knots:
        """Return the scores at the knots, ascending, and the probabilities there, both of shape (knots,).

        ``score`` has the scores of the validation rows from 0 to 1, and ``label`` their labels, 0 or 1, both of shape
        (rows,). With several classes the method is called for each of them. The map is linear between two knots and
        constant beyond the first and the last; a smooth map has, for example, 1,000 knots.
        """


def fitted_knots(
    calibrator: Calibrator, score: npt.NDArray[np.float64], label: npt.NDArray[np.float64]
) -> tuple[list[float], list[float]]:
    """Return the knots of ``calibrator``.

    Raises :class:`~ml_platform.data.extensions.ExtensionError` unless scores ascend and probabilities are within 0 to
    1, without a fall: a falling map would reverse the order of two scores.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in calibrator.fit(score, label))
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise calibrator.error(expected="scores and probabilities of shape (knots,)", found=f"{x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
        raise calibrator.error(expected="scores at the knots that ascend", found="others")
    if not (((y >= 0) & (y <= 1)).all() and (np.diff(y) >= 0).all()):
        raise calibrator.error(expected="probabilities from 0 to 1 that do not fall", found="others")
    # A probability of exactly 0 or 1 would give one wrong answer an infinite loss.
    return x.tolist(), np.clip(y, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON).tolist()
