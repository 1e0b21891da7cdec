"""Gates that a model declares. Each evaluates one aspect of the evidence as passed, failed or not decided yet.

Each class has the settings of one gate and, in `evaluate`, the rule that uses them.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.evaluation.evidence import CANDIDATE, CHAMPION, Evidence
from ml_platform.evaluation.metrics import HIGHER_IS_BETTER, EvaluationError, MetricName
from ml_platform.evaluation.slices import SliceComparison, SliceSettings, compare_slices

Numbers = dict[str, float | None]

CHAMPION_FITTED_NOTE = " The champion is of a later month and was fitted on these rows, which favours it."


class GateResult(BaseModel):
    """Result of one gate. ``undecided`` marks a failure that may become a pass with more labels."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    passed: bool
    numbers: Numbers
    reason: str
    undecided: bool = False
    labels_needed: int | None = None


class PairedTestGate(Settings):
    """Require a candidate that is better than the champion, or newer and not worse by more than a margin."""

    type: Literal["paired_test"] = "paired_test"
    metric: MetricName = Field(default="auc", description="Primary metric of the comparison.")
    margin: float = Field(
        default=0.0,
        ge=0,
        description="How much worse a candidate with newer data may be, in units of the metric; 0: it must be better.",
    )

    @property
    def name(self) -> str:
        return f"paired_test_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the lower end of the improvement's interval is above 0, or above -margin for newer data.

        A champion that was fitted on the rows has an advantage. The rule stays the same, and the reason mentions it.
        """
        if CHAMPION not in evidence.predictions:
            value = evidence.resampled(self.metric).points[CANDIDATE][self.metric]
            return GateResult(
                name=self.name, passed=True, numbers={self.metric: value}, reason="No champion yet: nothing to beat."
            )
        bound = -self.margin if evidence.candidate_is_newer else 0.0
        result = _compare_with(self.name, evidence, CHAMPION, self.metric, bound)
        return (
            result.model_copy(update={"reason": result.reason + CHAMPION_FITTED_NOTE})
            if evidence.champion_fitted_on_rows
            else result
        )


class BaselineGate(Settings):
    """Require a candidate that is better than every baseline."""

    type: Literal["baseline"] = "baseline"
    metric: MetricName = Field(default="log_loss", description="Metric of the comparison with the baselines.")
    required: list[str] = Field(
        default_factory=list, description="Baselines that must be evaluated, for example ['request_only']."
    )

    @property
    def name(self) -> str:
        return f"baseline_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the interval of the improvement is above 0 for every baseline."""
        missing = [name for name in self.required if name not in evidence.predictions]
        if missing or not evidence.baselines:
            return GateResult(
                name=self.name,
                passed=False,
                numbers={},
                reason=f"Baselines not evaluated: {', '.join(missing) or 'none were given'}.",
            )
        results = [_compare_with(self.name, evidence, baseline, self.metric, 0.0) for baseline in evidence.baselines]
        numbers: Numbers = {}
        for baseline, result in zip(evidence.baselines, results, strict=True):
            numbers |= {f"{key}_over_{baseline}": value for key, value in result.numbers.items()}
        failed = [result for result in results if not result.passed]
        return GateResult(
            name=self.name,
            passed=not failed,
            numbers=numbers,
            reason=" ".join(result.reason for result in failed or results),
            undecided=bool(failed) and all(result.undecided for result in failed),
            labels_needed=max((result.labels_needed or 0 for result in failed), default=0) or None,
        )


class MetricLimitGate(Settings):
    """Require a metric within a fixed limit, whatever the champion's metric is."""

    type: Literal["metric_limit"] = "metric_limit"
    metric: MetricName = Field(description="Metric that is limited.")
    limit: float = Field(description="Lowest allowed value; for a metric where lower is better, the highest.")
    confident: bool = Field(
        default=False, description="Compare the worse end of the interval with the limit, not the value."
    )

    @property
    def name(self) -> str:
        return f"metric_limit_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the value, or with ``confident`` the worse end of its interval, is within the limit."""
        interval = evidence.resampled(self.metric).interval(CANDIDATE, self.metric)
        higher = self.metric in HIGHER_IS_BETTER
        worse, better = (interval.low, interval.high) if higher else (interval.high, interval.low)
        limited_value = worse if self.confident else interval.value
        passed = limited_value >= self.limit if higher else limited_value <= self.limit
        within = better >= self.limit if higher else better <= self.limit
        undecided = not passed and self.confident and within
        needed = None
        if undecided and (interval.value > self.limit if higher else interval.value < self.limit):
            # The width of an interval falls with the square root of the number of rows.
            factor = ((interval.value - worse) / (interval.value - self.limit)) ** 2
            needed = math.ceil((factor - 1) * len(evidence.label))
        return GateResult(
            name=self.name,
            passed=passed,
            numbers={"value": interval.value, "low": interval.low, "high": interval.high, "limit": self.limit},
            reason=f"{self.metric} {interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f}), "
            f"{'at least' if higher else 'at most'} {self.limit:g} {'kept' if passed else 'missed'}"
            f"{' by the worse end of the interval' if self.confident else ''}.{_labels_needed_note(needed)}",
            undecided=undecided,
            labels_needed=needed,
        )


