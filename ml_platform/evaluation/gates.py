"""Gates that a model declares. Each evaluates one aspect of the evidence as passed, failed or not decided yet.

Each class has the settings of one gate and, in `evaluate`, the rule that uses them.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ml_platform.data.extensions import is_reference
from ml_platform.data.settings import Settings
from ml_platform.evaluation.bootstrap import Bootstrap, Difference
from ml_platform.evaluation.evidence import BASE_RATE, CANDIDATE, CHAMPION, Evidence
from ml_platform.evaluation.fairness_gate import FairnessGate
from ml_platform.evaluation.gate_result import GateResult, Numbers
from ml_platform.evaluation.look import labels_needed_text
from ml_platform.evaluation.own_features_gate import OWN_FEATURES, own_features_result
from ml_platform.evaluation.own_gate import OwnGate
from ml_platform.evaluation.plausibility import PlausibilityGate
from ml_platform.evaluation.slices import SliceComparison, SliceSettings, compare_slices
from ml_platform.evaluation.small_slices import pool_small_slices
from ml_platform.evaluation.system_gates import ContractGate, LatencyGate, LeakGate, SizeGate
from ml_platform.tasks.metrics import RARE_SHARE, EvaluationError

NOT_SCORED = f"Not compared: the champion was not scored, see {OWN_FEATURES}."

CHAMPION_FITTED_NOTE = " The champion was fitted on some of these rows, which favours it."


class PairedTestGate(Settings):
    """Require a candidate that is better than the champion, or newer and not worse by more than a margin."""

    type: Literal["paired_test"] = "paired_test"
    metric: str = Field(default="auc", description="Primary metric of the comparison.")
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

        Fail for good only when the interval excludes an improvement beyond the margin; otherwise more labels decide. A
        champion that was fitted on the rows has an advantage. The rule stays the same, and the reason mentions it.
        """
        if CHAMPION not in evidence.predictions:
            value = evidence.resampled(self.metric).points[CANDIDATE][self.metric]
            missing = evidence.unscored_champion
            return GateResult(
                name=self.name,
                passed=missing is None or missing.judged_alone,
                numbers={self.metric: value},
                reason="No champion yet: nothing to beat." if missing is None else NOT_SCORED,
                undecided=missing is not None and not missing.judged_alone,
            )
        bound = 0.0 - self.margin if evidence.candidate_is_newer else 0.0  # a margin of 0 gives 0, not -0
        wanted = bound if evidence.candidate_is_newer else self.margin
        result = _compare_with(self.name, evidence, CHAMPION, self.metric, bound, wanted)
        return (
            result.model_copy(update={"reason": result.reason + CHAMPION_FITTED_NOTE})
            if evidence.champion_fitted_on_rows
            else result
        )


class BaselineGate(Settings):
    """Require a candidate that is better than every baseline."""

    type: Literal["baseline"] = "baseline"
    metric: str = Field(
        default="log_loss",
        description="Metric of the comparison with the baselines. The default adds average precision where less than "
        "5 % of the labels are positive.",
    )
    required: list[str] = Field(
        default_factory=list, description="Baselines that must be evaluated, for example ['request_only']."
    )

    @property
    def name(self) -> str:
        return f"baseline_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the interval of the improvement is above 0 for every baseline and metric."""
        missing = [name for name in self.required if name not in evidence.predictions]
        if missing or not evidence.baselines:
            return GateResult(
                name=self.name,
                passed=False,
                numbers={},
                reason=f"Baselines not evaluated: {', '.join(missing) or 'none were given'}.",
            )
        compared = [(metric, baseline) for metric in self._metrics(evidence) for baseline in evidence.baselines]
        results = [_compare_with(self.name, evidence, baseline, metric, 0.0, 0.0) for metric, baseline in compared]
        numbers: Numbers = {}
        for (metric, baseline), result in zip(compared, results, strict=True):
            prefix = "" if metric == self.metric else f"{metric}_"
            numbers |= {f"{prefix}{key}_over_{baseline}": value for key, value in result.numbers.items()}
        failed = [result for result in results if not result.passed]
        return GateResult(
            name=self.name,
            passed=not failed,
            numbers=numbers,
            reason=" ".join(result.reason for result in failed or results),
            undecided=bool(failed) and all(result.undecided for result in failed),
            labels_needed=max((result.labels_needed or 0 for result in failed), default=0) or None,
        )

    def _metrics(self, evidence: Evidence) -> list[str]:
        is_rare = evidence.task.has_two_values and evidence.label.mean() < RARE_SHARE
        return (
            [self.metric, "average_precision"] if is_rare and "metric" not in self.model_fields_set else [self.metric]
        )


