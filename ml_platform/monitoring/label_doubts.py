"""Doubts about the known labels of a period: too few of them, or others than those that are missing.

A doubt is a finding with its numbers. Only a part of them can be corrected: labels that are missing by their outcome,
given age and score, look like a model that predicts too high or too low.
"""

from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict

from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.tasks.metrics import Array

DoubtKind = Literal["immature", "coverage", "score", "base_rate"]

COVERAGE_DROP = 0.03
"""Share of the due labels below the usual share that is a doubt."""

SCORE_SHIFT = 0.05
"""Difference of the mean score of labelled and of all due predictions, in standard deviations, that is a doubt."""

EXPLAINED_SHARE = 0.5
"""Share of a gap of the base rate that the missing labels must be able to explain."""

MINIMUM_DUE = 100
"""Due predictions below which missing labels are no finding."""

DEVIATIONS = 3.0
"""Standard errors that a difference must exceed."""


class Doubt(BaseModel):
    """One reason why a metric on the known labels may mislead."""

    model_config = ConfigDict(frozen=True)

    kind: DoubtKind
    text: str

    @property
    def is_of_missing_labels(self) -> bool:
        """Whether waiting does not resolve it: labels that are due are missing."""
        return self.kind != "immature"


def maturity_doubt(maturity: float, minimum: float, pending: int) -> Doubt | None:
    """Return the doubt that a smaller share than ``minimum`` of the labels should be known yet."""
    if maturity >= minimum:
        return None
    text = f"{maturity:.0%} of the labels are known, or should be known by now; {minimum:.0%} are required"
    return Doubt(kind="immature", text=f"{text}, and {pending} are not due.")


def missing_doubts(rows: pl.DataFrame, usual_coverage: float | None) -> list[Doubt]:
    """Return the doubts about ``rows``, predictions whose labels are due (``score``, ``outcome``; null: missing).

    ``usual_coverage`` is the share of examples that get a label at all; None expects a label of each. Below 100 rows
    there is none.
    """
    known = rows[OUTCOME].is_not_null().to_numpy()
    if len(known) < MINIMUM_DUE or not known.any():
        return []
    found = []
    usual = 1.0 if usual_coverage is None else usual_coverage
    coverage = float(known.mean())
    error = np.sqrt(max(usual * (1 - usual), 0.01) / len(known))
    if usual - coverage > max(COVERAGE_DROP, DEVIATIONS * error):
        basis = "of each prediction" if usual_coverage is None else f"of {usual:.1%} of them"
        text = f"{coverage:.1%} of the due labels are known; a label {basis} is expected."
        found.append(Doubt(kind="coverage", text=text))
    shift = score_shift(rows["score"].to_numpy(), known)
    if abs(shift) > SCORE_SHIFT:
        side = "higher" if shift > 0 else "lower"
        text = (
            f"Labels are missing by score: predictions without a label score {side}, which moves the mean score of the "
            f"labelled ones by {abs(shift):.2f} standard deviations."
        )
        found.append(Doubt(kind="score", text=text))
    return found


def score_shift(score: Array, known: npt.NDArray[np.bool_]) -> float:
    """Return the mean score of all rows minus that of the ``known`` ones, in standard deviations; 0 if by chance."""
    missing = score[~known]
    spread = float(score.std())
    if len(missing) < 2 or spread == 0 or known.sum() < 2:
        return 0.0
    labelled = score[known]
    error = np.sqrt(missing.var(ddof=1) / len(missing) + labelled.var(ddof=1) / len(labelled))
    if abs(missing.mean() - labelled.mean()) <= DEVIATIONS * error:
        return 0.0
    return float((score.mean() - labelled.mean()) / spread)


def base_rate_doubt(
    base_rate: float, expected: tuple[float, float, float], coverage: float, usual_coverage: float | None
) -> Doubt | None:
    """Return the doubt that the mean outcome of the labelled rows is beyond the ``expected`` value and interval.

    ``expected`` is the calibrated mean score of the same rows, with the ends of its interval, for outcomes from 0 to 1.
    It is a doubt about labels only if those that are missing beyond the usual share could explain half of the gap: a
    gap with all labels is a finding about the model.
    """
    value, low, high = expected
    if low <= base_rate <= high:
        return None
    unexplained = max(0.0, (1.0 if usual_coverage is None else usual_coverage) - coverage)
    largest = unexplained * ((1 - base_rate) if value > base_rate else base_rate)
    if largest < EXPLAINED_SHARE * abs(value - base_rate):
        return None
    text = (
        f"The mean outcome is {base_rate:.3f}, and {value:.3f} ({low:.3f} to {high:.3f}) is expected by the scores: "
        "labels are missing by their outcome, or the outcomes have changed. No weighting by scores corrects the former."
    )
    return Doubt(kind="base_rate", text=text)


def due_rows(rows: pl.DataFrame, known_by: datetime, delay_hours: float) -> pl.DataFrame:
    """Return the predictions whose labels are due at ``known_by``, ``delay_hours`` after the prediction time."""
    return rows.filter(pl.col("predict_at") + pl.duration(seconds=round(delay_hours * 3600)) <= known_by)
