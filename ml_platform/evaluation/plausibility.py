"""The gate against models that are too good to be true, because a feature contains the label."""

from typing import Literal

from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.evaluation.evidence import CANDIDATE, Evidence
from ml_platform.evaluation.gate_result import GateResult


class PlausibilityGate(Settings):
    """Reject a candidate that is too good to be true: one of its features probably contains the label."""

    type: Literal["plausibility"] = "plausibility"
    maximum_auc: float = Field(default=0.995, gt=0.5, le=1.01, description="AUC from which a leak is assumed.")
    maximum_r2: float = Field(
        default=0.999, gt=0, le=1.01, description="Explained share of the variance from which a leak is assumed."
    )

    @property
    def name(self) -> str:
        return "plausibility"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the AUC, or R² of a regression, is below its maximum, or when the task has neither."""
        if "auc" in evidence.task.metrics:
            metric, limit = "AUC", self.maximum_auc
            value = evidence.resampled("auc").points[CANDIDATE]["auc"]
        elif (share := evidence.task.explained_variance(evidence.label, evidence.predictions[CANDIDATE])) is not None:
            metric, limit, value = "R2", self.maximum_r2, share
        else:
            return GateResult(name=self.name, passed=True, numbers={}, reason="The task has no AUC and no R2.")
        passed = value < limit
        advice = "" if passed else " Look for a feature that contains the label, or raise the limit in defs.yaml."
        return GateResult(
            name=self.name,
            passed=passed,
            numbers={"value": value, "limit": limit},
            reason=f"{metric} {value:.4f}, {'below' if passed else 'not below'} {limit:g}.{advice}",
        )
