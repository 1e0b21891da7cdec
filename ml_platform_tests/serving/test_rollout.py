"""The evidence that a look adds to a rollout, and when the candidate advances, is rolled back or waits."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.serving.arm_counts import ArmCounts
from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.rollout import Rollout, judge, observe, routed
from ml_platform.serving.rollout_settings import Guardrails, RolloutSettings, RolloutStep

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
STABLE, CANDIDATE = ServedVersion(version="1", bento="toy/1"), ServedVersion(version="2", bento="toy/2")
SETTINGS = RolloutSettings(
    strategy="canary",
    steps=(RolloutStep(weight=10, min_requests=50, min_seconds=30), RolloutStep(weight=50)),
    guardrails=Guardrails(stalled_seconds=3, ready_seconds=60),
    max_minutes=10,
)


def rollout(**changes: Any) -> Rollout:
    return Rollout(candidate=CANDIDATE, stable=STABLE, settings=SETTINGS, started=START).model_copy(update=changes)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def counts(answers: int, errors: int = 0, **more: Any) -> ArmCounts:
    return ArmCounts(answers=answers, errors=errors, **more)


def looked(candidate: ArmCounts, stable: ArmCounts, seconds: float = 1, start: Rollout | None = None) -> Rollout:
    """Return the rollout after a first look at zero, and one at ``candidate`` and ``stable``."""
    first = observe(start or rollout(), {"candidate": counts(0), "stable": counts(0)}, after(0), 1)
    return observe(first, {"candidate": candidate, "stable": stable}, after(seconds), 2)


def test_candidate_with_errors_that_the_stable_version_has_not_is_rolled_back() -> None:
    judgement = judge(looked(counts(20, 20), counts(100)), after(1))
    assert (judgement.action, "errors" in judgement.reason) == ("roll_back", True)


def test_errors_that_both_have_at_the_same_time_roll_nothing_back() -> None:
    seen = looked(counts(60, 30), counts(600, 300), seconds=31)
    assert judge(seen, after(31)).action == "advance"


def test_slow_candidate_is_rolled_back() -> None:
    judgement = judge(looked(counts(30, timed=30, slow=30), counts(100, timed=100, slow=1)), after(1))
    assert (judgement.action, "slow" in judgement.reason) == ("roll_back", True)


def test_shifted_scores_are_rolled_back() -> None:
    seen = looked(counts(60, scores=(0, 0, 60)), counts(60, scores=(20, 20, 20)))
    assert (judge(seen, after(1)).action, "scores" in judge(seen, after(1)).reason) == ("roll_back", True)


def test_missing_features_are_rolled_back() -> None:
    seen = looked(counts(30, view_reads=30, missing=30), counts(90, view_reads=90, missing=9))
    assert (judge(seen, after(1)).action, "missing" in judge(seen, after(1)).reason) == ("roll_back", True)


def test_scores_that_change_for_a_few_requests_are_rolled_back() -> None:
    few = counts(600, scores=(0, 300, 300), compared=600, changed=60)
    judgement = judge(looked(few, counts(600, scores=(0, 300, 300))), after(1))
    assert (judgement.action, "changed scores" in judgement.reason) == ("roll_back", True)


def test_changes_within_the_tolerance_are_no_evidence() -> None:
    seen = looked(counts(600, compared=600, changed=12), counts(600), seconds=31)
    assert judge(seen, after(31)).action == "advance"


def test_candidate_that_ends_again_and_again_is_rolled_back() -> None:
    seen = rollout()
    for second, started in enumerate([100.0, 100.0, 0.0, 105.0, 105.0, 0.0, 110.0]):
        assert judge(seen, after(second)).action == "wait"
        seen = observe(seen, {"candidate": counts(second, started=started), "stable": counts(0)}, after(second), 1)
    assert (seen.restarts, judge(seen, after(7)).action) == (2, "roll_back")


def test_blue_green_sends_all_requests_to_the_candidate_and_copies_to_the_stable_version() -> None:
    settings = RolloutSettings(strategy="blue_green", keep_previous_minutes=30)
    running = rollout(settings=settings)
    current = DesiredState(stable=STABLE, weights={"stable": 100}, generation=7)
    assert routed(current, running) == DesiredState(
        stable=STABLE,
        candidate=CANDIDATE,
        weights={"stable": 0, "candidate": 100},
        shadow=STABLE,
        generation=7,
    )
    ended = routed(current, running.model_copy(update={"outcome": "completed", "ended": START}))
    assert (ended.stable, ended.previous, ended.shadow) == (CANDIDATE, STABLE, None)
    assert ended.previous_until == START.timestamp() + 1800


@pytest.mark.parametrize(("used", "action"), [(700e6, "roll_back"), (600e6, "wait"), (0, "wait")])
def test_candidate_that_takes_much_more_memory_is_rolled_back(used: float, action: str) -> None:
    seen = looked(counts(10, resident_bytes=int(used)), counts(90, resident_bytes=150_000_000))
    judgement = judge(seen, after(1))
    assert (judgement.action, "550 MB more" in judgement.reason) == (action, action == "roll_back")


@pytest.mark.parametrize(
    ("answers", "seconds", "needed"), [(49, 31, "1 answers"), (50, 29, "1 s"), (20, 10, "30 answers")]
)
def test_step_waits_for_its_answers_and_its_duration(answers: int, seconds: float, needed: str) -> None:
    judgement = judge(looked(counts(answers), counts(500), seconds), after(seconds))
    assert (judgement.action, needed in judgement.reason) == ("wait", True)


def test_step_advances_with_its_answers_after_its_duration() -> None:
    assert judge(looked(counts(50), counts(500), 30), after(30)).action == "advance"


def test_step_with_an_approval_waits_for_a_person() -> None:
    step = RolloutStep(weight=10, min_requests=1, min_seconds=0, approval=True)
    start = rollout(settings=SETTINGS.model_copy(update={"steps": (step,)}))
    seen = looked(counts(5), counts(5), start=start)
    assert "approval" in judge(seen, after(1)).reason
    assert judge(seen.model_copy(update={"approved_step": 0}), after(1)).action == "advance"


def test_candidate_that_answers_nothing_while_requests_wait_is_rolled_back() -> None:
    seen = looked(counts(0, active=2), counts(50))
    assert judge(seen, after(3)).action == "wait"
    assert judge(seen, after(3.1)).action == "roll_back"


def test_candidate_without_requests_is_not_stalled() -> None:
    seen = looked(counts(0), counts(50), seconds=20)
    assert judge(seen, after(21)).action == "wait"


def test_candidate_that_is_never_ready_is_rolled_back() -> None:
    assert judge(rollout(), after(60)).action == "wait"
    assert judge(rollout(), after(61)).action == "roll_back"


@pytest.mark.parametrize(("outcome", "action"), [("roll_back", "roll_back"), ("complete", "advance")])
def test_longest_duration_has_the_declared_outcome(outcome: str, action: str) -> None:
    settings = SETTINGS.model_copy(update={"on_timeout": outcome})
    seen = rollout(settings=settings, step_started=after(1), last_answer=after(601))
    assert judge(seen, after(601)).action == action


def of_replicas(**replicas: tuple[int, ...]) -> ArmCounts:
    """Return the counters of a version whose processes have these counts of scores."""
    found = {name: ArmCounts(scores=scores, view_reads=sum(scores), started=1.0) for name, scores in replicas.items()}
    return ArmCounts(answers=100, replicas={name: each if each.scores else ArmCounts() for name, each in found.items()})


def test_each_replica_counts_from_its_own_last_reading() -> None:
    before = of_replicas(one=(10, 10), two=(5, 5))
    # The second one restarted, a third one is new: the first one's answers do not count again.
    new = of_replicas(one=(12, 10), two=(1, 0), three=(0, 4)).since(before)
    assert (new.scores, new.view_reads) == ((3, 4), 7)
    # Counters of an earlier release are those of the first replica.
    assert of_replicas(one=(12, 10), two=(1, 0)).since(ArmCounts(scores=(10, 10), view_reads=20)).scores == (3, 0)


def test_replica_that_did_not_answer_once_is_not_counted_twice() -> None:
    before = of_replicas(one=(10, 10), two=(5, 5))
    silent = of_replicas(one=(11, 10), two=()).with_unread(before)
    assert silent.since(before).scores == (1, 0)
    assert of_replicas(one=(11, 10), two=(5, 6)).since(silent).scores == (0, 1)


def test_restart_of_any_replica_counts_and_a_new_one_is_no_restart() -> None:
    seen = rollout()
    for second, starts in enumerate([{"one": 1.0, "two": 2.0}, {"one": 1.0, "two": 0.0}, {"one": 1.0, "two": 3.0}]):
        replicas = {name: ArmCounts(started=started) for name, started in starts.items()}
        seen = observe(seen, {"candidate": counts(1, replicas=replicas), "stable": counts(0)}, after(second), 1)
    assert seen.restarts == 1
    for second, names in enumerate([["one"], ["one", "two"]]):
        replicas = {name: ArmCounts(started=1.0 if name == "one" else 9.0) for name in names}
        seen = observe(seen, {"candidate": counts(1, replicas=replicas), "stable": counts(0)}, after(second + 3), 1)
    assert seen.restarts == 1


def test_restarted_service_counts_from_zero() -> None:
    before, now = counts(90, 3, scores=(50, 40), view_reads=90), counts(100, 5, scores=(2, 1), view_reads=3)
    grown = now.since(before)
    assert (grown.answers, grown.errors, grown.scores, grown.view_reads) == (10, 2, (2, 1), 3)


def test_step_zero_of_a_shadow_rollout_mirrors_requests() -> None:
    settings = SETTINGS.model_copy(update={"strategy": "shadow_then_canary"})
    desired = routed(DesiredState(), rollout(settings=settings))
    assert (desired.shadow, desired.candidate, desired.weights) == (CANDIDATE, None, {"stable": 100})


@pytest.mark.parametrize("weights", [(50, 10), (0, 10), (50, 100)])
def test_weights_that_fall_or_begin_at_zero_are_refused(weights: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="weights from 1 to 90 that do not fall"):
        RolloutSettings(strategy="canary", steps=tuple(RolloutStep(weight=each) for each in weights))
