"""Decides whether a closed window is trained on: gathers the evidence, applies the policy, and records the decision."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ml_platform.errors import PlatformError
from ml_platform.monitoring.drift_history import drift_history
from ml_platform.monitoring.estimated_loss import estimated_loss
from ml_platform.monitoring.loss_test import read_loss_test
from ml_platform.monitoring.performance_periods import last_periods
from ml_platform.monitoring.retraining_policy import (
    DriftEvidence,
    EvaluatedWindow,
    Evidence,
    LossEvidence,
    Spending,
    decide,
)
from ml_platform.monitoring.retraining_records import (
    RESUMED_KIND,
    RETRAINING_KIND,
    RecordedDecision,
    allow_attempts,
    decided_until,
    last_training_decision,
    record_decision,
    spending,
)
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ChampionRecord, current_champion
from ml_platform.registry.verdict_record import last_judged_partition
from ml_platform.steps.closed_window import window_ends
from ml_platform.steps.model import BoundModel
from ml_platform.steps.realised_loss import promised_loss
from ml_platform.tasks.row_losses import LOSS_METRICS

if TYPE_CHECKING:
    from ml_platform.monitoring.retraining_settings import RetrainingPolicy
    from ml_platform.state.store import StateStore

ACTOR = "retraining policy"
PERIODS_READ = 24
"""Periods and versions that are read for an estimated loss and its track record."""


class RetrainingError(PlatformError):
    """Raised when there is no stopped training to resume."""


def decide_and_record(
    model: BoundModel, window: str, inputs: str, changed_code: Sequence[str], state: "StateStore", now: datetime
) -> RecordedDecision:
    """Return the decision on the closed ``window`` of ``model``, recorded once for equal evidence.

    ``inputs`` is a digest of the training sets, and ``changed_code`` are the trainers whose code has changed since the
    candidates of the window. With a declared policy, a new decision is also a record of the audit log.
    """
    policy = model.declared.retraining.policy
    audit = AuditLog(state)
    with state.write():
        decision = decide(policy, evidence_of(model, window, changed_code, audit))
        recorded, is_new = record_decision(state, model.name, window, inputs, policy, decision, now)
        if is_new and policy is not None:
            facts = {
                "model": model.name,
                "partition": window,
                "action": decision.action,
                "reason": decision.reason,
                "because": [each.model_dump(mode="json") for each in decision.because],
                "data_time": decision.data_time.isoformat(),
                "inputs": inputs,
                "policy": recorded.policy,
            }
            audit.append(RETRAINING_KIND, actor=ACTOR, at=now, facts=facts)
    return recorded


def evidence_of(model: BoundModel, window: str, changed_code: Sequence[str], audit: AuditLog) -> Evidence:
    """Return the evidence on ``window`` for the policy of ``model``; the number of rows read has a fixed limit."""
    policy, state = model.declared.retraining.policy, audit.state
    data_time = _end(model, window)
    if policy is None:
        return Evidence(window, data_time)
    judged = last_judged_partition(state, model.name)
    champion = current_champion(audit, model.name)
    return Evidence(
        window=window,
        data_time=data_time,
        evaluated=_evaluated(model, judged),
        champion=None if champion is None else _evaluated(model, champion.partition) or _evaluated(model, judged),
        windows_since=_windows_since(model, judged, window, policy),
        changed_code=tuple(changed_code),
        drift=_drift(model, window, state),
        realised=None if champion is None else _realised(model, champion.version, policy, state),
        estimated=None if champion is None else _estimated(model, champion, policy, state),
        spent=_spent(model, data_time, policy, state),
        decided_until=decided_until(state, model.name),
    )


def resume_training(model: str, audit: AuditLog, *, by: str, reason: str, now: datetime) -> RecordedDecision:
    """Let the stopped training of ``model`` start again, and record who decided it and why.

    Raises :class:`RetrainingError` when its last training has not stopped.
    """
    with audit.state.write():
        last = last_training_decision(audit.state, model)
        if last is None or last.state not in ("stopped", "cancelled"):
            raise RetrainingError(
                f"Retraining of '{model}'",
                expected="a training that has stopped after failed runs",
                found="no decision to retrain" if last is None else f"{last.window}. {last.training}",
                fix=f"Nothing is to be resumed; `ml-platform decisions {model}` shows the decisions.",
            )
        facts = {"model": model, "partition": last.window, "action": "resume retraining", "reason": reason}
        audit.append(RESUMED_KIND, actor=by, at=now, facts=facts)
        # As many as before: those that it was allowed at first have been used.
        return allow_attempts(audit.state, last, max(last.runs, 1))


def _end(model: BoundModel, window: str) -> datetime:
    """Return the end of ``window`` in the time zone of its partitions, in which a calendar counts days."""
    return model.partitions.bounds(window)[1].astimezone(ZoneInfo(model.partitions.time_zone))


def _evaluated(model: BoundModel, window: str | None) -> EvaluatedWindow | None:
    """Return ``window`` with its end; None without one, and for a key of an earlier cadence."""
    if window is None or not model.partitions.names_key(window):
        return None
    return EvaluatedWindow(window, _end(model, window))


def _windows_since(model: BoundModel, judged: str | None, window: str, policy: "RetrainingPolicy") -> int:
    """Return how many windows closed after ``judged`` until ``window``; no further than the policy counts."""
    scheme = model.partitions
    if judged is None or not scheme.names_key(judged):
        return 1
    limit = 1 if policy.new_data is None else policy.new_data.every_windows
    count, key = 0, window
    while count < limit and scheme.precedes(judged, key):
        count += len(window_ends(model, [key]))
        key = scheme.shift(key, -1)
    return count


def _drift(model: BoundModel, window: str, state: "StateStore") -> DriftEvidence | None:
    found = next((each for each in drift_history(state, model.name) if each.partition == window), None)
    return None if found is None else DriftEvidence(found.decision, found.reason)


def _realised(model: BoundModel, version: int, policy: "RetrainingPolicy", state: "StateStore") -> LossEvidence | None:
    """Return the loss of the champion ``version``; None before its first day, and after a change of the rule."""
    test = None if policy.loss is None else read_loss_test(state, model.name)
    if test is None or policy.loss is None or test.version != version or test.tolerance != policy.loss.tolerance:
        return None
    return test.evidence


def _estimated(
    model: BoundModel, champion: ChampionRecord, policy: "RetrainingPolicy", state: "StateStore"
) -> LossEvidence | None:
    """Return the estimated loss of the champion's latest period; None where it is not declared or not needed."""
    if policy.loss is None or not policy.loss.estimated:
        return None
    promised = promised_loss(model, champion, state)
    if promised is None:
        return None
    return estimated_loss(
        last_periods(state, model.name, PERIODS_READ),
        version=champion.version,
        metric=LOSS_METRICS[model.declared.task.name],
        promised=promised,
        tolerance=policy.loss.tolerance,
    )


def _spent(model: BoundModel, until: datetime, policy: "RetrainingPolicy", state: "StateStore") -> Spending:
    if policy.budget is None:
        return Spending()
    return spending(state, model.name, until - timedelta(days=policy.budget.days), until)
