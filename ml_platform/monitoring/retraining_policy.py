"""The decision whether a closed window is trained on: a function of the declared policy and of the evidence.

The same evidence gives the same decision, so a repeated tick, a restart and a replay decide alike. Gathering the
evidence and acting on the decision are elsewhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.canonical import value_digest
from ml_platform.errors import listed
from ml_platform.monitoring.drift_report import Decision as DriftDecision
from ml_platform.monitoring.retraining_settings import (
    BudgetRule,
    CalendarBlock,
    DriftRule,
    LossRule,
    NewDataRule,
    RetrainingPolicy,
)

Rule = Literal[
    "first", "code", "new_data", "drift", "loss", "estimated_loss", "max_age", "cooldown", "budget", "calendar", "clock"
]
Effect = Literal["retrain", "prevent", "no cause", "unknown"]
"""Effect of one rule: it calls for a retraining, prevents one, finds no cause, or lacks its evidence."""

_SEVERITIES: Mapping[DriftDecision, int] = {"steady": 0, "notice": 1, "alert": 2}


class Reason(BaseModel):
    """The finding of one rule: a sentence, and the numbers that it rests on."""

    model_config = ConfigDict(frozen=True)

    rule: Rule
    effect: Effect
    text: str
    numbers: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class RetrainingDecision:
    """Whether to train on a window, the findings of all rules, and the data clock at which it was decided."""

    retrain: bool
    because: tuple[Reason, ...]
    data_time: datetime

    @property
    def decisive(self) -> tuple[Reason, ...]:
        """The findings that decided: what calls for the retraining, what prevents it, or that there is no cause."""
        calls = [each for each in self.because if each.effect == "retrain"]
        prevents = [each for each in self.because if each.effect == "prevent"]
        if self.retrain:
            return tuple(calls)
        return tuple(prevents) if calls else self.because

    @property
    def action(self) -> str:
        """The decision in words."""
        return "retrain" if self.retrain else "don't retrain"

    @property
    def reason(self) -> str:
        """The findings that decided, in one line."""
        return " ".join(each.text for each in self.decisive)

    @property
    def text(self) -> str:
        """The decision with the findings that decided, in one line."""
        return f"{self.action.capitalize()}: {self.reason}"

    @property
    def outcome(self) -> str:
        """A digest of the decision and of each rule's effect; other numbers alone do not change it."""
        return value_digest([self.retrain, sorted([each.rule, each.effect] for each in self.because)])[:12]


@dataclass(frozen=True)
class EvaluatedWindow:
    """A window with a verdict, and its end on the data clock."""

    window: str
    end: datetime


@dataclass(frozen=True)
class DriftEvidence:
    """The decision of the drift check of the window, with its reason."""

    decision: DriftDecision
    reason: str


@dataclass(frozen=True)
class LossEvidence:
    """The loss of the champion after its promotion, by a test that holds at every look.

    ``promised`` is the upper end of the interval of its evaluation, and ``mean`` the mean of the daily mean losses over
    ``days`` days with ``labels`` known outcomes. ``evidence`` is the e-value against "the mean is at most ``promised``
    plus the tolerance". ``until`` is the last day that counts, and ``waiting_for`` the first later one whose labels are
    not due; both are empty without such a day.

    An estimated loss has the first day of its period, ``since``, no labels, and a ``note`` about earlier estimates. It
    has no day when it is not to be used.
    """

    version: int
    metric: str
    promised: float
    mean: float
    days: int
    labels: int
    evidence: float
    until: str = ""
    waiting_for: str = ""
    since: str = ""
    note: str = ""


@dataclass(frozen=True)
class Spending:
    """The training runs within the time of the budget, failed ones included, and their duration."""

    runs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """The facts about one closed window that the rules read.

    ``data_time`` is the end of the window. ``windows_since`` counts the windows that closed after ``evaluated``, the
    last one with a verdict; a rule needs no higher number than its own limit, so the count may stop there. 0 says that
    the rows of the evaluated window itself have changed. ``decided_until`` is the latest data clock of any earlier
    decision. ``estimated`` is the loss of the latest period while its labels are not known, where it is declared.
    """

    window: str
    data_time: datetime
    evaluated: EvaluatedWindow | None = None
    champion: EvaluatedWindow | None = None
    windows_since: int = 1
    changed_code: tuple[str, ...] = ()
    drift: DriftEvidence | None = None
    realised: LossEvidence | None = None
    estimated: LossEvidence | None = None
    spent: Spending = field(default_factory=Spending)
    decided_until: datetime | None = None


