"""Classes of the team's own: a metric, a gate, a baseline, a calibrator and a sampler."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from ml_platform.evaluation.evidence import CANDIDATE, Evidence
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.own_gate import OwnGate
from ml_platform.tasks.metrics import Array
from ml_platform.tasks.own_metric import MeanMetric
from ml_platform.tasks.task import Task
from ml_platform.training.own_baseline import Baseline
from ml_platform.training.own_calibrator import Calibrator, Knots
from ml_platform.training.own_sampler import Sampler


class Profit(MeanMetric):
    """Mean profit of a delivery when every alert costs one unit and every late delivery found saves ``saved``."""

    saved: float = Field(default=3.0, gt=0, description="Units that a late delivery costs unless it is found.")
    threshold: float = Field(default=0.5, description="Lowest score with an alert.")

    def row_values(self, label: Array, prediction: Array) -> Array:
        return (prediction >= self.threshold) * (self.saved * label - 1.0)


class AlertBudget(OwnGate):
    """Require that no more alerts are raised than people can handle."""

    threshold: float = Field(default=0.5, description="Lowest score with an alert.")
    maximum_share: float = Field(default=0.5, gt=0, le=1, description="Highest share of rows with an alert.")

    def evaluate(self, evidence: Evidence) -> GateResult:
        share = float((evidence.predictions[CANDIDATE] >= self.threshold).mean())
        return GateResult(
            name=self.name,
            passed=share <= self.maximum_share,
            numbers={"share": share},
            reason=f"{share:.1%} of the rows have an alert, at most {self.maximum_share:.1%}.",
        )


class ShopRate(Baseline):
    """The share of late deliveries of each shop."""

    def predict(self, known: pl.DataFrame, test: pl.DataFrame, task: Task) -> Array:
        assert "label" not in test.columns
        rates = known.group_by("shop").agg(rate=pl.col("label").mean())
        joined = test.join(rates, on="shop", how="left", maintain_order="left")
        return joined["rate"].fill_null(known["label"].mean()).to_numpy()


class Bins(Calibrator):
    """The mean label of equally large groups of scores, kept ascending."""

    groups: int = Field(default=5, ge=2, description="Number of groups.")

    def fit(self, score: npt.NDArray[np.float64], label: npt.NDArray[np.float64]) -> Knots:
        parts = np.array_split(np.argsort(score, kind="stable"), self.groups)
        means = np.array([[score[part].mean(), label[part].mean()] for part in parts])
        return means[:, 0], np.maximum.accumulate(means[:, 1])


class FewerNegatives(Sampler):
    """All positives, and a share of the negatives."""

    share: float = Field(default=0.5, gt=0, le=1, description="Share of the negatives that is kept.")
    calls: ClassVar[list[int]] = []

    def rows(
        self,
        features: npt.NDArray[np.float32],
        label: npt.NDArray[np.float64],
        names: Sequence[str],
        random: np.random.Generator,
    ) -> npt.NDArray[np.int64]:
        chosen = np.flatnonzero((label > 0) | (random.random(len(label)) < self.share))
        self.calls.append(len(chosen))
        return chosen
