"""The number of replicas follows the load, slowly and one step at a time."""

from pathlib import Path

import pytest

from ml_platform.serving.replicas import ReplicaScaler, replica_names, service_of, started_replicas
from ml_platform.serving.serving_settings import ReplicaSettings

CAPACITY = 10
DECLARED = ReplicaSettings(min=1, max=3, target=0.5, up_seconds=4, down_seconds=20)


def counts(loads: list[tuple[int, float]], declared: ReplicaSettings = DECLARED, running: int = 1) -> list[int]:
    """Return the number of replicas after each second of ``loads``: seconds, and requests at once during them."""
    scaler, found, now = ReplicaScaler(CAPACITY), [], 0.0
    for seconds, load in loads:
        for _ in range(seconds):
            scaler.count("toy", declared, running, now)
            scaler.add_sample("toy", declared, load, now)
            found.append(scaler.count("toy", declared, running, now))
            now += 1
    return found


def test_replica_starts_after_the_load_was_above_the_target_for_the_declared_time() -> None:
    assert counts([(5, 6.0)]) == [1, 1, 1, 1, 2]
    # Two replicas take 10 at the target, so 6 is enough for them.
    assert counts([(30, 6.0)])[-1] == 2
    assert counts([(30, 5.0)])[-1] == 1


def test_each_step_waits_its_own_time_and_the_last_one_ends_at_the_maximum() -> None:
    assert counts([(30, 100.0)]) == [1] * 4 + [2] * 4 + [3] * 22


def test_short_peak_starts_no_replica() -> None:
    assert set(counts([(8, 1.0), (1, 15.0), (20, 1.0)])) == {1}


def test_replica_stops_only_when_the_others_have_room() -> None:
    # Three replicas run; two of them take 10 at the target, of which 80 percent may be used.
    assert counts([(60, 9.0)], running=3)[-1] == 3
    found = counts([(50, 7.0)], running=3)
    assert found == [3] * 20 + [2] * 30
    assert counts([(60, 0.0)], running=3) == [3] * 20 + [2] * 20 + [1] * 20


def test_number_stays_within_the_declared_limits() -> None:
    fixed = ReplicaSettings(min=2)
    assert set(counts([(200, 100.0), (200, 0.0)], fixed)) == {2}
    assert counts([(1, 0.0)], running=9) == [3]


def test_first_replica_has_the_name_of_its_service(tmp_path: Path) -> None:
    names = replica_names("toy-1-abc", 11)
    assert (names[0], names[1], set(map(service_of, names))) == ("toy-1-abc", "toy-1-abc@2", {"toy-1-abc"})
    for name in [*names, "toy-1-abcd"]:
        (tmp_path / f"{name}.port").touch()
    assert started_replicas(tmp_path, "toy-1-abc") == names
    (tmp_path / "toy-1-abc.port").unlink()
    assert started_replicas(tmp_path, "toy-1-abc") == names[1:]


def test_fewer_replicas_at_high_load_than_always_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max: expected at least min \(3\), found 2"):
        ReplicaSettings(min=3, max=2)