def decide(policy: RetrainingPolicy | None, evidence: Evidence) -> RetrainingDecision:
    """Return whether to train on the window of ``evidence``, with the finding of every declared rule.

    One rule that calls for it is enough, and one that prevents it outweighs all of them. A model without an evaluated
    candidate or without a champion calls for it by itself, and so does changed code, which reaches this function only
    with ``on_code_change: automatic``. Without a policy, each closed window is trained on.
    """
    if policy is None:
        reason = Reason(rule="new_data", effect="retrain", text=f"{evidence.window} has closed.")
        return RetrainingDecision(True, (reason,), evidence.data_time)
    because = (*_calls(policy, evidence), *_preventions(policy, evidence))
    effects = {each.effect for each in because}
    return RetrainingDecision("retrain" in effects and "prevent" not in effects, because, evidence.data_time)


def _calls(policy: RetrainingPolicy, evidence: Evidence) -> Iterator[Reason]:
    if evidence.evaluated is None:
        yield Reason(rule="first", effect="retrain", text="No candidate was evaluated yet.")
    elif evidence.champion is None:
        yield Reason(rule="first", effect="retrain", text="The model has no champion.")
    if evidence.changed_code:
        text = f"The code of {listed(evidence.changed_code)} has changed."
        yield Reason(rule="code", effect="retrain", text=text)
    if policy.new_data is not None and evidence.evaluated is not None:
        yield _new_data(policy.new_data, evidence, evidence.evaluated)
    if policy.drift is not None:
        yield _drift(policy.drift, evidence)
    if policy.loss is not None:
        yield _loss("loss", policy.loss, evidence.realised)
        if evidence.estimated is not None:
            yield _loss("estimated_loss", policy.loss, evidence.estimated)
    if policy.max_age_days is not None and evidence.champion is not None:
        yield _age(policy.max_age_days, evidence, evidence.champion)


def _preventions(policy: RetrainingPolicy, evidence: Evidence) -> Iterator[Reason]:
    known = [] if evidence.evaluated is None else [evidence.evaluated.end]
    known += [] if evidence.decided_until is None else [evidence.decided_until]
    if known and evidence.data_time < max(known):
        text = (
            f"{evidence.window} ends at {_shown(evidence.data_time)}, and decisions are made until "
            f"{_shown(max(known))}: it landed late, or the data clock went back. Its rows count in the next retraining."
        )
        yield Reason(rule="clock", effect="prevent", text=text)
    if policy.cooldown_days is not None and evidence.evaluated is not None:
        yield from _cooldown(policy.cooldown_days, evidence, evidence.evaluated)
    if policy.budget is not None:
        yield from _budget(policy.budget, evidence.spent)
    for block in policy.calendar:
        if block.covers(evidence.data_time.date()):
            yield _blocked(block)


def _new_data(rule: NewDataRule, evidence: Evidence, evaluated: EvaluatedWindow) -> Reason:
    count, needed = evidence.windows_since, rule.every_windows
    numbers = {"windows": float(count), "needed": float(needed)}
    if count == 0:
        text = f"The rows of {evidence.window} have changed since its evaluation."
    else:
        closed = "1 window has" if count == 1 else f"{count} windows have"
        text = f"{closed} closed since {evaluated.window}; {needed} call for a retraining."
    is_due = count == 0 or count >= needed
    return Reason(rule="new_data", effect="retrain" if is_due else "no cause", text=text, numbers=numbers)


