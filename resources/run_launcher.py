"""The launcher of the home's runs: Dagster's own, which also knows whether the process of a run still runs.

Dagster's run monitoring asks the launcher. Its default launcher gives no answer, so a run whose process was killed
would never end.
"""

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

from ml_platform.state.process_identity import current_process, describe_process
from resources.run_monitoring import LAUNCHER_TAG, examine, process_tag


class HomeRunLauncher(DefaultRunLauncher):
    """Starts each run in a process of the code server, and answers whether that process still runs."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run; the tag, written first, says on which machine and boot."""
        run_id = context.dagster_run.run_id
        self._instance.add_run_tags(run_id, {LAUNCHER_TAG: process_tag(current_process(), run_id)})
        super().launch_run(context)

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return FAILED when the process of ``run`` is gone, and RUNNING otherwise.

        A run of another machine counts as running: its process cannot be checked from here, and the answer UNKNOWN
        would end it.
        """
        examined = examine(self._instance, run)
        status = WorkerStatus.FAILED if examined.state == "ended" else WorkerStatus.RUNNING
        return CheckRunHealthResult(status, describe_process(examined.process))