class MetricLimitGate(Settings):
    """Require a metric within a fixed limit, whatever the champion's metric is."""

    type: Literal["metric_limit"] = "metric_limit"
    metric: str = Field(description="Metric that is limited.")
    limit: float = Field(description="Lowest allowed value; for a metric where lower is better, the highest.")
    confident: bool = Field(
        default=False, description="Compare the worse end of the interval with the limit, not the value."
    )

    @property
    def name(self) -> str:
        return f"metric_limit_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the value, or with ``confident`` the worse end of its interval, is within the limit."""
        resampled = evidence.resampled(self.metric)
        if self.confident and (few := _too_few_cases(self.name, evidence, resampled)):
            return few
        interval = resampled.interval(CANDIDATE, self.metric)
        higher = resampled.is_higher_better(self.metric)
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

    minimum_p_value: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Lowest p-value of the test of perfect calibration, for example 0.01; 0: the test is only shown. "
        "With many rows it finds errors that do not matter.",
    )

    @property
    def name(self) -> str:
        return "calibration"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when calibration error and overall bias are within their limits, and the test does not reject."""
        resampled = evidence.resampled("ece")
        ece = resampled.interval(CANDIDATE, "ece")
        # The test is one of a single probability; several classes have the error and the bias only.
        tested = resampled.calibration.get(CANDIDATE)
        p_value = 1.0 if tested is None else tested.p_value
        bias = evidence.task.calibration_bias(evidence.label, evidence.predictions[CANDIDATE])
        within = ece.value <= self.maximum_ece and abs(bias) <= self.maximum_bias
        passed = within and p_value >= self.minimum_p_value
        return GateResult(
            name=self.name,
            passed=passed,
            numbers={"ece": ece.value, "ece_low": ece.low, "ece_high": ece.high, "bias": bias, "p_value": p_value},
            reason=f"ECE {ece.value:.4f} ({ece.low:.4f} to {ece.high:.4f}, at most {self.maximum_ece:g}), mean "
            f"probability off by {bias:+.4f} (at most {self.maximum_bias:g}), p-value of calibration {p_value:.3f}"
            f"{f' (at least {self.minimum_p_value:g})' if self.minimum_p_value else ''}: "
            f"{'kept' if passed else 'missed'}.",
        )


class SliceGate(SliceSettings):
    """Require that no declared slice is worse than with the champion by more than a margin."""

    type: Literal["slices"] = "slices"

    @property
    def name(self) -> str:
        return f"slices_{self.metric}"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when every slice with enough rows meets ``criterion``, and the smaller ones together are not worse.

        Holm's method limits the family-wise error over the large slices and the one test of the small ones. The first
        version is compared with the base rate.
        """
        missing = evidence.unscored_champion
        if missing is not None and not missing.judged_alone:
            return GateResult(name=self.name, passed=False, numbers={}, reason=NOT_SCORED, undecided=True)
        opponent = CHAMPION if CHAMPION in evidence.predictions else BASE_RATE
        if opponent not in evidence.predictions:
            return GateResult(name=self.name, passed=True, numbers={}, reason="No champion yet: no slice can regress.")
        pooled = pool_small_slices(evidence, self, opponent)
        comparisons, pooled_worse = compare_slices(evidence, self, opponent, pooled.p_value if pooled else None)
        worse = [each for each in comparisons if each.proven_worse]
        unproven = [each for each in comparisons if not each.proven_not_worse]
        failed = unproven if self.criterion == "proven_not_worse" and opponent == CHAMPION else worse
        numbers: Numbers = {"slices": len(comparisons), "proven_worse": len(worse), "not_proven_safe": len(unproven)}
        if comparisons:
            numbers["worst_improvement"] = min(each.difference.value for each in comparisons)
        if pooled:
            numbers |= {"small_slices": len(pooled.slices), "small_slices_p_value": pooled.p_value}
        undecided = bool(failed) and not worse and not pooled_worse
        needed = self._labels_needed(evidence, failed) if undecided else None
        found_any = bool(comparisons) or pooled is not None or opponent == BASE_RATE
        return GateResult(
            name=self.name,
            passed=found_any and not failed and not pooled_worse,
            numbers=numbers,
            reason=f"{self._reason(comparisons, failed, opponent)}{pooled.note(pooled_worse) if pooled else ''}"
            f"{_labels_needed_note(needed)}",
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

    def _reason(self, comparisons: list[SliceComparison], failed: list[SliceComparison], opponent: str) -> str:
        if not comparisons:
            return f"No slice has {self.minimum_support} rows with both classes, so no slice was compared."
        if not failed:
            return (
                f"None of {len(comparisons)} slices is proven worse than with the {opponent.replace('_', ' ')} by more "
                f"than {self.margin:g} {self.metric}."
            )
        worst = sorted(failed, key=lambda each: each.difference.value)[:5]
        listed_slices = ", ".join(
            f"{each.column}={each.value} ({each.difference.value:+.4f}, {each.rows} rows)" for each in worst
        )
        description = "proven worse" if any(each.proven_worse for each in failed) else "not proven safe"
        count = f"{len(failed)} of {len(comparisons)} slices"
        return f"{count} {description} at margin {self.margin:g} {self.metric}: {listed_slices}."


_OWN = "own"


def _gate_tag(given: Any) -> str | None:
    """Return the tag of a gate among the members of :data:`Gate`: its type, and one tag for all of a team's own."""
    if is_reference(given):
        return _OWN
    return given.get("type") if isinstance(given, dict) else getattr(given, "type", None)


Gate = Annotated[
    Annotated[PairedTestGate, Tag("paired_test")]
    | Annotated[BaselineGate, Tag("baseline")]
    | Annotated[MetricLimitGate, Tag("metric_limit")]
    | Annotated[CalibrationGate, Tag("calibration")]
    | Annotated[PlausibilityGate, Tag("plausibility")]
    | Annotated[SliceGate, Tag("slices")]
    | Annotated[FairnessGate, Tag("fairness")]
    | Annotated[LeakGate, Tag("leak")]
    | Annotated[ContractGate, Tag("contract")]
    | Annotated[LatencyGate, Tag("latency")]
    | Annotated[SizeGate, Tag("size")]
    | Annotated[OwnGate, Tag(_OWN)],
    Discriminator(_gate_tag),
]


def evaluate_gates(gates: list[Gate], evidence: Evidence) -> list[GateResult]:
    """Return the result of every gate, in order, and then that of :func:`own_features_result` if there is one.

    Raises :class:`EvaluationError` for two gates with the same name.
    """
    names = [gate.name for gate in gates]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise EvaluationError(
            "Gates",
            expected="each declared once per metric",
            found=f"twice: {', '.join(duplicates)}",
            fix="Merge the two in the model's defs.yaml.",
        )
    own = own_features_result(evidence)
    return [*(_checked_result(gate, gate.evaluate(evidence)) for gate in gates), *([] if own is None else [own])]


def _checked_result(gate: Gate, result: GateResult) -> GateResult:
    """Return ``result``; a gate of a team's own raises its error for something else than a result of its name."""
    if isinstance(gate, OwnGate) and (not isinstance(result, GateResult) or result.name != gate.name):
        found = f"'{result.name}'" if isinstance(result, GateResult) else f"a {type(result).__name__}"
        raise gate.error(expected=f"a GateResult with the name '{gate.name}'", found=found)
    return result


def _compare_with(name: str, evidence: Evidence, opponent: str, metric: str, bound: float, wanted: float) -> GateResult:
    """Return the three-way comparison: proven above ``bound``, proven not above ``wanted``, or not decided."""
    resampled = evidence.resampled(metric)
    if few := _too_few_cases(name, evidence, resampled):
        return few
    difference = resampled.difference(CANDIDATE, opponent, metric)
    passed = difference.low > bound
    excluded = not passed and difference.high <= wanted
    needed = None if passed or excluded else _labels_to_decide(difference, bound, wanted, evidence)
    measured_difference = (
        f"{metric} better than {opponent} by {difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
    )
    decided = f"; an improvement above {wanted:g} is excluded" if excluded else ""
    note = _labels_needed_note(needed) if difference.value > bound else _labels_to_exclude_note(needed, wanted)
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
        reason=f"{measured_difference}, {'above' if passed else 'not above'} {bound:g} with confidence{decided}.{note}",
        undecided=not passed and not excluded,
        labels_needed=needed,
    )


