"""Acts on the decisions on retraining: requests the runs of a decision, follows them, and counts those that failed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.rejudging import RUN_KEY_TAG
from ml_platform.components.model.window_order import TRAINED_TAG, run_key
from ml_platform.data.read_attempts import Attempt
from ml_platform.monitoring.drift_history import drift_history
from ml_platform.monitoring.retraining_records import (
    OVER,
    RecordedDecision,
    TrainingState,
    last_training_decision,
    training_decision,
    update_training,
)

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake
    from ml_platform.state.store import StateStore

CANCELLED = (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.CANCELING)


def request_by_policy(
    instance: dg.DagsterInstance,
    model: ModelAssets,
    window: str,
    inputs: str,
    changed_code: Sequence[str],
    lake: "Lake",
    now: datetime,
) -> dg.RunRequest | dg.SkipReason:
    """Return the run that the decision on the closed ``window`` starts, or the reason why none is started.

    A window on which it was decided to retrain is not decided again for equal ``inputs``. With a drift rule, the drift
    of the window is measured first, by a run of its own.
    """
    from ml_platform.steps.retraining import decide_and_record

    recorded = training_decision(lake.state, model.name, window, inputs)
    if recorded is None:
        measured = _drift_first(instance, model, window, inputs, lake.state)
        if measured is not None:
            return measured
        recorded = decide_and_record(model, window, inputs, changed_code, lake.state, now)
    if not recorded.decision.retrain:
        return dg.SkipReason(f"{window}: {recorded.decision.text}")
    return _next_run(instance, model, follow(instance, recorded, lake.state), now)


def training_request(model: ModelAssets, window: str | None, key: str) -> dg.RunRequest:
    """Return the request of one training cycle of ``window`` (None: of the table) with the run key ``key``."""
    return dg.RunRequest(
        run_key=key,
        partition_key=window,
        asset_selection=model.training_cycle_keys,
        tags={"trigger": "new window", TRAINED_TAG: model.name},
    )


def follow_training(instance: dg.DagsterInstance, model: str, state: "StateStore") -> RecordedDecision | None:
    """Bring the state of the last training of ``model`` up to date with its runs; None without a decision to retrain.

    Trainings that are over are not read again, so the runs of one decision are the most that is read.
    """
    recorded = last_training_decision(state, model)
    if recorded is None or recorded.state in OVER:
        return recorded
    return follow(instance, recorded, state)


def follow(instance: dg.DagsterInstance, recorded: RecordedDecision, state: "StateStore") -> RecordedDecision:
    """Return ``recorded`` with the state of its runs in Dagster, which is stored if it has changed."""
    if recorded.state in OVER:
        return recorded
    found = _runs_of(instance, recorded)
    if not found:
        return recorded
    failed = [each for each in found if each.dagster_run.status is dg.DagsterRunStatus.FAILURE]
    seconds = sum((each.end_time or each.start_time or 0.0) - (each.start_time or 0.0) for each in found)
    return update_training(
        state,
        recorded,
        _state_of(found[-1], len(found), recorded),
        run_id=found[-1].dagster_run.run_id,
        runs=len(found),
        failures=len(failed),
        run_seconds=seconds,
    )


def _state_of(last: dg.RunRecord, runs: int, recorded: RecordedDecision) -> TrainingState:
    status = last.dagster_run.status
    if status is dg.DagsterRunStatus.SUCCESS:
        return "succeeded"
    if status in CANCELLED:
        return "cancelled"
    if status is dg.DagsterRunStatus.FAILURE:
        return "stopped" if runs >= recorded.attempts else "failed"
    return "running"


def _next_run(
    instance: dg.DagsterInstance, model: ModelAssets, recorded: RecordedDecision, now: datetime
) -> dg.RunRequest | dg.SkipReason:
    """Return the request of the next run of ``recorded``, or the reason why none is due.

    Between two attempts lie growing waits. A lost request is repeated under the same key, so it never runs twice.
    """
    if recorded.state == "stopped":
        resume = f" Find the fault in its runs, then: ml-platform resume-retraining {model.name}."
        return dg.SkipReason(f"{recorded.window}: {recorded.training}{resume}")
    if recorded.state in OVER or recorded.state == "running":
        return dg.SkipReason(f"{recorded.window}: {recorded.training}")
    if recorded.state == "failed":
        last = _runs_of(instance, recorded)[-1]
        attempt = Attempt(recorded.runs, last.create_timestamp.timestamp(), recorded.run_key)
        if now.timestamp() < attempt.next_at:
            at = datetime.fromtimestamp(attempt.next_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
            return dg.SkipReason(f"{recorded.window}: {recorded.training} It starts at {at}.")
    return training_request(model, recorded.window, _attempt_key(recorded, recorded.runs + 1))


def _runs_of(instance: dg.DagsterInstance, recorded: RecordedDecision) -> list[dg.RunRecord]:
    """Return the last run of each attempt of ``recorded``, in order of the attempts."""
    found: list[dg.RunRecord] = []
    for number in range(1, recorded.attempts + 1):
        tags = {RUN_KEY_TAG: _attempt_key(recorded, number)}
        records = instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
        if not records:
            break
        found += records
    return found


def _attempt_key(recorded: RecordedDecision, number: int) -> str:
    return recorded.run_key if number == 1 else f"{recorded.run_key}|{number}"


def _drift_first(
    instance: dg.DagsterInstance, model: ModelAssets, window: str, inputs: str, state: "StateStore"
) -> dg.RunRequest | dg.SkipReason | None:
    """Return the run that measures the drift of ``window``, or that it is under way; None when it is not needed.

    A run that ended without a measurement is not repeated: the rule then says that the drift is unknown.
    """
    policy = model.declared.retraining.policy
    if policy is None or policy.drift is None:
        return None
    if any(each.partition == window for each in drift_history(state, model.name)):
        return None
    key = f"{run_key(model, window, inputs)}|drift"
    records = instance.get_run_records(dg.RunsFilter(tags={RUN_KEY_TAG: key}), limit=1)
    if not records:
        tags = {"trigger": "retraining policy"}
        return dg.RunRequest(run_key=key, partition_key=window, asset_selection=[model.key("drift")], tags=tags)
    run = records[0].dagster_run
    return None if run.is_finished else dg.SkipReason(f"Run {run.run_id} measures the drift of {window}.")
