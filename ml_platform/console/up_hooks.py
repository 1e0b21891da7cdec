"""Ends the Dagster runs of `ml-platform up`: those without a process at its start, those under way at its stop."""

from collections.abc import Callable
from pathlib import Path

from ml_platform.serving.marked_processes import processes_of
from ml_platform.serving.processes import UpHooks
from resources.home import Home
from resources.orchestration import open_instance
from resources.run_monitoring import RUN_ID_DIGITS, recover_from_killed_processes
from resources.stopped_runs import end_stopped_runs, stop_runs, stopped_runs_setting


def up_hooks(home: Home, run: Path, echo: Callable[[str], None]) -> UpHooks:
    """Return the hooks that leave no run of ``home`` open without a process; ``run`` is the run folder of `up`.

    Raises :class:`~resources.stopped_runs.StoppedRunsSettingError` when the setting of stopped runs is wrong.
    """
    setting = stopped_runs_setting()

    def recover() -> None:
        with open_instance(home) as instance:
            # All processes of this home have ended, so no process of a launched run can still appear.
            recover_from_killed_processes(home, instance, start_seconds=0)

    def stop() -> None:
        with open_instance(home) as instance:
            for each in stop_runs(instance, [process.pid for process in processes_of(run)], setting):
                echo(f"Stopping run {each.run_id[:RUN_ID_DIGITS]} of {each.title}.")

    def end() -> None:
        with open_instance(home) as instance:
            end_stopped_runs(instance, setting)

    return UpHooks(before_start=recover, on_stop=stop, after_stop=end)
