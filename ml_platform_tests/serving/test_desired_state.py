"""The desired state: one of several concurrent changes succeeds, and inconsistent states are rejected."""

import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from ml_platform.serving.desired_state import (
    DesiredState,
    GenerationConflictError,
    ServedVersion,
    all_desired_states,
    change_desired_state,
    read_desired_state,
    swap_desired_state,
    with_stable,
)

ONE, TWO, THREE = (ServedVersion(version=str(number), bento=f"b/{number}") for number in (1, 2, 3))
ALL_ONE = DesiredState(stable=ONE, weights={"stable": 100})


def test_desired_state_is_empty_at_first(tmp_path: Path) -> None:
    assert read_desired_state(tmp_path / "toy") == DesiredState()
    assert all_desired_states(tmp_path) == {}


def test_swap_stores_the_state_as_the_next_generation(tmp_path: Path) -> None:
    stored = swap_desired_state(tmp_path / "toy", ALL_ONE, 0)
    assert stored.generation == 1
    assert all_desired_states(tmp_path) == {"toy": stored}


def test_swap_on_an_older_generation_is_rejected_and_changes_nothing(tmp_path: Path) -> None:
    stored = swap_desired_state(tmp_path, ALL_ONE, 0)
    with pytest.raises(GenerationConflictError, match="expected generation 0, found generation 1"):
        swap_desired_state(tmp_path, DesiredState(), 0)
    assert read_desired_state(tmp_path) == stored


def test_one_of_many_concurrent_swaps_succeeds(tmp_path: Path) -> None:
    outcomes: list[bool] = []

    def change() -> None:
        try:
            swap_desired_state(tmp_path, ALL_ONE, 0)
            outcomes.append(True)
        except GenerationConflictError:
            outcomes.append(False)

    threads = [threading.Thread(target=change) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"stable": ONE, "weights": {"stable": 90}}, "add up to 90"),
        ({"stable": ONE}, "add up to 0"),
        ({"weights": {"stable": 100}}, "there is no stable"),
        ({"stable": ONE, "weights": {"stable": 50, "candidate": 50}}, "there is no candidate"),
        ({"stable": ONE, "weights": {"stable": 110, "candidate": -10}}, "candidate -10"),
        ({"stable": ONE, "weights": {"stabel": 100}}, "stabel"),
        ({"candidate": ONE, "weights": {"candidate": 100}, "shadow": TWO}, "no stable version"),
    ],
)
def test_inconsistent_state_is_rejected(state: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DesiredState.model_validate(state)


def test_version_in_two_roles_runs_once() -> None:
    assert DesiredState(stable=ONE, shadow=ONE, weights={"stable": 100}).served_versions == [ONE]


def test_change_without_effect_keeps_the_generation(tmp_path: Path) -> None:
    assert change_desired_state(tmp_path, lambda current: with_stable(current, ONE)).generation == 1
    assert change_desired_state(tmp_path, lambda current: with_stable(current, ONE)).generation == 1


def test_change_is_computed_again_after_a_concurrent_change(tmp_path: Path) -> None:
    seen = []

    def change(current: DesiredState) -> DesiredState:
        seen.append(current.generation)
        if len(seen) == 1:
            swap_desired_state(tmp_path, DesiredState(stable=ONE, shadow=THREE, weights={"stable": 100}), 0)
        return with_stable(current, TWO)

    changed = change_desired_state(tmp_path, change)
    assert seen == [0, 1]
    assert (changed.stable, changed.shadow, changed.generation) == (TWO, THREE, 2)


def test_first_stable_version_takes_all_requests() -> None:
    assert with_stable(DesiredState(), ONE) == ALL_ONE
    candidate_only = DesiredState(candidate=TWO, weights={"candidate": 100})
    assert with_stable(candidate_only, ONE) == DesiredState(stable=ONE, candidate=TWO, weights={"stable": 100})


def test_candidate_that_becomes_stable_ends() -> None:
    canary = DesiredState(stable=ONE, candidate=TWO, weights={"stable": 90, "candidate": 10}, generation=4)
    assert with_stable(canary, TWO) == DesiredState(stable=TWO, weights={"stable": 100}, generation=4)


def test_candidate_ends_when_a_rebuilt_bento_of_its_version_becomes_stable() -> None:
    canary = DesiredState(stable=ONE, candidate=TWO, weights={"stable": 90, "candidate": 10})
    rebuilt = ServedVersion(version="2", bento="b/2-again")
    assert with_stable(canary, rebuilt) == DesiredState(stable=rebuilt, weights={"stable": 100})


def test_candidate_and_shadow_of_other_versions_continue_beside_a_new_stable_version() -> None:
    weights = {"stable": 90, "candidate": 10}
    current = DesiredState(stable=ONE, candidate=THREE, shadow=THREE, weights=weights)
    assert with_stable(current, TWO) == DesiredState(stable=TWO, candidate=THREE, shadow=THREE, weights=weights)


def test_shadow_that_becomes_stable_ends() -> None:
    with_shadow = DesiredState(stable=ONE, shadow=TWO, weights={"stable": 100})
    assert with_stable(with_shadow, TWO) == DesiredState(stable=TWO, weights={"stable": 100})
