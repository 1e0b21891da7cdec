"""Rollout, desired state and audit record change together, and a changed desired state is left alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_platform.registry.audit import AuditLog
from ml_platform.serving.arm_counts import ArmCounts
from ml_platform.serving.desired_state import (
    DesiredState,
    ServedVersion,
    change_desired_state,
    read_desired_state,
    swap_desired_state,
)
from ml_platform.serving.rollout import ROLLOUT_KIND, read_rollout
from ml_platform.serving.rollout_settings import RolloutSettings, RolloutStep
from ml_platform.state.sqlite_file import StateStoreError
from ml_platform.state.store import StateStore
from ml_platform.steps.rollouts import (
    RolloutError,
    abort_rollout,
    approve_step,
    describe_rollout,
    pass_over,
    retry_rollout,
    start_rollout,
    supersede_rollout,
)

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ONE, TWO, THREE = (ServedVersion(version=number, bento=f"toy/{number}") for number in "123")
STEPS = (RolloutStep(weight=10, min_requests=5, min_seconds=0), RolloutStep(weight=50, min_requests=5, min_seconds=0))
SETTINGS = RolloutSettings(strategy="canary", steps=STEPS)
NONE = {"candidate": ArmCounts(), "stable": ArmCounts()}
GOOD = {"candidate": ArmCounts(answers=5), "stable": ArmCounts(answers=20)}
BAD = {"candidate": ArmCounts(answers=30, errors=30), "stable": ArmCounts(answers=90)}


@pytest.fixture
def state(tmp_path: Path) -> StateStore:
    store = StateStore.in_folder(tmp_path)
    swap_desired_state(store, "toy", DesiredState(stable=ONE, weights={"stable": 100}), 0)
    start(store)
    return store


def start(state: StateStore, candidate: ServedVersion = TWO, settings: RolloutSettings = SETTINGS) -> DesiredState:
    return start_rollout(state, "toy", candidate, settings, by="toy/rollout", at=START)


def look(state: StateStore, counts: dict[str, ArmCounts], seconds: float = 1) -> str:
    return pass_over(state, "toy", counts, START + timedelta(seconds=seconds), seed=1).action


def weights(state: StateStore) -> dict[str, int]:
    return read_desired_state(state, "toy").weights


def outcome(state: StateStore) -> str:
    rollout = read_rollout(state, "toy")
    assert rollout is not None
    return rollout.outcome


def test_good_candidate_takes_each_step_and_becomes_stable(state: StateStore) -> None:
    found = [weights(state)]
    for _ in STEPS:
        assert [look(state, NONE), look(state, GOOD)] == ["wait", "advance"]
        found.append(weights(state))
    assert found == [{"stable": 90, "candidate": 10}, {"stable": 50, "candidate": 50}, {"stable": 100}]
    assert (outcome(state), read_desired_state(state, "toy").stable) == ("completed", TWO)


def test_bad_candidate_receives_nothing_and_is_not_started_again(state: StateStore) -> None:
    look(state, NONE)
    assert look(state, BAD) == "roll_back"
    assert (outcome(state), weights(state)) == ("rolled_back", {"stable": 100})
    before = read_desired_state(state, "toy")
    assert start(state) == before
    record = AuditLog(state).records(ROLLOUT_KIND, "toy")[-1]
    assert (record.actor, record.facts["outcome"], record.facts["evidence"]["errors"] > 400) == (
        "rollout guard",
        "rolled_back",
        True,
    )


def test_retry_begins_again_without_the_old_evidence(state: StateStore) -> None:
    look(state, NONE)
    look(state, BAD)
    retry_rollout(state, "toy", by="ada", reason="the database was slow", at=START)
    rollout = read_rollout(state, "toy")
    assert rollout is not None
    assert (rollout.outcome, rollout.wealth, weights(state)) == ("running", {}, {"stable": 90, "candidate": 10})


@pytest.mark.parametrize("counts", [GOOD, BAD])
def test_pass_that_fails_at_its_last_line_changes_nothing_and_the_next_one_does_it(
    state: StateStore, counts: dict[str, ArmCounts]
) -> None:
    look(state, NONE)
    before = read_rollout(state, "toy"), read_desired_state(state, "toy")
    stop = "CREATE TRIGGER stop BEFORE UPDATE ON audit_head BEGIN SELECT RAISE(ABORT, 'stopped'); END"
    with state.write() as connection:
        connection.execute(sa.text(stop))
    with pytest.raises(StateStoreError, match="stopped"):
        look(state, counts)
    assert (read_rollout(state, "toy"), read_desired_state(state, "toy")) == before
    with state.write() as connection:
        connection.execute(sa.text("DROP TRIGGER stop"))
    assert look(state, counts) == ("advance" if counts == GOOD else "roll_back")
    assert read_desired_state(state, "toy").generation == before[1].generation + 1


def test_repeated_pass_over_the_same_counters_adds_no_evidence(state: StateStore) -> None:
    few = {"candidate": ArmCounts(answers=2, errors=1), "stable": ArmCounts(answers=20)}
    look(state, NONE)
    look(state, few)
    before = read_rollout(state, "toy")
    look(state, few)
    after = read_rollout(state, "toy")
    assert before is not None
    assert after is not None
    assert (after.wealth, after.answers) == (before.wealth, 2)


def test_desired_state_that_somebody_changed_ends_the_rollout_and_is_kept(state: StateStore) -> None:
    changed = change_desired_state(
        state, "toy", lambda current: current.model_copy(update={"weights": {"stable": 60, "candidate": 40}})
    )
    look(state, BAD)
    assert (outcome(state), read_desired_state(state, "toy")) == ("superseded", changed)


def test_newer_champion_replaces_the_candidate_beside_the_same_stable_version(state: StateStore) -> None:
    desired = start(state, THREE)
    assert (desired.stable, desired.candidate) == (ONE, THREE)


def test_running_rollout_continues_when_it_is_started_again(state: StateStore) -> None:
    look(state, NONE)
    look(state, GOOD)
    assert start(state).weights == {"stable": 50, "candidate": 50}


def test_superseded_rollout_leaves_the_stable_version_alone(state: StateStore) -> None:
    supersede_rollout(state, "toy", reason="rolled out at once", by="ada", at=START)
    assert (outcome(state), weights(state)) == ("superseded", {"stable": 100})


def test_abort_takes_all_requests_from_the_candidate_once(state: StateStore) -> None:
    assert abort_rollout(state, "toy", by="ada", reason="complaints", at=START).weights == {"stable": 100}
    with pytest.raises(RolloutError, match="expected a running rollout"):
        abort_rollout(state, "toy", by="ada", reason="complaints", at=START)
    assert describe_rollout(state, "toy", START)["next"] == "complaints"


def test_step_with_an_approval_goes_on_after_it(state: StateStore) -> None:
    step = RolloutStep(weight=10, min_requests=1, min_seconds=0, approval=True)
    start(state, THREE, SETTINGS.model_copy(update={"steps": (step,)}))
    assert [look(state, NONE), look(state, GOOD)] == ["wait", "wait"]
    assert "approval" in describe_rollout(state, "toy", START)["next"]
    approve_step(state, "toy", by="ada", reason="reviewed", at=START)
    assert (look(state, GOOD), outcome(state)) == ("advance", "completed")
