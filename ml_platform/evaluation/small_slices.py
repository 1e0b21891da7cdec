"""One test of all slices that are too small to be compared alone, so that none of them goes unnoticed."""

from dataclasses import dataclass

import numpy as np

from ml_platform.evaluation.evidence import CANDIDATE, Evidence
from ml_platform.evaluation.slices import SliceSettings, is_comparable, slice_rows
from ml_platform.tasks.metrics import Array

SIGN_DRAWS = 9999
"""Draws of the signs; the smallest p-value is one in 10,000, before the factor 2 for two statistics."""


@dataclass(frozen=True)
class SmallSlice:
    """A slice below the support, with the mean improvement of its loss (positive means better)."""

    column: str
    value: str
    rows: int
    improvement: float


@dataclass(frozen=True)
class PooledSlices:
    """All small slices, the worst of them first, and the p-value of "no small slice is worse"."""

    slices: list[SmallSlice]
    p_value: float
    loss: str

    @property
    def worst(self) -> SmallSlice:
        """The slice with the strongest evidence of being worse."""
        return self.slices[0]

    def note(self, proven_worse: bool) -> str:
        """Return the result as a sentence that begins with a space."""
        verb = "are proven worse" if proven_worse else "are not proven worse"
        return (
            f" {len(self.slices)} smaller slices together {verb} (p {self.p_value:.4f}); worst: {self.worst.column}="
            f"{self.worst.value} ({self.worst.improvement:+.4f} {self.loss}, {self.worst.rows} rows)."
        )


def pool_small_slices(evidence: Evidence, settings: SliceSettings, opponent: str) -> PooledSlices | None:
    """Return the pooled test of candidate against ``opponent`` in the small slices; None when there is none.

    The loss of a row is that of the task, for example its log loss. Per slice, the statistic is the sum of the
    excess losses over the root of the sum of their squares by block. The null distribution turns the signs of whole
    blocks, for all slices at once, so it knows how slices overlap (Westfall and Young 1993, Resampling-based multiple
    testing). The p-value combines the largest statistic, which finds one bad slice, and the sum of all slices, which
    finds many slightly worse ones, by Bonferroni's method.
    """
    excess = _excess_loss(evidence, opponent) - (settings.margin if settings.metric == "log_loss" else 0.0)
    blocks, codes = np.unique(evidence.block, return_inverse=True)
    small = [each for each in slice_rows(evidence, settings) if not is_comparable(evidence, settings, each[2])]
    if not small:
        return None
    sums = np.array([np.bincount(codes[rows], weights=excess[rows], minlength=len(blocks)) for _, _, rows in small])
    sums = np.vstack([sums, sums.sum(axis=0)])
    scale = np.sqrt(np.square(sums).sum(axis=1)) + 1e-12
    statistic = sums.sum(axis=1) / scale
    generator = np.random.Generator(np.random.PCG64(evidence.settings.seed))
    signs = generator.integers(0, 2, size=(SIGN_DRAWS, len(blocks))) * 2.0 - 1.0
    drawn = signs @ sums.T / scale
    of_one = _share_at_least(drawn[:, :-1].max(axis=1), float(statistic[:-1].max()))
    of_all = _share_at_least(drawn[:, -1], float(statistic[-1]))
    order = np.argsort(-statistic[:-1], kind="stable")
    found = [SmallSlice(column, value, len(rows), -float(excess[rows].mean())) for column, value, rows in small]
    return PooledSlices([found[at] for at in order], min(1.0, 2 * min(of_one, of_all)), evidence.task.loss_text)


def _excess_loss(evidence: Evidence, opponent: str) -> Array:
    candidate, other = evidence.predictions[CANDIDATE], evidence.predictions[opponent]
    of_candidate, of_other = (
        evidence.task.losses(evidence.label, each.reshape(len(each), -1), evidence.context)
        for each in (candidate, other)
    )
    return of_candidate - of_other


def _share_at_least(drawn: Array, value: float) -> float:
    return float((1 + (drawn >= value - 1e-12).sum()) / (1 + len(drawn)))
