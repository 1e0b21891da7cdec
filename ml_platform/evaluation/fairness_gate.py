"""The gate on fairness: no two declared groups are proven to differ by more than the declared limit."""

from typing import Literal

import numpy as np

from ml_platform.errors import listed
from ml_platform.evaluation.evidence import CANDIDATE, Evidence
from ml_platform.evaluation.fairness import (
    RATE_WORDS,
    FairnessResult,
    FairnessSettings,
    compare_groups,
    labels_to_decide,
)
from ml_platform.evaluation.gate_result import GateResult, Numbers
from ml_platform.evaluation.look import labels_needed_text
from ml_platform.evaluation.slices import slice_table
from ml_platform.tasks.metrics import Array, EvaluationError

FAIRNESS_RATES = {
    "binary": ("selection_rate", "true_positive_rate", "false_positive_rate"),
    "regression": ("mean_error",),
}
"""Rates that can be compared, by the name of the task."""

SHOWN = 5
"""Comparisons and groups that a reason names."""


class FairnessGate(FairnessSettings):
    """Require that the rates of no two groups differ by more than a limit."""

    type: Literal["fairness"] = "fairness"

    @property
    def name(self) -> str:
        return f"fairness_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when no group is beyond a limit; more labels decide about one that is, until it is proven.

        It is undecided too when no column has two groups with enough rows. Raises :class:`EvaluationError` for a group
        column that the rows lack, and without the decision threshold of a rate of answers.
        """
        table, *_ = (
            slice_table(evidence, column, f"Group '{column}' of the gate {self.name}", "groups")
            for column in self.groups
        )
        result = compare_groups(evidence.label, self._answers(evidence), table, evidence.block, self, evidence.settings)
        proven, suspected, rates = result.proven, result.suspected, [each.rate for each in result.rates]
        numbers: Numbers = {"groups": len(rates), "proven": len(proven), "suspected": len(suspected)}
        if rates:
            numbers |= {"lowest": min(rates), "highest": max(rates)}
        needed = None if proven else labels_to_decide(result, self, len(evidence.label))
        return GateResult(
            name=self.name,
            passed=bool(result.differences) and not proven and not suspected,
            numbers=numbers,
            reason=f"{self._reason(result)}{f' {labels_needed_text(needed, None)}' if needed else ''}",
            undecided=bool(suspected or not result.differences) and not proven,
            labels_needed=needed,
        )

    def _answers(self, evidence: Evidence) -> Array:
        prediction = evidence.predictions[CANDIDATE]
        if self.metric == "mean_error":
            return prediction
        threshold = evidence.system_checks.threshold
        if threshold is None:
            raise EvaluationError(
                f"Gate {self.name}",
                expected="the decision threshold of the candidate",
                found="none",
                fix="Use metric: mean_error for a task without a threshold.",
            )
        return (prediction >= threshold).astype(np.float64)

    def _reason(self, result: FairnessResult) -> str:
        small = f" Too few rows to judge: {listed(result.too_small)}." if result.too_small else ""
        if not result.differences:
            rows = f"{self.minimum_support} rows that count"
            return f"No two groups of one column have {rows}, so none was compared.{small}"
        beyond = result.proven or result.suspected
        if not beyond:
            rates = [each.rate for each in result.rates]
            return (
                f"None of {len(result.rates)} groups is beyond the limit: the {RATE_WORDS[self.metric]} is "
                f"{min(rates):.3f} to {max(rates):.3f}.{small}"
            )
        said = "proven to be" if result.proven else "without proof"
        texts = "; ".join(dict.fromkeys(each.text for each in beyond[:SHOWN]))
        return f"Groups {said} beyond the limit of {RATE_WORDS[self.metric]}: {texts}.{small}"
