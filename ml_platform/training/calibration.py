"""From scores to probabilities, and from values to intervals: fitted on validation rows, kept as a few numbers.

Sources: Platt, "Probabilistic outputs for support vector machines" (1999); Zadrozny and Elkan, "Transforming classifier
scores into accurate multiclass probability estimates" (2002); Lin, Lin and Weng, "A note on Platt's probabilistic
outputs for support vector machines" (2007); Lei, G'Sell, Rinaldo, Tibshirani and Wasserman,
"Distribution-free predictive inference for regression" (2018).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError

CalibrationMethod = Literal["none", "isotonic", "platt"]
Scores = npt.NDArray[np.float64]
PROBABILITY_EPSILON = 1e-6
NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-9
"""Of the gradient of the mean loss."""
SUFFICIENT_DECREASE = 1e-4
SMALLEST_STEP_SHARE = 1e-10
ROUNDING_TOLERANCE = 1e-14
"""By how much rounding may raise a mean loss."""
MINIMUM_STANDARD_DEVIATION = 1e-9
"""Of log-odds: below it, scores are taken to be all equal."""


class CalibrationError(PlatformError):
    """Raised when scores cannot be calibrated on these labels."""


class Calibration(Settings):
    """What validation taught about a model's output; `calibration.json` of a model directory."""

    method: CalibrationMethod = Field(default="none", description="Which map.")
    x: list[float] = Field(default_factory=list, description="Isotonic: scores at the knots, ascending.")
    y: list[float] = Field(default_factory=list, description="Isotonic: probabilities at the knots.")
    slope: float = Field(default=1.0, description="Platt: factor of the log-odds.")
    intercept: float = Field(default=0.0, description="Platt: added to the log-odds.")
    half_width: float | None = Field(default=None, description="Regression: half of the interval around a value.")

    def apply(self, score: Scores) -> Scores:
        """Return probabilities for ``score``, shape (rows,); beyond the isotonic knots the outermost value holds."""
        if self.method == "isotonic":
            return np.interp(score, self.x, self.y)
        if self.method == "platt":
            odds = _logit(score)
            return _sigmoid(self.slope * odds + self.intercept)
        return score

    def bounds(self, value: Scores) -> tuple[Scores, Scores] | None:
        """Return the lower and upper ends of the intervals around ``value``, shape (rows,); None for probabilities."""
        return None if self.half_width is None else (value - self.half_width, value + self.half_width)


def fit_interval(share: float, value: Scores, label: Scores) -> Calibration:
    """Return the width that intervals need to hold ``share`` of the outcomes (split conformal, Lei et al. 2018).

    It is the quantile of the absolute residuals of rows that the fit had not seen, one rank up for the finite sample:
    later rows of the same kind are then inside at least as often. Raises :class:`CalibrationError` when no finite width
    does so: residuals that are not numbers, or too few of them for the share.
    """
    residuals = np.sort(np.abs(label - value))
    rank = int(np.ceil(round((residuals.size + 1) * share, 9)))
    minimum_rows = int(np.ceil(round(share / (1 - share), 9)))
    not_finite = int((~np.isfinite(residuals)).sum())
    if not_finite or rank > residuals.size:
        raise CalibrationError(
            "Prediction interval",
            expected=f"residuals enough for {share:.0%} of the outcomes: at least {minimum_rows}",
            found=f"{not_finite} of {residuals.size} that are not numbers" if not_finite else f"{residuals.size}",
            fix="Look for extreme values." if not_finite else "Validate on more months, or declare a smaller interval.",
        )
    return Calibration(half_width=float(residuals[rank - 1]))


def fit_calibration(method: CalibrationMethod, score: Scores, label: Scores) -> Calibration:
    """Return the map of ``method`` that makes ``score`` agree best with ``label`` (0 or 1).

    Both maps never fall: the order of two scores is never turned around. Isotonic pools equal scores first. Raises
    :class:`CalibrationError` when a score is not a number, the labels are of one kind only, or Platt's fit does not
    converge.
    """
    if method == "none":
        return Calibration()
    if not np.isfinite(score).all():
        raise CalibrationError(
            "Calibration",
            expected="scores that are numbers",
            found=f"{int((~np.isfinite(score)).sum())} of {score.size} that are not",
            fix="The fit diverged: lower the learning rate, or look for extreme values.",
        )
    if score.size == 0 or label.min() == label.max():
        raise CalibrationError(
            "Calibration",
            expected="labels of both kinds in validation",
            found="no rows" if score.size == 0 else f"{label.size} times {label[0]:g}",
            fix="Validate on more months, or set calibration to none.",
        )
    return _fit_isotonic(score, label) if method == "isotonic" else _fit_platt(score, label)


