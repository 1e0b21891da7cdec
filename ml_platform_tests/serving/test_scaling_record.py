"""The last changes of the replicas are kept, of each model, and no more than a few."""

from datetime import UTC, datetime, timedelta

from ml_platform.serving.scaling_record import KEPT, ScalingStep, add_scaling_steps, all_scaling_steps, scaling_steps
from ml_platform.state.store import StateStore


def step(number: int) -> ScalingStep:
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number)
    return ScalingStep(at=at, version="2", before=number, after=number + 1, load=0.9, target=0.7)


def test_last_changes_stay_in_their_order(state_store: StateStore) -> None:
    assert scaling_steps(state_store, "toy") == []
    for number in range(0, 2 * KEPT, 2):
        add_scaling_steps(state_store, "toy", [step(number), step(number + 1)])
    add_scaling_steps(state_store, "other", [step(7)])
    kept = [step(number) for number in range(KEPT, 2 * KEPT)]
    assert scaling_steps(state_store, "toy") == kept
    assert all_scaling_steps(state_store) == {"toy": kept, "other": [step(7)]}