def _labels_to_decide(difference: Difference, bound: float, wanted: float, evidence: Evidence) -> int | None:
    """Return how many more labels decide, if the measured improvement is the true one; None where none would."""
    confidence = evidence.settings.confidence
    if difference.value > bound:
        rows = difference.rows_to_decide(bound, confidence)
    else:
        rows = difference.mirrored().rows_to_decide(-wanted, confidence)
    return rows - difference.rows if rows and rows > difference.rows else None


def _too_few_cases(name: str, evidence: Evidence, resampled: Bootstrap) -> GateResult | None:
    """Return the undecided result of a comparison with too few rows of the rarer class, or None."""
    cases, minimum = resampled.cases, evidence.settings.minimum_cases
    if cases is None or cases >= minimum:
        return None
    rows = len(evidence.label)
    needed = math.ceil(rows * minimum / cases) - rows
    return GateResult(
        name=name,
        passed=False,
        numbers={"cases": cases, "minimum_cases": minimum},
        reason=f"{cases} of {rows:,} rows are of the rarer class; the error rate of the comparison holds "
        f"from {minimum} on."
        f"{_labels_needed_note(needed)}",
        undecided=True,
        labels_needed=needed,
    )


def _labels_needed_note(labels: int | None) -> str:
    return f" {labels_needed_text(labels, None)}" if labels else ""


def _labels_to_exclude_note(labels: int | None, wanted: float) -> str:
    return f" About {labels:,} more labels would exclude an improvement above {wanted:g}." if labels else ""
