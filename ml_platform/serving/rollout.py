"""One rollout: what is stored of it, the evidence that each look adds, and the judgement that follows from both.

Everything here is a function of values, so each pass of the guard can be repeated after a crash.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.serving.arm_comparison import bet, rate_values, score_values
from ml_platform.serving.arm_counts import ArmCounts, ArmTotals
from ml_platform.serving.desired_state import DesiredState, ServedVersion, with_stable
from ml_platform.serving.rollout_settings import Guardrails, RolloutSettings, RolloutStep
from ml_platform.state.cursors import cursors_below, read_cursor, write_cursor
from ml_platform.state.store import StateStore
from ml_platform.tasks.betting import evidence, no_wealth

CURSOR_PREFIX = "rollout/"

ROLLOUT_KIND = "rollout"
"""Kind of the audit records of changes of a desired state."""

ROLLOUT_APPROVAL_KIND = "rollout_approval"
"""Kind of the audit records of the approval of a step."""

GUARD = "rollout guard"
"""Actor of the changes that the guard makes."""

GUARDRAILS = ("errors", "slow", "scores", "missing", "changed scores")

FIRST_PROCESS = "first"
"""Name of the process of counters without replicas."""

DOUBT = 20.0
"""Evidence against a candidate above which it does not advance; it is not yet enough to roll back."""

RUNNING, COMPLETED, ROLLED_BACK, SUPERSEDED = "running", "completed", "rolled_back", "superseded"


class Rollout(Settings):
    """The rollout of one version of a model; the store has the last one of each model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: ServedVersion = Field(description="Version that is rolled out.")
    stable: ServedVersion = Field(description="Version that served before, and serves again after a rollback.")
    settings: RolloutSettings = Field(description="Settings when the rollout started.")
    started: datetime = Field(description="When the rollout started.")
    step: int = Field(default=0, ge=0, description="Number of the current step.")
    step_started: datetime | None = Field(default=None, description="When the gateway first routed the step.")
    answers: int = Field(default=0, description="Answers of the candidate in this step.")
    stable_answers: int = Field(default=0, description="Answers of the stable version in this step.")
    errors: int = Field(default=0, description="Errors of the candidate in this step.")
    process_started: float = Field(default=0, description="When the candidate's process started; 0: not seen yet.")
    process_starts: dict[str, float] = Field(
        default_factory=dict, description="When each of its processes started, by replica."
    )
    restarts: int = Field(default=0, description="Restarts of the candidate's processes that were seen.")
    last_answer: datetime | None = Field(default=None, description="When the candidate last answered, or was idle.")
    counts: dict[str, ArmCounts] = Field(default_factory=dict, description="Last counters, by arm.")
    totals: dict[str, ArmTotals] = Field(default_factory=dict, description="Answers since the start, by arm.")
    wealth: dict[str, list[list[float]]] = Field(default_factory=dict, description="Logarithms of wealths.")
    approved_step: int = Field(default=-1, description="Last step after which a person let the rollout go on.")
    outcome: Literal["running", "completed", "rolled_back", "superseded"] = Field(default="running")
    reason: str = Field(default="", description="Reason of the outcome.")
    ended: datetime | None = Field(default=None, description="Time of the outcome; None while it runs.")

    @property
    def current_step(self) -> RolloutStep:
        return self.settings.all_steps[self.step]

    @property
    def evidence(self) -> dict[str, float]:
        """The evidence against the candidate, by guardrail."""
        return {name: evidence(np.array(values)) for name, values in self.wealth.items()}


@dataclass(frozen=True)
class Judgement:
    """The next action, with its reason."""

    action: Literal["advance", "roll_back", "wait"]
    reason: str


