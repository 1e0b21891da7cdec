"""The desired state: one of several concurrent changes succeeds, and inconsistent states are rejected."""

import json
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from ml_platform.serving.desired_state import (
    DesiredState,
    DesiredStateError,
    DesiredStates,
    GenerationConflictError,
    ServedVersion,
    all_desired_states,
    change_desired_state,
    desired_generation,
    import_desired_states,
    read_desired_state,
    swap_desired_state,
    with_stable,
)
from ml_platform.state.schema import desired_states
from ml_platform.state.store import StateStore

ONE, TWO, THREE = (ServedVersion(version=str(number), bento=f"b/{number}") for number in (1, 2, 3))
ALL_ONE = DesiredState(stable=ONE, weights={"stable": 100})


def test_desired_state_is_empty_at_first(any_state: StateStore) -> None:
    assert read_desired_state(any_state, "toy") == DesiredState()
    assert desired_generation(any_state, "toy") == 0
    assert all_desired_states(any_state) == DesiredStates({}, {})


def test_swap_stores_the_state_as_the_next_generation(any_state: StateStore) -> None:
    stored = swap_desired_state(any_state, "toy", ALL_ONE, 0)
    assert stored == ALL_ONE.model_copy(update={"generation": 1})
    assert read_desired_state(any_state, "toy") == stored
    assert all_desired_states(any_state) == DesiredStates({"toy": stored}, {})


def test_swap_on_an_older_generation_is_rejected_and_changes_nothing(any_state: StateStore) -> None:
    stored = swap_desired_state(any_state, "toy", ALL_ONE, 0)
    for generation in (0, 2):
        with pytest.raises(GenerationConflictError, match=f"expected generation {generation}, found generation 1"):
            swap_desired_state(any_state, "toy", DesiredState(), generation)
    assert read_desired_state(any_state, "toy") == stored


@pytest.mark.parametrize("generation", [0, 1])
def test_one_of_many_concurrent_swaps_succeeds(any_state: StateStore, generation: int) -> None:
    outcomes: list[bool] = []
    if generation:
        swap_desired_state(any_state, "toy", ALL_ONE, 0)

    def change() -> None:
        try:
            swap_desired_state(any_state, "toy", ALL_ONE, generation)
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


def test_change_without_effect_keeps_the_generation(any_state: StateStore) -> None:
    assert change_desired_state(any_state, "toy", lambda current: with_stable(current, ONE)).generation == 1
    assert change_desired_state(any_state, "toy", lambda current: with_stable(current, ONE)).generation == 1


@pytest.mark.parametrize("bento", ["/srv/platform/bentos/toy/1-abc", "../other/bentos/toy/1-abc"])
def test_bento_outside_the_home_is_rejected(bento: str) -> None:
    with pytest.raises(ValidationError, match="expected a folder below the root of bentos"):
        ServedVersion(version="1", bento=bento)


def store_text(state: StateStore, model: str, text: str, generation: int) -> None:
    with state.write() as connection:
        row = {"model": model, "generation": generation, "state": text, "changed_at": ""}
        connection.execute(desired_states.insert().values(row))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stable": 3}', '{"generation": 9}'])
def test_unreadable_state_is_named_and_hides_no_other(any_state: StateStore, text: str) -> None:
    stored = swap_desired_state(any_state, "toy", ALL_ONE, 0)
    store_text(any_state, "broken", text, 7)
    found = all_desired_states(any_state)
    assert found.readable == {"toy": stored}
    assert found.unreadable.keys() == {"broken"}
    with pytest.raises(DesiredStateError, match=r"Desired state of 'broken': .* materialize broken/rollout"):
        read_desired_state(any_state, "broken")


def test_unreadable_state_is_replaced_only_when_the_caller_says_so(
    any_state: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    store_text(any_state, "toy", "{", 7)
    with pytest.raises(DesiredStateError):
        change_desired_state(any_state, "toy", lambda current: with_stable(current, ONE))
    replaced = change_desired_state(
        any_state, "toy", lambda current: with_stable(current, ONE), replace_unreadable=True
    )
    assert replaced == ALL_ONE.model_copy(update={"generation": 8})
    assert "Replacing an unreadable state. Desired state of 'toy'" in caplog.text


def test_files_of_an_earlier_release_are_imported_with_relative_bentos(any_state: StateStore, tmp_path: Path) -> None:
    bentos = tmp_path / "bentos"
    old = {
        "stable": {"version": "1", "bento": str(bentos / "bentos" / "toy" / "1-abc")},
        "candidate": {"version": "2", "bento": "/where/the/home/was/bentos/bentos/toy/2-def"},
        "weights": {"stable": 90, "candidate": 10},
        "shadow": None,
        "generation": 4,
    }
    for model, text in {"toy": json.dumps(old), "broken": "{"}.items():
        (tmp_path / "serving" / model).mkdir(parents=True)
        (tmp_path / "serving" / model / "desired_state.json").write_text(text)
    assert import_desired_states(any_state, tmp_path / "serving", bentos) == {"broken": 0, "toy": 4}
    assert import_desired_states(any_state, tmp_path / "serving", bentos) == {}
    assert read_desired_state(any_state, "toy") == DesiredState(
        stable=ServedVersion(version="1", bento="bentos/toy/1-abc"),
        candidate=ServedVersion(version="2", bento="bentos/toy/2-def"),
        weights={"stable": 90, "candidate": 10},
        generation=4,
    )
    assert all_desired_states(any_state).unreadable.keys() == {"broken"}


def test_change_is_computed_again_after_a_concurrent_change(any_state: StateStore) -> None:
    seen = []

    def change(current: DesiredState) -> DesiredState:
        seen.append(current.generation)
        if len(seen) == 1:
            concurrent = DesiredState(stable=ONE, shadow=THREE, weights={"stable": 100})
            swap_desired_state(any_state, "toy", concurrent, 0)
        return with_stable(current, TWO)

    changed = change_desired_state(any_state, "toy", change)
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


def test_version_before_runs_on_until_its_time_is_over() -> None:
    changed = with_stable(ALL_ONE, TWO, keep_previous_until=1000)
    assert (changed.served_versions, changed.without_ended_previous(999.5)) == ([TWO], changed)
    assert changed.needed_versions == [TWO, ONE]
    assert changed.without_ended_previous(1000).needed_versions == [TWO]
    assert with_stable(changed, TWO, keep_previous_until=2000) == changed
    back = with_stable(changed, ONE)
    assert (back.stable, back.previous) == (ONE, None)
