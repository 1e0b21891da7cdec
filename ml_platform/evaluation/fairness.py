"""Fairness between declared groups: rates of answers by group, and whether two groups differ by more than a limit.

Equal true positive rates are the equal opportunity of Hardt, Price and Srebro (2016, Equality of opportunity in
supervised learning); equal true and false positive rates their equalised odds. A ratio of selection rates of at least
0.8 is the four-fifths rule (Uniform guidelines on employee selection procedures, 29 CFR 1607.4, 1978). Several of these
rates cannot be equal at once where base rates differ (Chouldechova 2017, Fair prediction with disparate impact).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.settings import Settings
from ml_platform.evaluation.bootstrap import (
    Bootstrap,
    BootstrapSettings,
    Difference,
    block_codes,
    draw_counts,
    merge_blocks,
)
from ml_platform.evaluation.slices import holm
from ml_platform.tasks.metrics import Array

Rate = Literal["selection_rate", "true_positive_rate", "false_positive_rate", "mean_error"]

RATE_WORDS = {
    "selection_rate": "share of rows answered as true",
    "true_positive_rate": "share of positive rows answered as true",
    "false_positive_rate": "share of negative rows answered as true",
    "mean_error": "mean of prediction minus outcome",
}
MINIMUM_BLOCKS = 2
MOST_GROUPS = 30
"""Groups of one column that are compared, the largest ones: each two of them are a test."""

_NOTHING, _SCALED = "\0nothing", "\0scaled"
"""Rows of the bootstrap that are no group: the number 0, and the rate of the other group times the lowest ratio."""


class FairnessSettings(Settings):
    """Groups that are compared, the rate, and how far the rates of two groups may be apart."""

    groups: list[str] = Field(min_length=1, description="Request fields whose values are the groups.")
    metric: Rate = Field(
        default="true_positive_rate",
        description="Rate that is compared. For a binary task: selection_rate, true_positive_rate (equal opportunity) "
        "or false_positive_rate, at the decision threshold. For a regression: mean_error.",
    )
    maximum_difference: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Largest difference of two groups; none: no limit."
    )
    minimum_ratio: float | None = Field(
        default=None, gt=0, lt=1, description="Lowest ratio of two groups, like 0.8; none: no limit."
    )
    minimum_support: int = Field(
        default=200, ge=2, description="Rows that count for the rate below which a group is not judged."
    )
    error_rate: float = Field(default=0.05, gt=0, lt=1, description="Chance of any false alarm over all comparisons.")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.maximum_difference is None and self.minimum_ratio is None:
            raise ValueError("fairness needs maximum_difference, minimum_ratio or both")
        if self.metric == "mean_error" and self.minimum_ratio is not None:
            raise ValueError("minimum_ratio compares shares; use maximum_difference for mean_error")
        return self


@dataclass(frozen=True)
class GroupRate:
    """The rate of one group with its interval. ``rows`` are those that count, such as the positive ones."""

    column: str
    value: str
    rows: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupDifference:
    """How far a group and an ``other`` one of its column are beyond a limit: a positive ``excess`` is a violation.

    ``is_proven`` is adjusted for the number of all comparisons.
    """

    column: str
    value: str
    other: str
    limit: str
    rate: float
    other_rate: float
    excess: Difference
    is_proven: bool

    @property
    def text(self) -> str:
        """The comparison in words."""
        groups = f"{self.value} ({self.rate:.3f}) and {self.other} ({self.other_rate:.3f})"
        return f"{self.column} {groups}, {self.limit}"


@dataclass(frozen=True)
class FairnessResult:
    """The rates of all groups, those that were compared, and the groups with too few rows, as ``<column>=<value>``."""

    rates: Sequence[GroupRate]
    differences: Sequence[GroupDifference]
    too_small: Sequence[str]

    @property
    def proven(self) -> list[GroupDifference]:
        """Comparisons that are proven to be beyond the limit, the largest excess first."""
        return sorted((each for each in self.differences if each.is_proven), key=lambda each: -each.excess.value)

    @property
    def suspected(self) -> list[GroupDifference]:
        """Comparisons that are beyond the limit without proof, the largest excess first."""
        beyond = (each for each in self.differences if each.excess.value > 0 and not each.is_proven)
        return sorted(beyond, key=lambda each: -each.excess.value)


def compare_groups(
    label: npt.ArrayLike,
    prediction: npt.ArrayLike,
    groups: pl.DataFrame,
    block: npt.ArrayLike,
    settings: FairnessSettings,
    resampling: BootstrapSettings,
) -> FairnessResult:
    """Return the rate of each group of ``groups``, and the comparison of each two groups of a column.

    ``prediction`` has the answers (0 or 1) of a binary task, or the numbers of a regression. Rows with a null form
    their own group (``'null'``). The groups have intervals by whole blocks, as all metrics; the tests of all columns
    and limits have a family-wise error by Holm's method (1979). A group with fewer rows than the support, or in one
    block only, is not judged, nor are those after the :data:`MOST_GROUPS` largest of a column.
    """
    truth, predicted = np.asarray(label, np.float64), np.asarray(prediction, np.float64)
    counts, values = _counted(truth, predicted, settings.metric)
    codes, blocks = merge_blocks(*block_codes(block), ordered=resampling.ordered, seed=resampling.seed)
    rates: list[GroupRate] = []
    compared: list[tuple[GroupDifference, float]] = []
    too_small: list[str] = []
    for column in settings.groups:
        names = groups[column].cast(pl.String).fill_null("null").to_numpy()
        sums = {}
        for name in np.unique(names):
            rows = np.flatnonzero((names == name) & (counts > 0))
            if len(rows) < settings.minimum_support or len(np.unique(codes[rows])) < MINIMUM_BLOCKS:
                too_small.append(f"{column}={name}")
                continue
            sums[str(name)] = (_block_sums(codes, values, rows, blocks), _block_sums(codes, counts, rows, blocks))
        if not sums:
            continue
        largest = sorted(sums, key=lambda each: -sums[each][1].sum())
        too_small += [f"{column}={name}" for name in largest[MOST_GROUPS:]]
        sums = {name: sums[name] for name in sums if name in largest[:MOST_GROUPS]}
        resampled = _resampled(sums, settings, resampling, blocks)
        rows_of = {name: int(number.sum()) for name, (_, number) in sums.items()}
        for name in sums:
            interval = _contrast(resampled, name, _NOTHING)
            rates.append(GroupRate(column, name, rows_of[name], interval.value, interval.low, interval.high))
        for name, other in combinations(sums, 2):
            compared += _excesses(resampled, column, name, other, settings)
    adjusted = holm([p_value for _, p_value in compared]) if compared else []
    return FairnessResult(
        rates,
        [
            GroupDifference(**{**vars(each), "is_proven": p_value < settings.error_rate})
            for (each, _), p_value in zip(compared, adjusted, strict=True)
        ],
        too_small,
    )


def labels_to_decide(result: FairnessResult, settings: FairnessSettings, rows: int) -> int | None:
    """Return about how many more labels would prove the suspected differences; None where none would."""
    needed = [each.excess.rows_to_decide(0.0, 1 - settings.error_rate) for each in result.suspected]
    counted = [each.excess.rows for each in result.suspected]
    more = [rows * number / of - rows for number, of in zip(needed, counted, strict=True) if number]
    return math.ceil(max(more)) if more and max(more) > 0 else None


def _counted(truth: Array, predicted: Array, metric: Rate) -> tuple[Array, Array]:
    """Return for each row whether it counts (0 or 1), and its value, which is 0 where it does not."""
    if metric == "mean_error":
        return np.ones(len(truth)), predicted - truth
    counts = {
        "selection_rate": np.ones(len(truth)),
        "true_positive_rate": (truth == 1).astype(np.float64),
        "false_positive_rate": (truth == 0).astype(np.float64),
    }[metric]
    return counts, predicted * counts


def _block_sums(codes: npt.NDArray[np.int64], values: Array, rows: npt.NDArray[np.int64], blocks: int) -> Array:
    return np.bincount(codes[rows], weights=values[rows], minlength=blocks).astype(np.float64)


def _resampled(
    sums: dict[str, tuple[Array, Array]], settings: FairnessSettings, resampling: BootstrapSettings, blocks: int
) -> Bootstrap:
    """Return the bootstrap of the rates with the groups as models; those of one column are on the same resamples."""
    left_out = np.ones((blocks, blocks)) - np.eye(blocks) if resampling.ordered else np.empty((0, blocks))
    drawn = np.vstack([np.ones(blocks), draw_counts(blocks, resampling.resamples, resampling.seed), left_out])
    rates: dict[str, Array] = {_NOTHING: np.zeros(len(drawn))}
    for name, (values, number) in sums.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            rates[name] = (drawn @ values) / (drawn @ number)
        if settings.minimum_ratio is not None:
            rates[_SCALED + name] = settings.minimum_ratio * rates[name]
    kept = slice(1, 1 + resampling.resamples)
    rest = slice(1 + resampling.resamples, None)
    metric = settings.metric
    return Bootstrap(
        points={name: {metric: float(rate[0])} for name, rate in rates.items()},
        draws={name: {metric: rate[kept]} for name, rate in rates.items()},
        blocks=blocks,
        rows=int(sum(number.sum() for _, number in sums.values())),
        confidence=resampling.confidence,
        influence={name: {metric: np.nan_to_num(rate[0] - rate[rest])} for name, rate in rates.items()}
        if resampling.ordered
        else {},
    )


def _contrast(resampled: Bootstrap, first: str, second: str) -> Difference:
    """Return ``first`` minus ``second``; for these rates, a bootstrap calls the lower one better."""
    (metric,) = resampled.points[first]
    return resampled.difference(second, first, metric)


def _excesses(
    resampled: Bootstrap, column: str, name: str, other: str, settings: FairnessSettings
) -> Iterator[tuple[GroupDifference, float]]:
    """Yield the comparison of two groups in both directions, with its one-sided p-value."""
    rate, other_rate = (next(iter(resampled.points[each].values())) for each in (name, other))

    def excess(limit: str, found: Difference, bound: float) -> tuple[GroupDifference, float]:
        beyond = Difference(
            found.value - bound,
            found.low - bound,
            found.high - bound,
            found.standard_error,
            found.degrees_of_freedom,
            found.rows,
        )
        difference = GroupDifference(column, name, other, limit, rate, other_rate, beyond, is_proven=False)
        return difference, beyond.one_sided_p_value(0.0)

    for first, second in ((name, other), (other, name)):
        if (bound := settings.maximum_difference) is not None:
            found = _contrast(resampled, first, second)
            yield excess(f"{abs(rate - other_rate):.3f} apart (at most {bound:g})", found, bound)
        if (ratio := settings.minimum_ratio) is not None:
            smaller, larger = sorted((rate, other_rate))
            shown = smaller / larger if larger else 1.0
            found = _contrast(resampled, _SCALED + second, first)
            yield excess(f"ratio {shown:.2f} (at least {ratio:g})", found, 0.0)
