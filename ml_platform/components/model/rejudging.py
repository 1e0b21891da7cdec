"""The sensor that has a candidate judged again: on HOLD when a further window of its model was evaluated, and settled
when a window that settled it was evaluated again, as after a correction of its rows.

It is level-triggered: what waits follows from the recorded verdicts and champions. Each tick gives its reason.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.sensor_interval import sensor_seconds
from ml_platform.data.canonical import value_digest
from ml_platform.data.names import identifier
from ml_platform.data.read_attempts import MAXIMUM_ATTEMPTS, Attempt, RunState
from resources.lake import LakeResource

if TYPE_CHECKING:
    from ml_platform.registry.waiting import WaitingCandidate
    from ml_platform.state.store import StateStore

REJUDGED_TAG = "ml_platform/rejudged_model"
"""Run tag with the name of the model whose waiting candidate the run judges again."""

RUN_KEY_TAG = "dagster/run_key"


def waiting_candidates_sensor(model: ModelAssets) -> dg.SensorDefinition:
    """Return the sensor `<model>_waiting_candidates`, which requests one run per candidate on HOLD and new window.

    The run materializes the evaluation of the candidate's own partition with one more window, and when the candidate
    passes, its model card, champion, bento and rollout.
    """
    assets = [model.key(name) for name in ("evaluation", "model_card", "champion", "bento", "rollout")]

    @dg.sensor(
        name=f"{identifier(model.name)}_waiting_candidates",
        target=dg.AssetSelection.assets(*assets),
        description=f"Judges candidates of {model.name} again: on HOLD when a further window was evaluated, and "
        "settled ones when a window that settled them was evaluated again.",
        minimum_interval_seconds=sensor_seconds(60),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def waiting_candidates(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
        due = due_candidate(context.instance, model, lake.lake().state, datetime.now(UTC))
        if isinstance(due, dg.SkipReason):
            return due
        partition, run_key = due
        return dg.RunRequest(
            run_key=run_key,
            partition_key=partition,
            asset_selection=assets,
            run_config={"ops": {model.key("evaluation").to_python_identifier(): {"config": {"only_waiting": True}}}},
            tags={"trigger": "waiting candidate", REJUDGED_TAG: model.name},
        )

    return waiting_candidates


def due_candidate(
    instance: dg.DagsterInstance, model: ModelAssets, state: "StateStore", now: datetime
) -> tuple[str, str] | dg.SkipReason:
    """Return partition and run key of the waiting candidate to judge again, or the reason to skip.

    The end of each wait that is over is recorded first. One candidate is judged at a time, the one with the latest
    verdict first, because a promotion ends the wait of the others.
    """
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.waiting import end_waits

    waits = end_waits(AuditLog(state), model.name, model.maximum_looks, at=now)
    if not waits.waiting and not waits.corrected:
        over = [f" The wait of {each.waiting.partition} ended: {each.reason}" for each in waits.ended]
        return dg.SkipReason(f"No candidate of '{model.name}' waits on HOLD.{''.join(over)}")
    running = instance.get_runs(
        dg.RunsFilter(tags={REJUDGED_TAG: model.name}, statuses=[*NOT_FINISHED_STATUSES]), limit=1
    )
    if running:
        return dg.SkipReason(f"Run {running[0].run_id} judges a candidate of '{model.name}' again.")
    reasons = []
    for waiting, run_key_of in ((waits.waiting, _run_key), (waits.corrected, _run_key_of_corrected)):
        for each in waiting:
            found = run_key_of(instance, model, each, state, now)
            if isinstance(found, str):
                return each.partition, found
            reasons.append(str(found.skip_message))
    return dg.SkipReason(" ".join(reasons))


def _run_key(
    instance: dg.DagsterInstance, model: ModelAssets, waiting: "WaitingCandidate", state: "StateStore", now: datetime
) -> str | dg.SkipReason:
    """Return the run key of the next look at ``waiting``, or the reason why none is due."""
    from ml_platform.registry.verdict_record import stored_verdict
    from ml_platform.steps.rejudgement import pending_windows

    last = waiting.windows[-1]
    subject = f"The candidate of {waiting.partition}, after look {waiting.look} of at most {model.maximum_looks},"
    windows = pending_windows(model, last, state)
    if not windows:
        return dg.SkipReason(f"{subject} waits until a window after {last} is closed and evaluated.")
    latest = list(windows)[-1]
    own = stored_verdict(state, windows[latest]).content
    if own["decision"] == "PROMOTE" and own["champion"] == waiting.champion:
        return dg.SkipReason(f"{subject} waits for the promotion of the candidate of {latest}, which passed.")
    return _attempt(instance, f"{model.name}|waiting|{waiting.verdict[:12]}", windows, now, subject)


def _run_key_of_corrected(
    instance: dg.DagsterInstance, model: ModelAssets, settled: "WaitingCandidate", state: "StateStore", now: datetime
) -> str | dg.SkipReason:
    """Return the run key of the look that repeats the last one at ``settled``, or the reason why none is due."""
    from ml_platform.steps.rejudgement import pending_windows

    windows = pending_windows(model, settled.windows[0], state)
    pooled = {key: digest for key, digest in windows.items() if key in settled.windows}
    subject = f"The candidate of {settled.partition}, of whose windows one was evaluated again,"
    return _attempt(instance, f"{model.name}|corrected|{settled.verdict[:12]}", pooled, now, subject)


def _attempt(
    instance: dg.DagsterInstance, look: str, windows: dict[str, str], now: datetime, subject: str
) -> str | dg.SkipReason:
    """Return the run key of the next attempt at ``look`` at ``windows``, or the reason with its ``subject``."""
    found = next_attempt(instance, f"{look}|{value_digest(windows)[:12]}", now)
    return found if isinstance(found, str) else dg.SkipReason(f"{subject} {found.skip_message}")


def next_attempt(instance: dg.DagsterInstance, run_key: str, now: datetime) -> str | dg.SkipReason:
    """Return the run key of the next attempt at the look ``run_key``, or the reason why none is due.

    A look whose run failed is tried again after growing waits, a limited number of times. A run that a person cancelled
    is not tried again, and neither is one that succeeded without a verdict.
    """
    for number in range(1, MAXIMUM_ATTEMPTS + 1):
        key = run_key if number == 1 else f"{run_key}|{number}"
        records = instance.get_run_records(dg.RunsFilter(tags={RUN_KEY_TAG: key}), limit=1)
        if not records:
            return key
        last = records[0]
        attempt = Attempt(number, last.create_timestamp.timestamp(), key)
        ended: RunState = "ended" if last.dagster_run.status is dg.DagsterRunStatus.FAILURE else "cancelled"
        outcome = attempt.outcome(now.timestamp(), lambda _, ended=ended: ended)  # type: ignore[misc]
        if outcome != "again":
            return dg.SkipReason(f"was not judged by run {last.dagster_run.run_id}: {attempt.describe(outcome)}.")
    raise AssertionError("the last attempt is given up")