def _drift(rule: DriftRule, evidence: Evidence) -> Reason:
    found = evidence.drift
    if found is None:
        text = f"The drift of {evidence.window} is not measured yet."
        return Reason(rule="drift", effect="unknown", text=text)
    text = f"Drift of {evidence.window}: {found.reason}"
    if found.decision not in _SEVERITIES:
        return Reason(rule="drift", effect="unknown", text=text)
    is_due = _SEVERITIES[found.decision] >= _SEVERITIES[rule.severity]
    return Reason(rule="drift", effect="retrain" if is_due else "no cause", text=text)


def _loss(name: Literal["loss", "estimated_loss"], rule: LossRule, found: LossEvidence | None) -> Reason:
    kind = "realised" if name == "loss" else "estimated"
    due = f" The labels of {found.waiting_for} are not due." if found is not None and found.waiting_for else ""
    if found is not None and found.note and not found.days:
        text = f"The estimated loss of the predictions from {found.since} is not used. {found.note}"
        return Reason(rule=name, effect="unknown", text=text)
    if found is None or not found.days:
        return Reason(rule=name, effect="unknown", text=f"No {kind} loss of the champion is known.{due}")
    needed = 1 / rule.error
    is_worse = found.evidence >= needed
    when = f"on {found.days} days until {found.until}"
    if found.since:
        when = f"for the predictions from {found.since}, whose labels are not known yet"
    note = f" {found.note}" if found.note else ""
    text = (
        f"The {kind} {found.metric.replace('_', ' ')} of version {found.version} is {found.mean:.4f} {when}, and at "
        f"most {found.promised:.4f} was promised. The evidence that it is worse by "
        f"more than {rule.tolerance:g} is {found.evidence:,.1f}; {needed:,.0f} calls for a retraining.{due}{note}"
    )
    numbers = {
        "mean": found.mean,
        "promised": found.promised,
        "tolerance": rule.tolerance,
        "days": float(found.days),
        "labels": float(found.labels),
        "evidence": found.evidence,
        "evidence_needed": needed,
    }
    return Reason(rule=name, effect="retrain" if is_worse else "no cause", text=text, numbers=numbers)


def _age(limit_days: float, evidence: Evidence, champion: EvaluatedWindow) -> Reason:
    days = (evidence.data_time - champion.end) / timedelta(days=1)
    text = f"The champion was evaluated on {champion.window}, {days:.1f} days ago; {limit_days:g} are the limit."
    effect: Effect = "retrain" if days >= limit_days else "no cause"
    return Reason(rule="max_age", effect=effect, text=text, numbers={"days": days, "limit_days": limit_days})


def _cooldown(limit_days: float, evidence: Evidence, evaluated: EvaluatedWindow) -> Iterator[Reason]:
    days = (evidence.data_time - evaluated.end) / timedelta(days=1)
    if days < limit_days:
        text = f"{evaluated.window} was evaluated {days:.1f} days ago, within the cooldown of {limit_days:g} days."
        numbers = {"days": days, "cooldown_days": limit_days}
        yield Reason(rule="cooldown", effect="prevent", text=text, numbers=numbers)


def _budget(rule: BudgetRule, spent: Spending) -> Iterator[Reason]:
    within = f"in the {rule.days:g} days until the end of the window"
    if rule.runs is not None and spent.runs >= rule.runs:
        text = f"The budget is spent: {spent.runs} of {rule.runs} training runs {within}."
        numbers = {"runs": float(spent.runs), "limit_runs": float(rule.runs)}
        yield Reason(rule="budget", effect="prevent", text=text, numbers=numbers)
    if rule.training_seconds is not None and spent.seconds >= rule.training_seconds:
        text = f"The budget is spent: {spent.seconds:.0f} of {rule.training_seconds:.0f} seconds of training {within}."
        numbers = {"seconds": spent.seconds, "limit_seconds": rule.training_seconds}
        yield Reason(rule="budget", effect="prevent", text=text, numbers=numbers)


def _blocked(block: CalendarBlock) -> Reason:
    again = ", every year" if block.every_year else ""
    text = f"The calendar allows no retraining from {block.first} to {block.last}{again}: {block.reason}"
    return Reason(rule="calendar", effect="prevent", text=text)


def _shown(instant: datetime) -> str:
    return instant.isoformat(timespec="minutes")
