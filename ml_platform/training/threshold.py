"""Decision threshold of a binary classifier: its declaration, and its choice on the validation rows."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, model_validator

from ml_platform.data.settings import Settings

MINIMUM_ALERTS = 30
"""Lowest number of positive answers for which a precision is certain enough to choose a threshold."""


class ErrorCosts(Settings):
    """Costs of the two kinds of wrong answer, in any unit, because only their ratio matters."""

    false_positive: float = Field(gt=0, allow_inf_nan=False, description="Cost of a positive answer that is wrong.")
    false_negative: float = Field(gt=0, allow_inf_nan=False, description="Cost of a positive case that is missed.")

    def per_row(self, label: npt.NDArray[np.float64], answers: npt.NDArray[np.bool_] | bool) -> float:
        """Return the mean cost of ``answers`` (one for all rows, or one a row) for ``label`` (0 or 1).

        >>> ErrorCosts(false_positive=1, false_negative=4).per_row(np.array([1.0, 0, 0, 0]), True)
        0.75
        """
        wrong = np.where(answers, (1 - label) * self.false_positive, label * self.false_negative)
        return float(wrong.mean())


class ThresholdSettings(Settings):
    """Rule for choosing the threshold; exactly one must be declared. A number is short for ``fixed``."""

    fixed: float | None = Field(
        default=None, gt=0, lt=1, description="This threshold, independent of the validation rows."
    )
    f_beta: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Highest F-beta score; beta above 1 favours recall, below 1 precision.",
    )
    cost: ErrorCosts | None = Field(default=None, description="Lowest total cost of wrong answers.")
    precision_at: float | None = Field(
        default=None, gt=0, lt=1, description="Highest recall among the thresholds with at least this precision."
    )
    rate: float | None = Field(
        default=None, gt=0, lt=1, description="Share of rows answered as positive, as close as ties allow."
    )

    @model_validator(mode="before")
    @classmethod
    def _number_is_fixed(cls, given: Any) -> Any:
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        return {"fixed": given} if is_number else given

    @model_validator(mode="after")
    def _has_one_rule(self) -> Self:
        declared = sorted(self.model_fields_set & {name for name, value in self if value is not None})
        if len(declared) != 1:
            rules = ", ".join(type(self).model_fields)
            raise ValueError(f"expected exactly one of {rules}; found {' and '.join(declared) or 'none'}")
        return self

    @property
    def rule(self) -> str:
        """The name of the declared rule, for example ``cost``."""
        return next(name for name, value in self if value is not None)

    @property
    def description(self) -> str:
        """The rule as text, for example ``cost (false_positive 1, false_negative 3)``."""
        value = getattr(self, self.rule)
        if isinstance(value, ErrorCosts):
            return f"cost (false_positive {value.false_positive:g}, false_negative {value.false_negative:g})"
        return f"{self.rule} {value:g}"


class AnswerQuality(BaseModel):
    """Quality of the answers at one threshold, as shares of rows.

    ``precision`` is None where no row is answered as positive, ``recall`` where no row is positive.
    """

    alert_rate: float
    precision: float | None
    recall: float | None


class ThresholdChoice(AnswerQuality):
    """A chosen threshold, and the quality of its answers on the validation rows."""

    value: float
    rule: str
    rows: int
    note: str = ""


def choose_threshold(
    settings: ThresholdSettings, label: npt.NDArray[np.float64], score: npt.NDArray[np.float64]
) -> ThresholdChoice:
    """Return the threshold for calibrated ``score`` and ``label`` (0 or 1), shape (rows,), by the declared rule.

    A row is answered as positive when its score is at or above the threshold. Thresholds are halfway between
    neighbouring scores, so rounding does not change the answer of a validation row. Of equally good thresholds, the
    highest is chosen. If no threshold with 30 positive answers reaches ``precision_at``, the result is the threshold
    with the highest precision, and ``note`` reports it.
    """
    if settings.fixed is not None:
        return _described(settings, settings.fixed, label, score)
    from sklearn.metrics import confusion_matrix_at_thresholds

    _, false_positives, false_negatives, true_positives, scores = confusion_matrix_at_thresholds(label, score)
    # The first threshold answers no row as positive, which can be cheapest if false alarms are expensive.
    false_positives = np.concatenate([[0.0], false_positives])
    true_positives = np.concatenate([[0.0], true_positives])
    false_negatives = np.concatenate([[label.sum()], false_negatives])
    thresholds = _between(scores)
    alerts = false_positives + true_positives
    note = ""
    if settings.f_beta is not None:
        weight = settings.f_beta**2
        best = np.argmax(
            (1 + weight) * true_positives / ((1 + weight) * true_positives + weight * false_negatives + false_positives)
        )
    elif settings.cost is not None:
        best = np.argmin(
            settings.cost.false_positive * false_positives + settings.cost.false_negative * false_negatives
        )
    elif settings.rate is not None:
        best = np.argmin(np.abs(alerts / len(label) - settings.rate))
    else:
        best, note = _at_precision(settings.precision_at or 0.0, true_positives, alerts)
    return _described(settings, float(thresholds[best]), label, score, note)


def _between(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return for decreasing ``scores`` the threshold above all scores, then the threshold just below each score."""
    upper = np.concatenate([[1.0], scores])
    lower = np.concatenate([scores, [0.0]])
    halves = (upper + lower) / 2
    # The highest score can be 1, and neighbouring scores can have no number between them.
    upper[0] = np.nextafter(1.0, 2.0)
    return np.where(halves > lower, halves, upper)


def _at_precision(
    minimum: float, true_positives: npt.NDArray[np.float64], alerts: npt.NDArray[np.float64]
) -> tuple[np.intp, str]:
    enough = alerts >= min(MINIMUM_ALERTS, alerts.max())
    precision = np.where(enough, true_positives / np.maximum(alerts, 1.0), 0.0)
    reaching = precision >= minimum
    if reaching.any():
        return np.argmax(np.where(reaching, true_positives, -1.0)), ""
    best = np.argmax(precision)
    return (
        best,
        f"No threshold reaches precision {minimum:g} on the validation rows; the best is {precision[best]:.3f}.",
    )


def _described(
    settings: ThresholdSettings,
    value: float,
    label: npt.NDArray[np.float64],
    score: npt.NDArray[np.float64],
    note: str = "",
) -> ThresholdChoice:
    quality = answer_quality(label, score, value)
    return ThresholdChoice(value=value, rule=settings.description, rows=len(label), note=note, **quality.model_dump())


def answer_quality(label: npt.NDArray[np.float64], score: npt.NDArray[np.float64], threshold: float) -> AnswerQuality:
    """Return the quality of the answers ``score >= threshold`` for ``label`` (0 or 1), both of shape (rows,)."""
    positive = score >= threshold
    hits = float(label[positive].sum())
    return AnswerQuality(
        alert_rate=float(positive.mean()),
        precision=hits / float(positive.sum()) if positive.any() else None,
        recall=hits / float(label.sum()) if label.any() else None,
    )