class CalibrationGate(Settings):
    """Require calibrated probabilities, on average and by bins."""

    type: Literal["calibration"] = "calibration"
    maximum_ece: float = Field(default=0.05, gt=0, le=1, description="Highest expected calibration error (ECE).")
    maximum_bias: float = Field(
        default=0.05, gt=0, le=1, description="Highest difference between mean probability and base rate."
    )

    @property
    def name(self) -> str:
        return "calibration"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the calibration error and the overall bias are both within their limits."""
        ece = evidence.resampled("ece").interval(CANDIDATE, "ece")
        bias = float(evidence.predictions[CANDIDATE].mean() - evidence.label.mean())
        passed = ece.value <= self.maximum_ece and abs(bias) <= self.maximum_bias
        return GateResult(
            name=self.name,
            passed=passed,
            numbers={"ece": ece.value, "ece_low": ece.low, "ece_high": ece.high, "bias": bias},
            reason=f"ECE {ece.value:.4f} (at most {self.maximum_ece:g}), mean probability off by {bias:+.4f} "
            f"(at most {self.maximum_bias:g}): {'kept' if passed else 'missed'}.",
        )


class SliceGate(SliceSettings):
    """Require that no declared slice is worse than with the champion by more than a margin."""

    type: Literal["slices"] = "slices"

    @property
    def name(self) -> str:
        return f"slices_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when every slice with enough rows meets ``criterion``; Holm's method limits the family-wise error."""
        if CHAMPION not in evidence.predictions:
            return GateResult(name=self.name, passed=True, numbers={}, reason="No champion yet: no slice can regress.")
        comparisons = compare_slices(evidence, self)
        worse = [each for each in comparisons if each.proven_worse]
        unproven = [each for each in comparisons if not each.proven_not_worse]
        failed = unproven if self.criterion == "proven_not_worse" else worse
        numbers: Numbers = {"slices": len(comparisons), "proven_worse": len(worse), "not_proven_safe": len(unproven)}
        if comparisons:
            numbers["worst_improvement"] = min(each.difference.value for each in comparisons)
        undecided = bool(failed) and not worse
        needed = self._labels_needed(evidence, failed) if undecided else None
        return GateResult(
            name=self.name,
            passed=bool(comparisons) and not failed,
            numbers=numbers,
            reason=f"{self._reason(comparisons, failed)}{_labels_needed_note(needed)}",
            undecided=undecided,
            labels_needed=needed,
        )

    def _labels_needed(self, evidence: Evidence, failed: list[SliceComparison]) -> int | None:
        """Return the labels that the slice with the largest need takes, if slices keep their shares of the rows."""
        needed = [each.difference.rows_to_decide(-self.margin, 1 - self.error_rate) for each in failed]
        total = len(evidence.label)
        more_labels = [
            total * rows / each.rows - total for rows, each in zip(needed, failed, strict=True) if rows is not None
        ]
        return math.ceil(max(more_labels)) if more_labels and max(more_labels) > 0 else None

    def _reason(self, comparisons: list[SliceComparison], failed: list[SliceComparison]) -> str:
        if not comparisons:
            return f"No slice has {self.minimum_support} rows with both classes, so no slice was compared."
        if not failed:
            return f"None of {len(comparisons)} slices is worse by more than {self.margin:g} {self.metric}."
        worst = sorted(failed, key=lambda each: each.difference.value)[:5]
        listed_slices = ", ".join(
            f"{each.column}={each.value} ({each.difference.value:+.4f}, {each.rows} rows)" for each in worst
        )
        description = "proven worse" if any(each.proven_worse for each in failed) else "not proven safe"
        count = f"{len(failed)} of {len(comparisons)} slices"
        return f"{count} {description} at margin {self.margin:g} {self.metric}: {listed_slices}."


