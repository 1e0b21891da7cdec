"""The rates that `benchmarks/drift.py` measures, with few windows."""

import pytest

from benchmarks.drift import CHANGES, measure


@pytest.mark.parametrize("distribution", ["discrete", "heavy-tailed"])
def test_windows_without_a_change_raise_no_alarm(distribution: str) -> None:
    found = measure(distribution, rows=500, windows=2, distribution=distribution, change=None)
    assert (found.windows, found.alarms, found.detected) == (2, 0, None)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_three_of_thirty_features_are_found(change: str) -> None:
    found = measure(change, rows=1_500, windows=1, distribution=CHANGES[change][0], change=change)
    assert (found.alarms, found.detected, found.all_detected) == (0, 1, 1)
