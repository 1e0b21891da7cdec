"""Calibration: maps from scores to probabilities, and intervals around predicted values, fitted on validation rows.

Sources: Platt, "Probabilistic outputs for support vector machines" (1999); Zadrozny and Elkan, "Transforming classifier
scores into accurate multiclass probability estimates" (2002); Lin, Lin and Weng, "A note on Platt's probabilistic
outputs for support vector machines" (2007); Lei, G'Sell, Rinaldo, Tibshirani and Wasserman,
"Distribution-free predictive inference for regression" (2018); Boström and Johansson, "Mondrian conformal regressors"
(2020).
"""

import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError
from ml_platform.tasks.task import Task
from ml_platform.training.own_calibrator import PROBABILITY_EPSILON, Calibrator, fitted_knots

CalibrationMethod = Literal["none", "isotonic", "platt"]
Scores = npt.NDArray[np.float64]
NEWTON_STEPS = 100
GRADIENT_TOLERANCE = 1e-9
"""Largest gradient of the mean log loss at the minimum."""
MINIMUM_STANDARD_DEVIATION = 1e-9
"""Standard deviation of log-odds below which all scores count as equal."""
MAXIMUM_INTERVAL_GROUPS = 5
ROWS_PER_INTERVAL_GROUP = 100
"""Fewest validation rows of a group of alike values with an interval width of its own."""


class CalibrationError(PlatformError):
    """Raised when scores cannot be calibrated on these labels."""


class Calibration(Settings):
    """Calibration of a model's output, stored as `calibration.json` of a model directory."""

    method: CalibrationMethod = Field(default="none", description="Map from score to probability.")
    x: list[float] = Field(
        default_factory=list, description="Isotonic, and calibrators of a team's own: scores at the knots, ascending."
    )
    y: list[float] = Field(default_factory=list, description="Isotonic: probabilities at the knots.")
    slope: float = Field(default=1.0, description="Platt: factor of the log-odds.")
    intercept: float = Field(default=0.0, description="Platt: constant that is added to the log-odds.")
    classes: list["Calibration"] = Field(
        default_factory=list,
        description="Several classes: the map of each, after which they are scaled to add up to 1.",
    )
    half_width: float | None = Field(
        default=None, description="Regression: half the width of the interval around a value, in units of the label."
    )
    half_widths: list[float] = Field(
        default_factory=list, description="Regression: half widths by groups of alike values; empty: one for all."
    )
    edges: list[float] = Field(
        default_factory=list, description="Regression: values between these groups, ascending, one less than groups."
    )

    def apply(self, score: Scores) -> Scores:
        """Return probabilities for ``score``, shape (rows,) or (rows, classes).

        Isotonic knots are constant beyond the first and last.
        """
        if self.classes:
            mapped = np.column_stack([each.apply(score[:, column]) for column, each in enumerate(self.classes)])
            return np.asarray(mapped / mapped.sum(axis=1, keepdims=True))
        if self.method == "isotonic":
            return np.interp(score, self.x, self.y)
        if self.method == "platt":
            return _sigmoid(self.slope * logit(score) + self.intercept)
        return score

    def bounds(self, value: Scores) -> tuple[Scores, Scores] | None:
        """Return the lower and upper ends of the intervals around ``value``, shape (rows,); None for probabilities."""
        half_width = self.half_width_at(value)
        return None if half_width is None else (value - half_width, value + half_width)

    def half_width_at(self, value: Scores) -> Scores | None:
        """Return half the width of the interval around each ``value``, shape (rows,); None for probabilities."""
        if self.half_width is None:
            return None
        if not self.half_widths:
            return np.full(len(value), self.half_width)
        return np.asarray(self.half_widths)[np.searchsorted(self.edges, value, side="right")]


def fit_task_calibration(
    task: Task, method: CalibrationMethod | Calibrator, interval: float, prediction: Scores, label: Scores
) -> Calibration:
    """Return the calibration that ``task`` needs: of probabilities, class by class, or of an interval.

    ``prediction`` and ``label`` are those of validation rows. Raises :class:`CalibrationError` as the functions below.
    """
    if task.has_interval:
        return fit_interval(interval, prediction, label)
    if not task.has_probabilities or method == "none":
        return Calibration()
    fitted = []
    for name, (truth, probability) in task.probabilities(label, prediction).items():
        try:
            fitted.append(fit_calibration(method, probability, truth))
        except CalibrationError as error:
            if not task.output_names:
                raise
            subject = f"{error.subject}, class '{name}'"
            raise CalibrationError(subject, expected=error.expected, found=error.found, fix=error.fix) from error
    return Calibration(method=fitted[0].method, classes=fitted) if task.output_names else fitted[0]


def fit_interval(share: float, value: Scores, label: Scores) -> Calibration:
    """Return the interval widths that cover ``share`` of the outcomes (split conformal, Lei et al. 2018).

    Large values often err more than small ones. With at least 200 rows, up to five groups of alike values have a width
    each (Boström and Johansson 2020), and one group has one otherwise. A width is a quantile of the absolute residuals
    of rows that the fit had not seen, one rank higher for the finite sample. Later rows with the same distribution are
    then covered at least as often, in each group. Raises :class:`CalibrationError` when residuals are not finite, or
    too few for the share.
    """
    residuals = np.abs(label - value)
    minimum_rows = int(np.ceil(round(share / (1 - share), 9)))
    not_finite = int((~np.isfinite(residuals)).sum())
    if not_finite or residuals.size < minimum_rows:
        raise CalibrationError(
            "Prediction interval",
            expected=f"enough residuals for {share:.0%} of the outcomes: at least {minimum_rows}",
            found=f"{not_finite} of {residuals.size} that are not numbers" if not_finite else f"{residuals.size}",
            fix="Remove extreme values." if not_finite else "Validate on more windows, or declare a smaller interval.",
        )
    edges = _edges(value, max(ROWS_PER_INTERVAL_GROUP, minimum_rows))
    group = np.searchsorted(edges, value, side="right")
    widths = [_conformal_quantile(share, residuals[group == at]) for at in range(len(edges) + 1)] if len(edges) else []
    return Calibration(half_width=_conformal_quantile(share, residuals), half_widths=widths, edges=edges.tolist())