class LeakGate(Settings):
    """Require a leak check that ran and found no leak."""

    type: Literal["leak"] = "leak"

    @property
    def name(self) -> str:
        return "leak"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the leak check ran and its list of leaks is empty."""
        return _findings_result(self.name, evidence.system_checks.leaks, "leak check", "features that know the future")


class ContractGate(Settings):
    """Require that the candidate's data violates no contract."""

    type: Literal["contract"] = "contract"

    @property
    def name(self) -> str:
        return "contract"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the contract check ran and its list of violations is empty."""
        return _findings_result(self.name, evidence.system_checks.contract_violations, "contract check", "broken rules")


class LatencyGate(Settings):
    """Require a packaged model that answers fast enough."""

    type: Literal["latency"] = "latency"
    maximum_p99_ms: float = Field(default=20.0, gt=0, description="Highest p99 latency of one row, in milliseconds.")

    @property
    def name(self) -> str:
        return "latency"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the measured latency is within the limit."""
        return _limit_result(self.name, evidence.system_checks.latency_p99_ms, self.maximum_p99_ms, "p99 latency", "ms")


class SizeGate(Settings):
    """Require a packaged model that is small enough to roll out."""

    type: Literal["size"] = "size"
    maximum_mb: float = Field(default=500.0, gt=0, description="Highest size of the packaged bento, in megabytes.")

    @property
    def name(self) -> str:
        return "size"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the measured size is within the limit."""
        size = evidence.system_checks.size_bytes
        return _limit_result(self.name, None if size is None else size / 1e6, self.maximum_mb, "bento", "MB")


Gate = Annotated[
    PairedTestGate
    | BaselineGate
    | MetricLimitGate
    | CalibrationGate
    | SliceGate
    | LeakGate
    | ContractGate
    | LatencyGate
    | SizeGate,
    Field(discriminator="type"),
]


def evaluate_gates(gates: list[Gate], evidence: Evidence) -> list[GateResult]:
    """Return the result of every gate, in order. Raises :class:`EvaluationError` for two gates with the same name."""
    names = [gate.name for gate in gates]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise EvaluationError(
            "Gates",
            expected="each declared once per metric",
            found=f"twice: {', '.join(duplicates)}",
            fix="Merge the two in the model's defs.yaml.",
        )
    return [gate.evaluate(evidence) for gate in gates]


def _compare_with(name: str, evidence: Evidence, opponent: str, metric: str, bound: float) -> GateResult:
    difference = evidence.resampled(metric).difference(CANDIDATE, opponent, metric)
    passed = difference.low > bound
    undecided = not passed and difference.value > bound
    needed = difference.rows_to_decide(bound, evidence.settings.confidence) if undecided else None
    measured_difference = (
        f"{metric} better than {opponent} by {difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
    )
    note = _labels_needed_note(needed - difference.rows if needed else None)
    return GateResult(
        name=name,
        passed=passed,
        numbers={
            "improvement": difference.value,
            "low": difference.low,
            "high": difference.high,
            "bound": bound,
            "p_value": difference.one_sided_p_value(bound),
        },
        reason=f"{measured_difference}, {'above' if passed else 'not above'} {bound:g} with confidence.{note}",
        undecided=undecided,
        labels_needed=needed - difference.rows if needed else None,
    )


def _labels_needed_note(labels: int | None) -> str:
    return f" About {labels:,} more labels would decide." if labels else ""


def _findings_result(name: str, findings: list[str] | None, check: str, description: str) -> GateResult:
    if findings is None:
        return GateResult(name=name, passed=False, numbers={}, reason=f"The {check} has not run.")
    reason = (
        f"{len(findings)} {description}: {', '.join(findings[:5])}."
        if findings
        else f"The {check} found no {description}."
    )
    return GateResult(name=name, passed=not findings, numbers={"found": len(findings)}, reason=reason)


def _limit_result(name: str, value: float | None, limit: float, description: str, unit: str) -> GateResult:
    if value is None:
        return GateResult(
            name=name, passed=False, numbers={"limit": limit}, reason=f"The {description} was not measured."
        )
    return GateResult(
        name=name,
        passed=value <= limit,
        numbers={"value": value, "limit": limit},
        reason=f"{description} {value:.2f} {unit}, at most {limit:g} {unit}.",
    )
