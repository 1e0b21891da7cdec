"""Moves a rollout on: starts it, routes its next step, rolls it back, and records each change.

The stored rollout, the desired state and the audit record change in one transaction. So a process that is killed at any
line leaves all three as they were before or after the change, and the next pass continues.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ml_platform.errors import PlatformError
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.arm_counts import ArmCounts
from ml_platform.serving.desired_state import (
    ROLES,
    DesiredState,
    ServedVersion,
    all_desired_states,
    change_desired_state,
    desired_generation,
    read_desired_state,
    swap_desired_state,
    with_stable,
)
from ml_platform.serving.rollout import (
    COMPLETED,
    GUARD,
    ROLLED_BACK,
    ROLLOUT_APPROVAL_KIND,
    ROLLOUT_KIND,
    RUNNING,
    SUPERSEDED,
    Judgement,
    Rollout,
    evidence_limit,
    judge,
    observe,
    read_rollout,
    routed,
    write_rollout,
)
from ml_platform.serving.rollout_curve import RolloutCurve, read_curve, read_curve_end, write_curve
from ml_platform.serving.rollout_settings import RolloutSettings
from ml_platform.state.store import StateStore


class RolloutError(PlatformError):
    """Raised when a model has no rollout that a person could decide about."""


def roll_out(
    state: StateStore,
    model: str,
    served: ServedVersion,
    settings: RolloutSettings | None = None,
    *,
    by: str,
    at: datetime,
) -> DesiredState:
    """Make ``served`` the stable version and return the desired state, which replaces an unreadable one.

    With ``settings`` that declare steps, it becomes the candidate beside another stable version instead; see
    :func:`start_rollout`. Otherwise a running rollout ends as superseded. A change is recorded in the same transaction;
    the desired state does not change when ``served`` is stable already.
    """
    with state.write():
        stable = all_desired_states(state).readable.get(model, DesiredState()).stable
        if settings is not None and settings.all_steps and stable is not None and stable != served:
            return start_rollout(state, model, served, settings, by=by, at=at)
        if stable is not None:
            supersede_rollout(state, model, reason="rolled out at once", by=by, at=at)
        before = desired_generation(state, model)
        kept = timedelta(minutes=(settings or RolloutSettings()).keep_previous_minutes)
        until = int((at + kept).timestamp()) if kept else None
        desired = change_desired_state(
            state,
            model,
            lambda current: with_stable(current, served, keep_previous_until=until),
            replace_unreadable=True,
        )
        if desired.generation != before:
            record_rollout(AuditLog(state), model, desired, by=by, at=at)
    return desired


def record_rollout(audit: AuditLog, model: str, desired: DesiredState, *, by: str, at: datetime) -> None:
    """Record which versions should serve from now on, with their weights, as decided by ``by``."""
    audit.append(ROLLOUT_KIND, actor=by, at=at, facts=rollout_facts(model, desired))


def start_rollout(
    state: StateStore, model: str, candidate: ServedVersion, settings: RolloutSettings, *, by: str, at: datetime
) -> DesiredState:
    """Begin the rollout of ``candidate`` beside the stable version and return the desired state.

    The same candidate is not begun again: it continues, or stays rolled back. A running rollout of another candidate
    ends as superseded.
    """
    with state.write():
        desired, last = read_desired_state(state, model), read_rollout(state, model)
        if desired.stable is None:
            raise ValueError(f"model '{model}' has no stable version beside which a candidate could be rolled out")
        if last is not None and last.candidate == candidate and last.outcome in (RUNNING, ROLLED_BACK):
            return desired
        if last is not None and last.outcome == RUNNING:
            desired = _store(state, model, _ended(last, SUPERSEDED, "a newer champion", at), desired, by=by, at=at)
        assert desired.stable is not None
        new = Rollout(candidate=candidate, stable=desired.stable, settings=settings, started=at)
        return _store(state, model, new, desired, by=by, at=at)


def pass_over(state: StateStore, model: str, counts: Mapping[str, ArmCounts], at: datetime, seed: int) -> Judgement:
    """Add the counters ``counts`` (candidate, stable; empty: not routed yet) to the rollout, and do what follows."""
    with state.write():
        rollout, desired = read_rollout(state, model), read_desired_state(state, model)
        if rollout is None or rollout.outcome != RUNNING:
            return Judgement("wait", "for a rollout")
        if routed(desired, rollout) != desired:
            # Somebody changed the desired state, which is newer than the rollout.
            ended = _ended(rollout, SUPERSEDED, "the desired state was changed", at)
            write_rollout(state, model, ended)
            return Judgement("wait", ended.reason)
        seen = observe(rollout, counts, at, seed) if counts else rollout
        judgement = judge(seen, at)
        _draw(state, model, seen, at)
        if judgement.action == "roll_back":
            _store(state, model, _ended(seen, ROLLED_BACK, judgement.reason, at), desired, by=GUARD, at=at)
        elif judgement.action == "advance":
            _store(state, model, _advanced(seen, judgement.reason, at), desired, by=GUARD, at=at)
        elif seen != rollout:
            write_rollout(state, model, seen)
    return judgement


def abort_rollout(state: StateStore, model: str, *, by: str, reason: str, at: datetime) -> DesiredState:
    """Take all requests from the candidate of ``model`` and return the desired state.

    Raises :class:`RolloutError` without a running rollout.
    """
    with state.write():
        rollout = _required(state, model)
        return _store(
            state, model, _ended(rollout, ROLLED_BACK, reason, at), read_desired_state(state, model), by=by, at=at
        )


def approve_step(state: StateStore, model: str, *, by: str, reason: str, at: datetime) -> Rollout:
    """Let the rollout of ``model`` go on after its current step; raises :class:`RolloutError` without one."""
    with state.write():
        rollout = _required(state, model)
        approved = rollout.model_copy(update={"approved_step": rollout.step})
        write_rollout(state, model, approved)
        facts = {"model": model, "event": "approved", "step": rollout.step, "reason": reason}
        AuditLog(state).append(ROLLOUT_APPROVAL_KIND, actor=by, at=at, facts=facts)
    return approved


def retry_rollout(state: StateStore, model: str, *, by: str, reason: str, at: datetime) -> DesiredState:
    """Begin the last rollout of ``model`` again after it was rolled back, with the settings of then.

    Raises :class:`RolloutError` when the last rollout was not rolled back.
    """
    with state.write():
        last, desired = read_rollout(state, model), read_desired_state(state, model)
        if last is None or last.outcome != ROLLED_BACK or desired.stable != last.stable:
            raise _unexpected(model, last, "a rollout that was rolled back, and the same stable version since")
        new = Rollout(candidate=last.candidate, stable=last.stable, settings=last.settings, started=at, reason=reason)
        return _store(state, model, new, desired, by=by, at=at)


def describe_rollout(state: StateStore, model: str, now: datetime) -> dict[str, Any]:
    """Return the last rollout of ``model`` by name, as JSON values; only its outcome ``none`` when there was none."""
    rollout = read_rollout(state, model)
    if rollout is None:
        return {"model": model, "outcome": "none"}
    step, running = rollout.current_step, rollout.outcome == RUNNING
    return {
        "model": model,
        "outcome": rollout.outcome,
        "candidate": rollout.candidate.version,
        "stable": rollout.stable.version,
        "step": f"{rollout.step + 1} of {len(rollout.settings.all_steps)}",
        "weight": step.weight if running else 0,
        "answers": rollout.answers,
        "errors": rollout.errors,
        "stable_answers": rollout.stable_answers,
        "evidence": {name: round(min(value, 1e12), 3) for name, value in rollout.evidence.items()},
        "next": judge(rollout, now).reason if running else rollout.reason,
    }


def plot_rollout(state: StateStore, model: str) -> bytes | None:
    """Return the course of the last rollout of ``model`` as a PNG image; None before its first answers."""
    from ml_platform.evaluation.plots import rollout_plot

    rollout, curve = read_rollout(state, model), read_curve(state, model)
    if rollout is None or curve is None or curve.started != rollout.started or not curve.points:
        return None
    points = curve.points

    def shares(bad: str, known: str) -> dict[str, list[float]]:
        arms = {arm: [getattr(point, arm) for point in points] for arm in ("stable", "candidate")}
        return {arm: [getattr(one, bad) / max(1, getattr(one, known)) for one in arms[arm]] for arm in arms}

    drawn = {"errors": shares("errors", "answers"), "slow answers": shares("slow", "timed")}
    evidence = {name: [point.evidence.get(name, 1.0) for point in points] for name in points[-1].evidence}
    limit = evidence_limit(rollout.settings.guardrails)
    return rollout_plot([point.seconds for point in points], drawn, evidence, limit)


def supersede_rollout(state: StateStore, model: str, *, reason: str, by: str, at: datetime) -> None:
    """End a running rollout of ``model``, so that only its stable version serves; without one, do nothing."""
    with state.write():
        rollout = read_rollout(state, model)
        if rollout is not None and rollout.outcome == RUNNING:
            _store(
                state, model, _ended(rollout, SUPERSEDED, reason, at), read_desired_state(state, model), by=by, at=at
            )


def rollout_facts(model: str, desired: DesiredState) -> dict[str, object]:
    """Return the facts of an audit record about ``desired``: the versions that should serve, with their weights."""
    served: dict[str, ServedVersion | None] = {role: getattr(desired, role) for role in ROLES}
    return {
        "model": model,
        "generation": desired.generation,
        "versions": {role: each.version for role, each in served.items() if each is not None},
        "weights": desired.weights,
    }


def _draw(state: StateStore, model: str, seen: Rollout, at: datetime) -> None:
    """Add a point for ``seen`` to the curve of its rollout, if one is due."""
    end, weight = read_curve_end(state, model), seen.current_step.weight
    if not seen.totals or (end is not None and not end.is_due(seen.started, weight, at)):
        return
    curve = read_curve(state, model)
    if curve is None or curve.started != seen.started:
        curve = RolloutCurve(started=seen.started)
    drawn = curve.after(seen.totals, weight, seen.evidence, at)
    if drawn is not curve:
        write_curve(state, model, drawn)


def _required(state: StateStore, model: str) -> Rollout:
    rollout = read_rollout(state, model)
    if rollout is None or rollout.outcome != RUNNING:
        raise _unexpected(model, rollout, "a running rollout")
    return rollout


def _unexpected(model: str, rollout: Rollout | None, expected: str) -> RolloutError:
    return RolloutError(
        f"Rollout of '{model}'",
        expected=expected,
        found="none" if rollout is None else f"version {rollout.candidate.version}, {rollout.outcome}",
        fix=f"See its state with: ml-platform rollout status {model}.",
    )


def _ended(rollout: Rollout, outcome: str, reason: str, at: datetime) -> Rollout:
    return rollout.model_copy(update={"outcome": outcome, "reason": reason, "ended": at})


def _advanced(rollout: Rollout, reason: str, at: datetime) -> Rollout:
    """Return ``rollout`` in its next step, or completed. The evidence stays: one error counts for all steps."""
    late = (at - rollout.started).total_seconds() > 60 * rollout.settings.max_minutes
    if late or rollout.step + 1 == len(rollout.settings.all_steps):
        return _ended(rollout, COMPLETED, reason, at)
    fresh: dict[str, Any] = {
        "step_started": None,
        "answers": 0,
        "stable_answers": 0,
        "errors": 0,
        "last_answer": None,
        "counts": {},
    }
    return rollout.model_copy(update={"step": rollout.step + 1, **fresh})


def _store(
    state: StateStore, model: str, rollout: Rollout, desired: DesiredState, *, by: str, at: datetime
) -> DesiredState:
    """Store ``rollout`` with the desired state that follows from it, and record both."""
    write_rollout(state, model, rollout)
    stored = swap_desired_state(state, model, routed(desired, rollout), desired.generation)
    facts = {
        **rollout_facts(model, stored),
        "candidate": rollout.candidate.version,
        "outcome": rollout.outcome,
        "step": rollout.step,
        "reason": rollout.reason,
        "evidence": {name: round(min(value, 1e12), 3) for name, value in rollout.evidence.items()},
    }
    AuditLog(state).append(ROLLOUT_KIND, actor=by, at=at, facts=facts)
    return stored