def _edges(value: Scores, minimum_rows: int) -> Scores:
    """Return the values between groups of at least ``minimum_rows`` rows; empty where the rows give one group only.

    An edge lies between two different values, so that no value of a row is on it.
    """
    distinct, counts = np.unique(value, return_counts=True)
    groups = min(MAXIMUM_INTERVAL_GROUPS, value.size // minimum_rows)
    below = np.cumsum(counts)
    edges, last = [], 0
    for wanted in (value.size * at / groups for at in range(1, groups)):
        at = int(np.searchsorted(below, max(wanted, last + minimum_rows)))
        if at < len(distinct) - 1 and value.size - below[at] >= minimum_rows:
            edges.append((distinct[at] + distinct[at + 1]) / 2)
            last = int(below[at])
    return np.array(edges)


def _conformal_quantile(share: float, residuals: Scores) -> float:
    return float(np.sort(residuals)[int(np.ceil(round((residuals.size + 1) * share, 9))) - 1])


def fit_calibration(method: CalibrationMethod | Calibrator, score: Scores, label: Scores) -> Calibration:
    """Return the map of ``method`` that fits ``score`` to ``label`` (0 or 1), both of shape (rows,).

    All maps are monotonic, so they never reverse the order of two scores. Isotonic pools equal scores first. The map of
    a calibrator of a team's own is stored as isotonic knots, so endpoints need no code of its class. Raises
    :class:`CalibrationError` when a score is not a number, the labels have one class only, or Platt's fit does not
    converge.
    """
    if method == "none":
        return Calibration()
    if not np.isfinite(score).all():
        raise CalibrationError(
            "Calibration",
            expected="scores that are numbers",
            found=f"{int((~np.isfinite(score)).sum())} of {score.size} that are not",
            fix="Lower the learning rate or remove extreme values: the fit diverged.",
        )
    if score.size == 0 or label.min() == label.max():
        raise CalibrationError(
            "Calibration",
            expected="labels of both classes in validation",
            found="no rows" if score.size == 0 else f"{label.size} times {label[0]:g}",
            fix="Validate on more windows, or set calibration to none.",
        )
    if isinstance(method, Calibrator):
        x, y = fitted_knots(method, score, label)
        return Calibration(method="isotonic", x=x, y=y)
    return _fit_isotonic(score, label) if method == "isotonic" else _fit_platt(score, label)


def logit(score: Scores) -> Scores:
    """Return the log-odds of ``score``, which is clipped away from 0 and 1 first so that they are finite."""
    clipped = np.clip(score, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _sigmoid(odds: Scores) -> Scores:
    # tanh does not overflow for large odds, unlike exp.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * odds)))


def _fit_isotonic(score: Scores, truth: Scores) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    # A probability of exactly 0 or 1 would give one wrong answer an infinite loss.
    fitted = IsotonicRegression(y_min=PROBABILITY_EPSILON, y_max=1 - PROBABILITY_EPSILON).fit(score, truth)
    return Calibration(method="isotonic", x=fitted.X_thresholds_.tolist(), y=fitted.y_thresholds_.tolist())


def _fit_platt(score: Scores, truth: Scores) -> Calibration:
    positives = truth.sum()
    negatives = truth.size - positives
    target = np.where(truth > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    odds = logit(score)
    center, spread = float(odds.mean()), float(odds.std())
    base_rate = Calibration(method="platt", slope=0.0, intercept=float(np.log(target.mean() / (1 - target.mean()))))
    if spread < MINIMUM_STANDARD_DEVIATION:
        return base_rate
    weight, intercept = _fit_logistic((odds - center) / spread, target)
    slope = weight / spread
    # A falling map would reverse the order of the scores, so such scores tell nothing beyond the base rate.
    return Calibration(method="platt", slope=slope, intercept=intercept - slope * center) if slope > 0 else base_rate


def _fit_logistic(odds: Scores, target: Scores) -> tuple[float, float]:
    """Return the slope and intercept with the lowest mean log loss for targets between 0 and 1.

    The solver halves its Newton steps until the loss falls. Without the halving they diverge for scores that are
    overconfident or shifted (Lin, Lin and Weng 2007). Raises :class:`CalibrationError` when it does not converge.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # A row with a target between 0 and 1 is a weighted pair of rows, one of each class.
    rows, label = np.concatenate([odds, odds])[:, None], np.repeat([1, 0], odds.size)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=GRADIENT_TOLERANCE, max_iter=NEWTON_STEPS)
    with warnings.catch_warnings():
        # The gradient below decides whether the fit converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, label, sample_weight=np.concatenate([target, 1 - target]))
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    residual = _sigmoid(slope * odds + intercept) - target
    gradient = max(abs(float(np.mean(residual * odds))), abs(float(np.mean(residual))))
    if not gradient <= 2 * GRADIENT_TOLERANCE:
        raise CalibrationError(
            "Calibration by platt",
            expected=f"a minimum of the log loss within {NEWTON_STEPS} steps",
            found=f"a slope of {gradient:.1e} at the last step",
            fix="Set calibration to isotonic, or check the scores of the validation window.",
        )
    return slope, intercept
