"""Steps in processes of their own: crashes, retries, cancellation, threads, and computations after a fork."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.execution.api import create_execution_plan

from ml_platform_tests.polling import until
from ml_platform_tests.resources import isolated_runs
from resources.home import Home
from resources.steps_executor import STEPS_VARIABLE, StepsExecutor, StepsSettingError, isolated_by_environment

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = isolated_runs.__file__
TOTAL = sum(range(isolated_runs.FRAME_ROWS))


def start(home: Home, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, PROGRAM, str(home.root), *arguments],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )


def execute(home: Home, instance: dg.DagsterInstance, *arguments: str) -> dg.DagsterRun:
    """Run a job of the program to its end, and return its run."""
    start(home, *arguments).wait(120)
    (run,) = instance.get_runs()
    return run


def events(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType) -> dict[str, Any]:
    """Return the last event of ``kind`` of each step."""
    found = instance.all_logs(run.run_id, of_type=kind)
    return {str(each.step_key): each.dagster_event for each in found}


def metadata(instance: dg.DagsterInstance, asset: str) -> dict[str, Any]:
    found = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert found is not None
    assert found.asset_materialization is not None
    return {name: value.value for name, value in found.asset_materialization.metadata.items()}


def test_crashed_steps_fail_with_their_signal_and_the_others_of_the_run_go_on(
    home: Home, instance: dg.DagsterInstance
) -> None:
    run = execute(home, instance, "crash")

    assert run.status == dg.DagsterRunStatus.FAILURE
    failures = {
        step: event.step_failure_data.error.message
        for step, event in events(instance, run, dg.DagsterEventType.STEP_FAILURE).items()
    }
    assert failures.keys() == {"killed", "segfault"}
    assert failures["killed"].startswith("The process of this step was terminated by signal 9 (SIGKILL).")
    assert failures["segfault"].startswith("The process of this step was terminated by signal 11 (SIGSEGV).")
    succeeded = events(instance, run, dg.DagsterEventType.STEP_SUCCESS)
    assert succeeded.keys() == {"killed_once", "after_killed_once", "one_thread"}

    retries = events(instance, run, dg.DagsterEventType.STEP_UP_FOR_RETRY)
    assert retries.keys() == {"killed_once"}
    assert "SIGKILL" in retries["killed_once"].step_retry_data.error.message

    # A later step sees the events of an earlier one, and both have processes of their own.
    first = metadata(instance, "killed_once")["pid"]
    assert metadata(instance, "after_killed_once") == {"seen": first}
    checked = instance.get_latest_materialization_event(dg.AssetKey("after_killed_once"))
    key = dg.AssetCheckKey(dg.AssetKey("after_killed_once"), "positive")
    (check,) = instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).values()
    assert check.status.value == "SUCCEEDED"
    assert checked is not None

    assert metadata(instance, "one_thread") == {"imported": ["sklearn.linear_model"], "polars": 1, "others": 1}
    printed = [file.read_text() for file in (home.dagster / "storage" / run.run_id).rglob("*.out")]
    assert "printed in the step\n" in printed


def test_polars_computes_in_each_forked_step(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STEPS_VARIABLE, "isolated")
    run = execute(home, instance, "compute")
    assert run.status == dg.DagsterRunStatus.SUCCESS
    found = [metadata(instance, f"computes_{number}") for number in range(4)]
    assert [each["total"] for each in found] == [TOTAL] * 4
    assert len({each["pid"] for each in found}) == 4


def test_process_that_computed_is_not_forked(home: Home, instance: dg.DagsterInstance) -> None:
    run = execute(home, instance, "compute_once", "computed")
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert metadata(instance, "computes_once")["total"] == TOTAL
    engine = [
        str(each.dagster_event and each.dagster_event.message)
        for each in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    ]
    (found,) = [each for each in engine if each.startswith("The process of the run cannot be forked safely")]
    assert "thread polars-0" in found


@pytest.mark.parametrize(("job", "isolated"), [("compute", False), ("compute_once", True)])
def test_declared_step_isolates_all_steps_of_its_run(job: str, isolated: bool) -> None:
    plan = create_execution_plan(isolated_runs.defs.get_job_def(job))
    assert StepsExecutor(isolated=None, max_concurrent=1).isolates(plan) is isolated
    assert StepsExecutor(isolated=True, max_concurrent=1).isolates(plan)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, dg.DagsterRunStatus.CANCELED), (signal.SIGKILL, dg.DagsterRunStatus.STARTED)],
)
def test_end_of_the_run_ends_its_steps(
    home: Home, instance: dg.DagsterInstance, number: signal.Signals, status: dg.DagsterRunStatus
) -> None:
    program = start(home, "wait")
    until((home.root / "pid").exists, 60)
    until(lambda: bool((home.root / "pid").read_text()), 60)
    step = int((home.root / "pid").read_text())
    assert psutil.Process(step).ppid() == program.pid

    (run,) = instance.get_runs()
    if status == dg.DagsterRunStatus.CANCELED:
        instance.report_run_canceling(run)
    program.send_signal(number)
    program.wait(60)

    until(lambda: not psutil.pid_exists(step), 60)
    (run,) = instance.get_runs()
    assert run.status == status


def test_wrong_setting_names_the_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STEPS_VARIABLE, "forked")
    with pytest.raises(StepsSettingError, match="expected 'in_process', 'isolated', found 'forked'"):
        isolated_by_environment()
