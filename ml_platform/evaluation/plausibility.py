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

    dominant_share: float = Field(
        default=0.9,
        gt=0.5,
        le=1.01,
        description="Share of the importance from which one feature counts as nearly the whole model; the two lower "
        "limits apply then.",
    )
    maximum_auc_of_one_feature: float = Field(
        default=0.97, gt=0.5, le=1.01, description="AUC from which a leak is assumed where one feature is dominant."
    )
    maximum_r2_of_one_feature: float = Field(
        default=0.99, gt=0, le=1.01, description="The same for the explained share of the variance."
    )

    @property
    def name(self) -> str:
        return "plausibility"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the AUC, or R² of a regression, is below its maximum, or when the task has neither.

        The maximum is lower where one of several features has nearly all of the importance: a label that leaks into a
        feature shows so, even if noise or rounding keeps the metric below the first limit.
        """
        feature, share = self._dominant(evidence)
        if "auc" in evidence.task.metrics:
            metric, limits = "AUC", (self.maximum_auc, self.maximum_auc_of_one_feature)
            value = evidence.resampled("auc").points[CANDIDATE]["auc"]
        elif (found := evidence.task.explained_variance(evidence.label, evidence.predictions[CANDIDATE])) is not None:
            metric, limits, value = "R2", (self.maximum_r2, self.maximum_r2_of_one_feature), found
        else:
            return GateResult(name=self.name, passed=True, numbers={}, reason="The task has no AUC and no R2.")
        limit = min(limits) if feature else limits[0]
        passed = value < limit
        alone = f" '{feature}' alone has {share:.0%} of the importance." if feature else ""
        advice = "" if passed else " Look for a feature that contains the label, or raise the limit in defs.yaml."
        return GateResult(
            name=self.name,
            passed=passed,
            numbers={"value": value, "limit": limit, "largest_share": share},
            reason=f"{metric} {value:.4f}, {'below' if passed else 'not below'} {limit:g}.{alone}{advice}",
        )

    def _dominant(self, evidence: Evidence) -> tuple[str, float | None]:
        """Return the feature with nearly all of the importance (empty: none), and the largest share (None: unknown)."""
        shares = evidence.system_checks.importance
        if not shares or len(shares) < 2:
            return "", None
        feature, share = max(shares.items(), key=lambda each: each[1])
        return (feature if share >= self.dominant_share else ""), share
