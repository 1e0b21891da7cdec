"""The recorded decisions on retraining in the state store, each with the state of the training that it started.

A decision is written once for each window, content of its inputs, policy and outcome. Only the state of its training
changes afterwards. Each query reads a bounded number of rows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ml_platform.data.canonical import value_digest
from ml_platform.monitoring.retraining_policy import Reason, RetrainingDecision, Spending
from ml_platform.monitoring.retraining_settings import RetrainingPolicy
from ml_platform.state.schema import retraining_decisions
from ml_platform.state.store import StateStore, time_text

RETRAINING_KIND = "retraining"
"""Kind of the audit record of a decision on retraining under a declared policy."""

RESUMED_KIND = "retraining_resumed"
"""Kind of the audit record of a person who lets a stopped training start again."""

TrainingState = Literal["declined", "requested", "running", "succeeded", "failed", "stopped", "cancelled"]
"""State of the training of a decision: declined is none at all, and failed is followed by a further attempt."""

OVER: tuple[TrainingState, ...] = ("succeeded", "stopped", "cancelled")
"""States in which a decision starts no further run by itself."""

_COLUMNS = retraining_decisions.c


@dataclass(frozen=True)
class RecordedDecision:
    """One decision as it was recorded, and the state of the training that it started.

    ``runs`` counts the runs that it started, ``failures`` those that failed, ``attempts`` those that it may start, and
    ``run_seconds`` is the duration of those that have ended. ``policy`` is empty where none was declared.
    """

    id: int
    model: str
    window: str
    inputs: str
    policy: str
    decision: RetrainingDecision
    decided_at: datetime
    state: TrainingState
    run_id: str | None
    runs: int
    failures: int
    attempts: int
    run_seconds: float

    @property
    def run_key(self) -> str:
        """Key of its first run, equal to that of releases before decisions were recorded."""
        return f"{self.model}|{self.window}|{self.inputs}"

    @property
    def training(self) -> str:
        """The state of the training in one sentence; empty where none was decided."""
        run = f"run {self.run_id}" if self.run_id else "its run"
        return {
            "declined": "",
            "requested": "Its run is requested.",
            "running": f"{run[0].upper()}{run[1:]} trains it.",
            "succeeded": f"It was trained by {run}.",
            "failed": f"{self.failures} of at most {self.attempts} runs failed, the last one {run}; another follows.",
            "stopped": f"Stopped after {_runs(self.failures)} that failed, the last one {run}. The champion stays.",
            "cancelled": f"A person cancelled {run}.",
        }[self.state]


def policy_version(policy: RetrainingPolicy | None) -> str:
    """Return a digest of ``policy``; empty for None. Spelling out a default does not change it."""
    return "" if policy is None else value_digest(policy.model_dump(mode="json"))[:12]


def record_decision(
    state: StateStore,
    model: str,
    window: str,
    inputs: str,
    policy: RetrainingPolicy | None,
    decision: RetrainingDecision,
    now: datetime,
) -> tuple[RecordedDecision, bool]:
    """Record ``decision`` unless its like is recorded; return the record, and whether it is new."""
    key = {
        "model": model,
        "window": window,
        "inputs": inputs,
        "policy": policy_version(policy),
        "outcome": decision.outcome,
    }
    with state.write() as connection:
        found = connection.execute(sa.select(retraining_decisions).filter_by(**key)).one_or_none()
        if found is not None:
            return _recorded(found), False
        connection.execute(
            sa.insert(retraining_decisions).values(
                **key,
                retrain=decision.retrain,
                because=json.dumps([each.model_dump(mode="json") for each in decision.because]),
                data_time=time_text(decision.data_time),
                decided_at=time_text(now),
                state="requested" if decision.retrain else "declined",
                runs=0,
                failures=0,
                attempts=1 if policy is None else policy.max_attempts,
                run_seconds=0.0,
            )
        )
        return _recorded(connection.execute(sa.select(retraining_decisions).filter_by(**key)).one()), True


def training_decision(state: StateStore, model: str, window: str, inputs: str) -> RecordedDecision | None:
    """Return the decision by which ``model`` is trained on this content of ``window``, under any policy; None: none."""
    chosen = (_COLUMNS.model == model) & (_COLUMNS.window == window) & (_COLUMNS.inputs == inputs) & _COLUMNS.retrain
    return _first(state, sa.select(retraining_decisions).where(chosen).order_by(_COLUMNS.id.desc()))


def last_training_decision(state: StateStore, model: str) -> RecordedDecision | None:
    """Return the last decision of ``model`` to retrain; None before the first one."""
    chosen = (_COLUMNS.model == model) & _COLUMNS.retrain
    return _first(state, sa.select(retraining_decisions).where(chosen).order_by(_COLUMNS.id.desc()))


def last_decisions(state: StateStore, model: str, limit: int) -> list[RecordedDecision]:
    """Return the last ``limit`` decisions of ``model``, latest first."""
    query = sa.select(retraining_decisions).where(_COLUMNS.model == model).order_by(_COLUMNS.id.desc()).limit(limit)
    with state.read() as connection:
        return [_recorded(row) for row in connection.execute(query)]


def is_over(state: StateStore, model: str, window: str, inputs: str, policy: RetrainingPolicy) -> bool:
    """Return whether this content of ``window`` was declined under ``policy``, or its training is over."""
    found = training_decision(state, model, window, inputs)
    if found is not None:
        return found.state in OVER
    key = {"model": model, "window": window, "inputs": inputs, "policy": policy_version(policy)}
    return _first(state, sa.select(retraining_decisions).filter_by(**key)) is not None


def last_declined_window(state: StateStore, model: str) -> str | None:
    """Return the highest window of ``model``, as text, on which it was decided not to retrain; None without any."""
    query = sa.select(sa.func.max(_COLUMNS.window)).where(_COLUMNS.model == model, sa.not_(_COLUMNS.retrain))
    with state.read() as connection:
        found: str | None = connection.scalar(query)
    return found


def decided_until(state: StateStore, model: str) -> datetime | None:
    """Return the latest data clock of any decision of ``model``; None before the first one."""
    with state.read() as connection:
        found = connection.scalar(sa.select(sa.func.max(_COLUMNS.data_time)).where(_COLUMNS.model == model))
    return None if found is None else datetime.fromisoformat(found)


def spending(state: StateStore, model: str, after: datetime, until: datetime) -> Spending:
    """Return the training runs of the decisions with a data clock after ``after`` and until ``until``."""
    within = (
        (_COLUMNS.model == model) & (_COLUMNS.data_time > time_text(after)) & (_COLUMNS.data_time <= time_text(until))
    )
    query = sa.select(sa.func.sum(_COLUMNS.runs), sa.func.sum(_COLUMNS.run_seconds)).where(within)
    with state.read() as connection:
        runs, seconds = connection.execute(query).one()
    return Spending(int(runs or 0), float(seconds or 0.0))


def update_training(
    state: StateStore,
    recorded: RecordedDecision,
    training: TrainingState,
    *,
    run_id: str | None,
    runs: int,
    failures: int,
    run_seconds: float,
) -> RecordedDecision:
    """Store the state of the training of ``recorded`` if it has changed, and return the record."""
    changed = replace(
        recorded, state=training, run_id=run_id, runs=runs, failures=failures, run_seconds=round(run_seconds, 3)
    )
    if changed != recorded:
        _update(state, changed)
    return changed


def allow_attempts(state: StateStore, recorded: RecordedDecision, further: int) -> RecordedDecision:
    """Let ``recorded`` start ``further`` runs after those that it has started, and return the record."""
    changed = replace(recorded, state="failed", attempts=recorded.runs + further)
    _update(state, changed)
    return changed


def _update(state: StateStore, changed: RecordedDecision) -> None:
    names = ("state", "run_id", "runs", "failures", "attempts", "run_seconds")
    values = {name: getattr(changed, name) for name in names}
    with state.write() as connection:
        connection.execute(sa.update(retraining_decisions).where(_COLUMNS.id == changed.id).values(**values))


def _first(state: StateStore, query: sa.Select[Any]) -> RecordedDecision | None:
    with state.read() as connection:
        row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else _recorded(row)


def _recorded(row: Row[Any]) -> RecordedDecision:
    because: Sequence[Any] = json.loads(row.because)
    return RecordedDecision(
        id=row.id,
        model=row.model,
        window=row.window,
        inputs=row.inputs,
        policy=row.policy,
        decision=RetrainingDecision(
            row.retrain,
            tuple(Reason.model_validate(each) for each in because),
            datetime.fromisoformat(row.data_time),
        ),
        decided_at=datetime.fromisoformat(row.decided_at),
        state=row.state,
        run_id=row.run_id,
        runs=row.runs,
        failures=row.failures,
        attempts=row.attempts,
        run_seconds=row.run_seconds,
    )


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
