"""Prediction ids: unique and increasing in one process and between processes, whatever the clock does."""

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from bento.prediction_id import PredictionIds, row_prediction_id

NOON = int(datetime(2013, 7, 1, 12, tzinfo=UTC).timestamp() * 1000)


def test_id_is_a_uuid_of_version_7_with_the_time_of_its_making() -> None:
    text = PredictionIds(lambda: NOON).next()
    made = uuid.UUID(text)
    assert (len(text), str(made)) == (36, text)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == NOON


def test_id_of_a_row_ends_with_its_number() -> None:
    first = PredictionIds().next()
    rows = [row_prediction_id(first, row) for row in range(300)]
    assert rows[0] == first
    assert rows[299] == first[:-6] + "00012b"
    assert rows == sorted(set(rows))


def test_row_beyond_six_digits_has_no_id() -> None:
    first = PredictionIds().next()
    assert row_prediction_id(first, 16**6 - 1) == first[:-6] + "ffffff"
    with pytest.raises(ValueError, match="expected a row below 16777216"):
        row_prediction_id(first, 16**6)


@pytest.mark.parametrize(
    "times",
    [[NOON] * 10_000, [NOON - second for second in range(10_000)], [NOON + 1, NOON - 3_600_000] * 5_000],
    ids=["stands still", "goes back", "jumps"],
)
def test_ids_increase_whatever_the_clock_does(times: list[int]) -> None:
    ids = PredictionIds(iter(times).__next__)
    made = [ids.next() for _ in times]
    assert len(set(made)) == 10_000
    assert made == sorted(made)


def test_ids_follow_the_clock_again_when_it_has_caught_up() -> None:
    ids = PredictionIds(iter([NOON, NOON - 5, NOON + 1]).__next__)
    assert [uuid.UUID(ids.next()).int >> 80 for _ in range(3)] == [NOON, NOON, NOON + 1]


def test_processes_with_the_same_clock_make_different_ids() -> None:
    script = f"from bento.prediction_id import PredictionIds; print(PredictionIds(lambda: {NOON}).next())"
    made = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(made) == 3


def test_threads_never_get_the_same_id() -> None:
    ids = PredictionIds(lambda: NOON)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: ids.next(), range(20_000)))
    assert len(set(made)) == 20_000