def observe(rollout: Rollout, counts: Mapping[str, ArmCounts], now: datetime, seed: int) -> Rollout:
    """Return ``rollout`` after a look at the counters ``counts`` of both arms (``candidate`` and ``stable``).

    The answers since the last look are compared once both arms have some; a time in which the candidate answered
    nothing does not count. The first look of a step only stores the counters.
    """
    counts = {arm: each.with_unread(rollout.counts.get(arm)) for arm, each in counts.items()}
    rollout = _with_restarts(rollout, counts["candidate"])
    if not rollout.counts or rollout.step_started is None:
        return rollout.model_copy(
            update={"counts": dict(counts), "step_started": rollout.step_started or now, "last_answer": now}
        )
    new = {arm: counts[arm].since(rollout.counts[arm]) for arm in ("candidate", "stable")}
    candidate, stable = new["candidate"], new["stable"]
    if candidate.answers == 0:
        waits = candidate.active > 0
        return rollout if waits else rollout.model_copy(update={"counts": dict(counts), "last_answer": now})
    if stable.answers == 0:
        return rollout.model_copy(update={"last_answer": now})
    generator, guardrails = np.random.default_rng(seed), rollout.settings.guardrails
    values = {
        "errors": (rate_values(candidate.errors, candidate.answers), rate_values(stable.errors, stable.answers)),
        "slow": (rate_values(candidate.slow, candidate.timed), rate_values(stable.slow, stable.timed)),
        "scores": (score_values(candidate.scores), score_values(stable.scores)),
        "missing": (
            rate_values(candidate.missing, candidate.view_reads),
            rate_values(stable.missing, stable.view_reads),
        ),
        # A pair is one observation: its share is compared with none changed.
        "changed scores": (rate_values(candidate.changed, candidate.compared), rate_values(0, candidate.compared)),
    }
    tolerances = {
        "errors": guardrails.error_share,
        "slow": guardrails.slow_share,
        "scores": guardrails.score_share,
        "missing": guardrails.missing_share,
        "changed scores": guardrails.changed_share,
    }
    wealth = dict(rollout.wealth)
    for name, (of_candidate, of_stable) in values.items():
        if len(of_candidate) and len(of_stable) and of_candidate.shape[1] == of_stable.shape[1]:
            before = np.array(wealth[name]) if name in wealth else no_wealth(of_candidate.shape[1])
            wealth[name] = bet(before, of_candidate, of_stable, tolerances[name], generator).tolist()
    return rollout.model_copy(
        update={
            "counts": dict(counts),
            "totals": {arm: rollout.totals.get(arm, ArmTotals()).plus(each) for arm, each in new.items()},
            "wealth": wealth,
            "answers": rollout.answers + candidate.answers,
            "stable_answers": rollout.stable_answers + stable.answers,
            "errors": rollout.errors + candidate.errors,
            "last_answer": now,
        }
    )


def _with_restarts(rollout: Rollout, candidate: ArmCounts) -> Rollout:
    """Return ``rollout`` with the restarts of the candidate's processes that are new in ``candidate``."""
    seen = {name: each.started for name, each in candidate.replicas.items() if each.started}
    if not seen and candidate.started:
        seen = {FIRST_PROCESS: candidate.started}
    # A rollout of an earlier release knows the first process only.
    first = {next(iter(seen)): rollout.process_started} if seen and rollout.process_started else {}
    known = rollout.process_starts or first
    restarted = sum(known.get(name, started) != started for name, started in seen.items())
    return rollout.model_copy(
        update={
            "process_started": candidate.started or rollout.process_started,
            # One that does not answer is known still; one that has left is not.
            "process_starts": {**{name: known[name] for name in candidate.replicas.keys() & known.keys()}, **seen},
            "restarts": rollout.restarts + restarted,
        }
    )


def evidence_limit(guardrails: Guardrails) -> float:
    """Return the evidence by one guardrail at which the candidate is rolled back."""
    return len(GUARDRAILS) / guardrails.error


