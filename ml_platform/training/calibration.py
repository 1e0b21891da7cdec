"""From scores to probabilities: fitted on validation rows, kept as a few numbers that numpy alone can apply.

Sources: Platt, "Probabilistic outputs for support vector machines" (1999); Zadrozny and Elkan, "Transforming classifier
scores into accurate multiclass probability estimates" (2002).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.settings import Settings

Method = Literal["none", "isotonic", "platt"]
SMALLEST = 1e-6


class Calibration(Settings):
    """A fitted map from score to probability; `calibration.json` of a model directory."""

    method: Method = Field(default="none", description="Which map.")
    x: list[float] = Field(default_factory=list, description="Isotonic: scores at the knots, ascending.")
    y: list[float] = Field(default_factory=list, description="Isotonic: probabilities at the knots.")
    slope: float = Field(default=1.0, description="Platt: factor of the log-odds.")
    intercept: float = Field(default=0.0, description="Platt: added to the log-odds.")

    def apply(self, score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return probabilities for ``score``, shape (rows,); beyond the isotonic knots the outermost value holds."""
        if self.method == "isotonic":
            return np.interp(score, self.x, self.y)
        if self.method == "platt":
            odds = _logit(score)
            return np.asarray(1.0 / (1.0 + np.exp(-(self.slope * odds + self.intercept))))
        return score


def fit_calibration(method: Method, score: npt.NDArray[np.float64], label: npt.NDArray[np.float64]) -> Calibration:
    """Return the map of ``method`` that makes ``score`` agree best with ``label`` (0 or 1)."""
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score, label)
        # A probability of exactly 0 or 1 would make one surprise infinitely expensive.
        y = np.clip(fitted.y_thresholds_, SMALLEST, 1 - SMALLEST)
        return Calibration(method=method, x=fitted.X_thresholds_.tolist(), y=y.tolist())
    if method == "platt":
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=1e6).fit(_logit(score).reshape(-1, 1), label)
        return Calibration(method=method, slope=float(fitted.coef_[0, 0]), intercept=float(fitted.intercept_[0]))
    return Calibration()


def _logit(score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    clipped = np.clip(score, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(clipped / (1 - clipped)))
