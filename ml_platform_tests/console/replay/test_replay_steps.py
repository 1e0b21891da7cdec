"""An interrupted replay goes on at the first window without a record, and never mixes two replays."""

from pathlib import Path

import pytest

from ml_platform.console.replay.steps import (
    ReplayError,
    ReplayPlan,
    ReplayRecords,
    WindowRecord,
    WindowSent,
    windows_between,
)
from resources.home import Home

MONTHS = ["2013-03", "2013-04", "2013-05", "2013-06"]


def plan(**changes: object) -> ReplayPlan:
    declared = {"domain": "shops", "model": "late", "policy": "policy", "windows": MONTHS[1:3], **changes}
    return ReplayPlan.model_validate(declared)


def sent(window: str) -> WindowSent:
    return WindowSent(window=window, rows=10, resent=0, seconds=1.0, champion=1)


def record(window: str) -> WindowRecord:
    return WindowRecord(
        window=window,
        sent=sent(window),
        decisions=[{"kind": "retraining", "decision": "retrain"}],
        drift=None,
        champion=2,
        runs=3,
        failed_runs=[],
        run_seconds=9.0,
        training_seconds=5.0,
        trainings=1,
        seconds=12.0,
    )


def test_a_stored_window_is_read_by_another_process(tmp_path: Path) -> None:
    records = ReplayRecords(Home(tmp_path))
    records.begin(plan())
    records.store_sent(sent("2013-04"))
    records.store_window(record("2013-04"))

    again = ReplayRecords(Home(tmp_path))
    again.begin(plan())
    assert again.sent("2013-04") == sent("2013-04")
    assert again.windows(plan()) == [record("2013-04")]
    assert again.window("2013-05") is None


def test_a_second_attempt_knows_that_requests_may_have_been_sent(tmp_path: Path) -> None:
    first, is_repeated = ReplayRecords(Home(tmp_path)).begin_window("2013-04", 10.0)
    assert (first.at, is_repeated) == (10.0, False)
    assert ReplayRecords(Home(tmp_path)).begin_window("2013-04", 20.0) == (first, True)
    assert ReplayRecords(Home(tmp_path)).begin_window("2013-05", 20.0)[1] is False


def test_more_windows_continue_a_replay(tmp_path: Path) -> None:
    records = ReplayRecords(Home(tmp_path))
    records.begin(plan())
    records.begin(plan(windows=MONTHS[1:]))
    assert records.plan() == plan(windows=MONTHS[1:])


@pytest.mark.parametrize("changes", [{"policy": "every_window"}, {"windows": MONTHS[2:]}, {"model": "other"}])
def test_a_home_has_one_replay(tmp_path: Path, changes: dict[str, object]) -> None:
    records = ReplayRecords(Home(tmp_path))
    records.begin(plan())
    with pytest.raises(ReplayError, match=r"'late' by the policy 'policy', 2013-04 to 2013-05.*another home"):
        records.begin(plan(**changes))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    records = ReplayRecords(Home(tmp_path))
    records.begin(plan())
    (tmp_path / "replay" / "2013-04.json").write_text('{"window": "2013-04"')
    with pytest.raises(ReplayError, match=r"2013-04\.json.*WindowRecord"):
        records.window("2013-04")


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("2013-13", "2013-05", "Window '2013-13' of 'late'.*2013-03 to 2013-06"),
        ("2013-05", "2013-04", "--to not before --from"),
        ("2013-03", "2013-04", "with which the first version is made"),
    ],
)
def test_windows_that_cannot_be_replayed_are_named(first: str, last: str, message: str) -> None:
    with pytest.raises(ReplayError, match=message):
        windows_between(MONTHS, first, last, "late")