def judge(rollout: Rollout, now: datetime) -> Judgement:
    """Return whether the candidate advances by one step, is rolled back, or waits, with the reason.

    Each guardrail has an equal part of ``guardrails.error``, so all of them together roll a candidate within the
    tolerances back with at most that probability. Rules about time do not count in it.
    """
    settings, guardrails, step = rollout.settings, rollout.settings.guardrails, rollout.current_step
    limit = evidence_limit(guardrails)
    found = rollout.evidence
    broken = [f"{name} (evidence {found[name]:.3g} of {limit:g})" for name in found if found[name] >= limit]
    if broken:
        return Judgement("roll_back", f"worse than the stable version by {', '.join(broken)}")
    if rollout.restarts > guardrails.restarts:
        return Judgement("roll_back", f"ended {rollout.restarts} times by itself")
    if (memory := _excess_memory(rollout)) > guardrails.memory_mb:
        return Judgement("roll_back", f"uses {memory:.0f} MB more than the stable version")
    if rollout.step_started is None:
        waited = (now - rollout.started).total_seconds() if rollout.step == 0 else 0
        if waited > guardrails.ready_seconds:
            return Judgement("roll_back", f"not ready after {guardrails.ready_seconds:g} s")
    elif rollout.last_answer and (now - rollout.last_answer).total_seconds() > guardrails.stalled_seconds:
        return Judgement("roll_back", f"no answer for {guardrails.stalled_seconds:g} s while requests wait")
    if now - rollout.started > timedelta(minutes=settings.max_minutes):
        action: Literal["advance", "roll_back"] = "roll_back" if settings.on_timeout == "roll_back" else "advance"
        return Judgement(action, f"not through its steps after {settings.max_minutes:g} minutes")
    if rollout.step_started is None:
        return Judgement("wait", "for the services to be ready")
    needed = []
    if rollout.answers < step.min_requests:
        needed.append(f"{step.min_requests - rollout.answers} answers of the candidate")
    if (left := step.min_seconds - (now - rollout.step_started).total_seconds()) > 0:
        needed.append(f"{left:.0f} s")
    needed += [f"doubts about {name} to end (evidence {found[name]:.3g})" for name in found if found[name] >= DOUBT]
    if step.approval and rollout.approved_step < rollout.step:
        needed.append("an approval: ml-platform rollout approve")
    if needed:
        return Judgement("wait", f"for {', '.join(needed)}")
    return Judgement("advance", f"{rollout.answers} answers, {rollout.errors} errors, and no guardrail broken")


def _excess_memory(rollout: Rollout) -> float:
    """Return the memory of the candidate beyond that of the stable version (MB); 0 while one of them is not known."""
    used = {arm: each.resident_bytes for arm, each in rollout.counts.items()}
    return (used["candidate"] - used["stable"]) / 1e6 if len(used) == 2 and all(used.values()) else 0.0


def routed(current: DesiredState, rollout: Rollout) -> DesiredState:
    """Return the desired state of the current step, or of the outcome, of ``rollout``."""
    same: dict[str, Any] = {
        "generation": current.generation,
        "previous": current.previous,
        "previous_until": current.previous_until,
    }
    if rollout.outcome == COMPLETED:
        kept = timedelta(minutes=rollout.settings.keep_previous_minutes)
        until = int((rollout.ended + kept).timestamp()) if rollout.ended and kept else None
        return with_stable(
            DesiredState(stable=rollout.stable, weights={"stable": 100}, generation=current.generation),
            rollout.candidate,
            keep_previous_until=until,
        )
    if rollout.outcome != RUNNING:
        return DesiredState(stable=rollout.stable, weights={"stable": 100}, **same)
    weight = rollout.current_step.weight
    if weight == 0:
        return DesiredState(stable=rollout.stable, shadow=rollout.candidate, weights={"stable": 100}, **same)
    return DesiredState(
        stable=rollout.stable,
        candidate=rollout.candidate,
        weights={"stable": 100 - weight, "candidate": weight},
        # Without requests of its own, the stable version gets copies: both are compared over the same time.
        shadow=rollout.stable if weight == 100 else None,
        sticky_by=rollout.settings.sticky_by,
        **same,
    )


def read_rollout(state: StateStore, model: str) -> Rollout | None:
    """Return the last rollout of ``model``, or None."""
    stored = read_cursor(state, f"{CURSOR_PREFIX}{model}")
    return None if stored is None else Rollout.model_validate(stored)


def running_rollouts(state: StateStore) -> dict[str, Rollout]:
    """Return the rollouts that have no outcome yet, by model."""
    stored = {model: Rollout.model_validate(each) for model, each in cursors_below(state, CURSOR_PREFIX).items()}
    return {model: each for model, each in stored.items() if each.outcome == RUNNING}


def write_rollout(state: StateStore, model: str, rollout: Rollout) -> None:
    """Replace the rollout of ``model``; joins the write transaction that is open."""
    write_cursor(state, f"{CURSOR_PREFIX}{model}", rollout.model_dump(mode="json"))
