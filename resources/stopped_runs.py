"""The runs of a platform that stops: they end as canceled, or the next start tries them again, as declared.

These are the runs that its webserver and daemon launched. A run of the command line goes on in its own terminal.
"""

import os
import signal
from collections.abc import Collection
from typing import Literal, cast, get_args

import dagster as dg
import psutil

from ml_platform.errors import PlatformError
from ml_platform.state.process_identity import process_id
from resources.run_monitoring import LAUNCHER_TAG, PROCESS_TAG, OpenRun, end_dead_runs, open_runs, tagged_process

STOPPED_RUNS_VARIABLE = "ML_PLATFORM_STOPPED_RUNS"
"""Environment variable: what a stop does with the runs under way."""

StoppedRuns = Literal["cancel", "retry"]


class StoppedRunsSettingError(PlatformError):
    """Raised when :data:`STOPPED_RUNS_VARIABLE` has another value than those of :data:`StoppedRuns`."""


def stopped_runs_setting() -> StoppedRuns:
    """Return what a stop does with the runs under way; raises :class:`StoppedRunsSettingError`."""
    value = os.environ.get(STOPPED_RUNS_VARIABLE, "cancel")
    if value not in get_args(StoppedRuns):
        raise StoppedRunsSettingError(
            STOPPED_RUNS_VARIABLE,
            expected="'cancel' or 'retry'",
            found=f"'{value}'",
            fix="Set it to cancel to end the runs, or to retry to let the next start try them again.",
        )
    return cast(StoppedRuns, value)


def stop_runs(instance: dg.DagsterInstance, processes: Collection[int], setting: StoppedRuns) -> list[OpenRun]:
    """Stop the runs whose process or launcher is one of ``processes`` (process ids), and return them.

    With 'cancel', a run gets the time to clean up and ends as canceled. With 'retry', its process is killed: the run
    fails when :func:`end_stopped_runs` is called, and the daemon of the next start tries it again.
    """
    stopped = [each for each in open_runs(instance) if _process_ids(each.run, each.process) & set(processes)]
    for each in stopped:
        if setting == "cancel":
            instance.report_run_canceling(each.run, "The platform was stopped.")
        if each.state == "running":
            _signal(process_id(each.process), signal.SIGTERM if setting == "cancel" else signal.SIGKILL)
    return stopped


def end_stopped_runs(instance: dg.DagsterInstance, setting: StoppedRuns) -> list[OpenRun]:
    """End the launched runs whose process is gone, when no process of the platform is left; return the ended ones."""
    if setting == "cancel":
        for each in open_runs(instance, start_seconds=0):
            if each.state == "ended" and tagged_process(each.run, LAUNCHER_TAG):
                instance.report_run_canceling(each.run, "The platform was stopped.")
    return end_dead_runs(instance, start_seconds=0)


def _process_ids(run: dg.DagsterRun, process: str) -> set[int]:
    launcher = "" if tagged_process(run, PROCESS_TAG) else tagged_process(run, LAUNCHER_TAG)
    return {process_id(each) for each in (process, launcher) if each}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        psutil.Process(pid).send_signal(number)
    except psutil.NoSuchProcess:
        return
