"""A platform that stops leaves no process and no open run; its runs are canceled, or tried again when declared."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.console.services import serving_processes
from ml_platform.serving.marked_processes import processes_of
from ml_platform_tests.polling import until
from ml_platform_tests.resources.test_run_monitoring import PROJECT, launch, started_program, started_runs
from resources.home import Home
from resources.run_monitoring import open_runs
from resources.stopped_runs import (
    STOPPED_RUNS_VARIABLE,
    StoppedRuns,
    StoppedRunsSettingError,
    end_stopped_runs,
    stop_runs,
    stopped_runs_setting,
)

PLATFORM = Path(__file__).parent / "waiting_platform.py"
CANCELED, FAILURE = dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(("setting", "status"), [("cancel", CANCELED), ("retry", FAILURE)])
def test_run_of_a_stopped_process_ends_as_declared(
    home: Home, instance: dg.DagsterInstance, setting: StoppedRuns, status: dg.DagsterRunStatus
) -> None:
    with started_program(home, instance, "waiting") as program:
        (stopped,) = stop_runs(instance, [program.pid], setting)
        program.wait(60)
    end_stopped_runs(instance, setting)

    assert stopped.title == "'waiting'"
    assert [run.status for run in instance.get_runs()] == [status]


def test_run_of_another_terminal_goes_on(home: Home, instance: dg.DagsterInstance) -> None:
    with started_program(home, instance, "waiting"):
        assert stop_runs(instance, [os.getpid()], "cancel") == []
        assert end_stopped_runs(instance, "cancel") == []
        assert [each.state for each in open_runs(instance)] == ["running"]


def test_another_value_of_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STOPPED_RUNS_VARIABLE, "keep")
    with pytest.raises(StoppedRunsSettingError, match=r"expected 'cancel' or 'retry', found 'keep'\. Set it to cancel"):
        stopped_runs_setting()


@contextmanager
def running_platform(home: Home, setting: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the platform with ``setting`` for stopped runs; at the end kill what is left of it."""
    with (home.root / "up.log").open("ab") as log:
        platform = subprocess.Popen(
            [sys.executable, str(PLATFORM), str(home.root)],
            cwd=PROJECT,
            env={**os.environ, STOPPED_RUNS_VARIABLE: setting},
            stdout=log,
            stderr=log,
        )
    try:
        yield platform
    finally:
        platform.kill()
        platform.wait()
        for each in processes_of(serving_processes(home).run):
            each.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("setting", "status", "will_retry"), [("cancel", CANCELED, None), ("retry", FAILURE, "true")])
def test_interrupt_ends_the_run_under_way_and_leaves_no_process(
    home: Home, instance: dg.DagsterInstance, setting: str, status: dg.DagsterRunStatus, will_retry: str | None
) -> None:
    with running_platform(home, setting) as platform:
        launch("wait")
        (run,) = until(lambda: started_runs(instance, "wait"), 240, interval=0.2)
        platform.send_signal(signal.SIGINT)
        assert platform.wait(60) == 0
        assert processes_of(serving_processes(home).run) == []

    (ended,) = instance.get_runs()
    # The daemon of the next start tries a run with this tag again.
    assert (ended.run_id, ended.status, ended.tags.get("dagster/will_retry")) == (run.run_id, status, will_retry)
    assert f"Stopping run {run.run_id[:8]} of 'wait'." in (home.root / "up.log").read_text()
