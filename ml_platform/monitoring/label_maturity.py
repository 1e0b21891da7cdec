"""How soon labels become known, by outcome: the maturity curve, and rows that represent all predictions despite it.

Labels that are known early are seldom a fair sample: a flight that arrives early is known early. The curve is learnt
from predictions whose labels are due, so it has both the early and the late ones.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.monitoring.outcomes import OUTCOME
from ml_platform.tasks.metrics import Array

AGE_HOURS = "age_hours"
"""Column: hours from the prediction time until the label became known."""

QUANTILES = 100
"""Ages that the curve keeps for each band of outcomes."""

MINIMUM_LABELS = 200
"""Labels below which no curve is learnt."""

MAXIMUM_BANDS = 5
LEAST_KNOWN_SHARE = 0.5
"""Predictions so young that fewer of the labels of some outcome are known are left out of a corrected metric."""

SCORE_BANDS = 10
LARGEST_CORRECTION = 3.0
"""Largest weight of a score band relative to the others."""


class OutcomeBand(BaseModel):
    """Alike outcomes: their share of the labels, and the ages in hours at which their labels became known, ascending.

    ``name`` is a class, or the highest outcome of the band.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    share: float
    ages: list[float]


class MaturityCurve(BaseModel):
    """The share of the eventually known labels that is known by the age of a prediction, by band of outcomes.

    Numbers have at most five bands, one for each value or one for each fifth of the outcomes; classes have a band
    each, the rare ones one together.
    """

    model_config = ConfigDict(frozen=True)

    bands: list[OutcomeBand] = Field(min_length=1)
    labels: int = Field(description="Labels from which the curve was learnt.")
    until: str = Field(default="", description="Last day of the predictions that it was learnt from, in UTC.")

    def known_shares(self, age_hours: Array) -> Array:
        """Return the share of known labels at each age, by band; shape (ages, bands)."""
        return np.column_stack(
            [np.searchsorted(band.ages, age_hours, side="right") / len(band.ages) for band in self.bands]
        )

    def known_share(self, age_hours: Array) -> Array:
        """Return the share of known labels over all outcomes at each age, shape (ages,)."""
        return np.asarray(self.known_shares(age_hours) @ [band.share for band in self.bands])

    def band_of(self, outcome: pl.Series) -> npt.NDArray[np.int64]:
        """Return the number of the band of each outcome; an unknown class belongs to the last band."""
        if outcome.dtype.is_numeric():
            edges = np.array([float(band.name) for band in self.bands[:-1]])
            return np.searchsorted(edges, outcome.to_numpy(), side="left").astype(np.int64)
        numbers = {band.name: number for number, band in enumerate(self.bands)}
        last = len(self.bands) - 1
        return np.array([numbers.get(each, last) for each in outcome.to_list()], dtype=np.int64)

    @property
    def half_known_hours(self) -> dict[str, float]:
        """Age in hours at which half of the labels are known, by band."""
        return {band.name: band.ages[len(band.ages) // 2] for band in self.bands}


def learn_curve(outcomes: pl.DataFrame, until: str = "") -> MaturityCurve | None:
    """Return the curve of ``outcomes`` (``outcome`` without nulls, ``age_hours``); None below 200 labels.

    >>> rows = pl.DataFrame({"outcome": [0.0, 1.0] * 200, "age_hours": [2.0, 6.0] * 200})
    >>> learn_curve(rows).half_known_hours
    {'0': 2.0, '1': 6.0}
    """
    if outcomes.height < MINIMUM_LABELS:
        return None
    outcome, age = outcomes[OUTCOME], outcomes[AGE_HOURS].cast(pl.Float64).to_numpy()
    names = _band_names(outcome)
    empty = MaturityCurve(bands=[OutcomeBand(name=name, share=0, ages=[0.0]) for name in names], labels=0)
    band = empty.band_of(outcome)
    bands = [
        OutcomeBand(name=name, share=float((band == number).mean()), ages=_ages(age[band == number]))
        for number, name in enumerate(names)
        if (band == number).any()
    ]
    return MaturityCurve(bands=bands, labels=outcomes.height, until=until)


def ages_at(predict_at: pl.Series, known_by: datetime) -> Array:
    """Return the hours from each prediction time until ``known_by``, shape (rows,); negative for later predictions."""
    return (pl.Series([known_by]).cast(predict_at.dtype) - predict_at).dt.total_seconds().to_numpy() / 3600.0


def expected_maturity(age_hours: Array, curve: MaturityCurve | None, delay_hours: float) -> float:
    """Return the share of the eventually known labels that should be known at these ages; 1 without predictions.

    Without a curve, no label counts as known before its delay.
    """
    if not len(age_hours):
        return 1.0
    known = curve.known_share(age_hours) if curve is not None else (age_hours >= delay_hours).astype(np.float64)
    return float(known.mean())


def representative_rows(
    rows: pl.DataFrame, *, known_by: datetime, curve: MaturityCurve | None, delay_hours: float, identity: Sequence[str]
) -> pl.DataFrame:
    """Return labelled ``rows`` that represent all predictions by outcome, age and score.

    A row whose label is known by its age with the probability p counts 1/p times (Horvitz and Thompson 1952, A
    generalization of sampling without replacement from a finite universe), then each tenth of the scores counts by its
    number of predictions. Rows are left out by chance, by the hash of ``identity``, so that those that stay have equal
    weight. Labels that are missing for a reason beyond outcome, age and score remain a bias.
    """
    age = ages_at(rows["predict_at"], known_by)
    shares = curve.known_shares(age) if curve is not None else (age >= delay_hours).astype(np.float64)[:, np.newaxis]
    old = shares.min(axis=1) >= LEAST_KNOWN_SHARE
    rows, shares = rows.filter(old), shares[old]
    known = rows[OUTCOME].is_not_null().to_numpy()
    labelled = rows.filter(known)
    if labelled.is_empty():
        return labelled
    band = curve.band_of(labelled[OUTCOME]) if curve is not None else np.zeros(labelled.height, dtype=np.int64)
    weight = 1 / shares[known][np.arange(labelled.height), band]
    score = rows["score"].to_numpy()
    edges = np.unique(np.quantile(score, np.linspace(0, 1, SCORE_BANDS + 1)[1:-1]))
    tenth = np.searchsorted(edges, score, side="left")
    wanted = np.bincount(tenth, minlength=len(edges) + 1).astype(np.float64)
    found = np.bincount(tenth[known], weights=weight, minlength=len(edges) + 1)
    ratio = np.divide(wanted, found, out=np.ones_like(wanted), where=found > 0)
    weight = weight * np.minimum(ratio, LARGEST_CORRECTION * np.median(ratio[found > 0]))[tenth[known]]
    # Another seed than that of the sampling weights, so that both choices are independent.
    chance = labelled.select(pl.struct(list(identity)).hash(seed=1)).to_series().cast(pl.Float64).to_numpy() / 2.0**64
    return labelled.filter(chance < weight / weight.max())


def _band_names(outcome: pl.Series) -> list[str]:
    if not outcome.dtype.is_numeric():
        counts = outcome.cast(pl.String).value_counts(sort=True, name="count")
        counts = counts.sort("count", outcome.name, descending=[True, False])
        return [str(each) for each in counts[outcome.name].head(MAXIMUM_BANDS).to_list()]
    values = outcome.cast(pl.Float64)
    distinct = values.unique().sort()
    if distinct.len() > MAXIMUM_BANDS:
        edges = np.quantile(values.to_numpy(), np.linspace(0, 1, MAXIMUM_BANDS + 1)[1:], method="inverted_cdf")
        distinct = pl.Series(np.unique(edges))
    return [f"{each:.6g}" if float(f"{each:.6g}") >= each else repr(each) for each in distinct.to_list()]


def _ages(age: Array) -> list[float]:
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return [round(float(each), 4) for each in np.quantile(age, levels, method="inverted_cdf")]