def _logit(score: Scores) -> Scores:
    clipped = np.clip(score, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _sigmoid(odds: Scores) -> Scores:
    # tanh, unlike exp, does not overflow far out.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * odds)))


def _fit_isotonic(score: Scores, truth: Scores) -> Calibration:
    x, place = np.unique(score, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    blocks = _pool_adjacent_violators(np.bincount(place, weights=truth) / weights, weights)
    knots_x: list[float] = []
    knots_y: list[float] = []
    for first, last, mean in blocks:
        # A block is flat: its two ends say it all.
        for at in dict.fromkeys((first, last)):
            knots_x.append(float(x[at]))
            # A probability of exactly 0 or 1 would make one surprise infinitely expensive.
            knots_y.append(min(max(mean, PROBABILITY_EPSILON), 1 - PROBABILITY_EPSILON))
    return Calibration(method="isotonic", x=knots_x, y=knots_y)


def _pool_adjacent_violators(means: Scores, weights: Scores) -> list[tuple[int, int, float]]:
    """Return (first, last, mean) of the blocks that pooling adjacent violators leaves, in order."""
    blocks: list[tuple[int, float, float]] = []
    for at, (mean, weight) in enumerate(zip(means.tolist(), weights.tolist(), strict=True)):
        first, pooled, total = at, mean, weight
        while blocks and blocks[-1][1] >= pooled:
            first, before, before_weight = blocks.pop()
            pooled = (before * before_weight + pooled * total) / (before_weight + total)
            total += before_weight
        blocks.append((first, pooled, total))
    ends = [first - 1 for first, _, _ in blocks[1:]] + [len(means) - 1]
    return [(first, last, mean) for (first, mean, _), last in zip(blocks, ends, strict=True)]


def _fit_platt(score: Scores, truth: Scores) -> Calibration:
    positives = truth.sum()
    negatives = truth.size - positives
    target = np.where(truth > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    odds = _logit(score)
    center, spread = float(odds.mean()), float(odds.std())
    base = Calibration(method="platt", slope=0.0, intercept=float(np.log(target.mean() / (1 - target.mean()))))
    if spread < MINIMUM_STANDARD_DEVIATION:
        return base
    weights = _fit_logistic((odds - center) / spread, target, base.intercept)
    slope = float(weights[0]) / spread
    # A falling map would turn the order of the score around: then the score says nothing beyond the base rate.
    return Calibration(method="platt", slope=slope, intercept=float(weights[1]) - slope * center) if slope > 0 else base


def _fit_logistic(odds: Scores, target: Scores, intercept: float) -> Scores:
    """Return (slope, intercept) of the least log loss, by Newton steps that are halved until the loss falls enough.

    Without the halving Newton's method runs away from scores that are much too sure or shifted (Lin, Lin, Weng 2007).
    Raises :class:`CalibrationError` when no such steps lead to the minimum.
    """
    design = np.column_stack([odds, np.ones(odds.size)])
    weights = np.array([0.0, intercept])
    loss = _mean_loss(design @ weights, target)
    for _ in range(NEWTON_STEPS):
        probability = _sigmoid(design @ weights)
        gradient = design.T @ (probability - target) / target.size
        if np.abs(gradient).max() < NEWTON_TOLERANCE:
            return weights
        curvature = probability * (1 - probability)
        # A breath of ridge keeps the step finite where the curvature vanishes.
        hessian = design.T @ (design * curvature[:, None]) / target.size + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        share, expected_decrease = 1.0, float(gradient @ step)
        while (new_loss := _mean_loss(design @ (weights - share * step), target)) > (
            loss - SUFFICIENT_DECREASE * share * expected_decrease + ROUNDING_TOLERANCE
        ):
            share /= 2
            if share < SMALLEST_STEP_SHARE:
                raise _not_converged(gradient)
        weights, loss = weights - share * step, new_loss
    raise _not_converged(gradient)


def _mean_loss(odds: Scores, target: Scores) -> float:
    return float(np.mean(np.logaddexp(0, odds) - target * odds))


def _not_converged(gradient: Scores) -> CalibrationError:
    return CalibrationError(
        "Calibration by platt",
        expected=f"a minimum of the log loss within {NEWTON_STEPS} steps",
        found=f"a slope of {np.abs(gradient).max():.1e} where it ended",
        fix="Set calibration to isotonic, or look at the scores of the validation month.",
    )
