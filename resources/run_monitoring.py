"""Runs whose process is gone: find them, end them as failed, and free what they claimed.

A killed process cannot end its run. Such a run would count as running for ever, take a place in the queue and keep the
slots of its pools. The daemon of `ml-platform up`, the start of every run of the command line and `ml-platform runs`
end it. A run on another machine is never ended without a request, because its process cannot be checked from here.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import dagster as dg
import psutil
from dagster._core.storage.runs.sqlite import SqliteRunStorage
from dagster._core.storage.tags import GRPC_INFO_TAG, MAX_RETRIES_TAG

from ml_platform.data.scratch import sweep, sweep_temporary_folder
from ml_platform.errors import PlatformError, listed
from ml_platform.state.process_identity import (
    ProcessState,
    current_process,
    describe_process,
    observed_process,
    process_name,
    process_state,
)
from resources.home import Home

PROCESS_TAG = "ml_platform/process"
"""Tag of a run: the process that executes it, and the start of the run's id.

Dagster copies the tags of a run to its retry, and a retry has another process.
"""

LAUNCHER_TAG = "ml_platform/launcher"
"""Tag of a run: the process that launched it on the machine of its process, and the start of the run's id."""

POLL_SECONDS = 15
"""Interval in which the daemon and a waiting run look for runs whose process is gone."""

START_SECONDS = 100
"""Time that the process of a run may take to appear after its launcher has ended."""

OPEN_STATUSES = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""The statuses of runs that have, or should have, a process. A queued run has none."""

RUN_ID_DIGITS = 8
"""Digits of a run's id in messages and tags, as in the Dagster UI."""

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

LOG = logging.getLogger(__name__)


class RunEndError(PlatformError):
    """Raised when a run cannot be ended on request."""


@dataclass(frozen=True)
class OpenRun:
    """A run that has not ended: its process ("" if not known), and whether that process still runs."""

    run: dg.DagsterRun
    process: str
    state: ProcessState

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def title(self) -> str:
        """Return the assets of the run, or its job."""
        assets = sorted(key.to_user_string() for key in self.run.asset_selection or ())
        return listed(assets or [str(self.run.job_name)], limit=3)


def command_line_tags(run_id: str) -> dict[str, str]:
    """Return the tags of a run that this process executes itself; a person sees its failure and may repeat it."""
    return {PROCESS_TAG: process_tag(current_process(), run_id), MAX_RETRIES_TAG: "0"}


def process_tag(process: str, run_id: str) -> str:
    """Return the value of a tag that names ``process`` for the run ``run_id``."""
    return f"{process} {run_id[:RUN_ID_DIGITS]}"


def open_runs(instance: dg.DagsterInstance, start_seconds: float = START_SECONDS) -> list[OpenRun]:
    """Return the runs that have not ended, oldest first; queued runs are not among them."""
    runs = instance.get_runs(dg.RunsFilter(statuses=OPEN_STATUSES))
    return [examine(instance, run, start_seconds) for run in reversed(runs)]


def recover_from_killed_processes(
    home: Home, instance: dg.DagsterInstance, start_seconds: float = START_SECONDS
) -> list[OpenRun]:
    """End the dead runs, remove the temporary files of killed processes, and return the ended runs."""
    ended = end_dead_runs(instance, start_seconds)
    # The lake and the stores of MLflow and Dagster are large, and have no temporary file of this platform.
    removed = [*sweep_temporary_folder(), *sweep(home.root, {home.lake, home.mlflow, home.dagster})]
    if removed:
        LOG.info("Removed %d temporary files or folders of killed processes.", len(removed))
    return ended


def end_dead_runs(instance: dg.DagsterInstance, start_seconds: float = START_SECONDS) -> list[OpenRun]:
    """End every run whose process is gone, free its pool slots, and return the ended runs.

    A launched run is dead too if its launcher is gone and no process of it has appeared within ``start_seconds``.
    A run that was being cancelled ends as canceled, all others as failed. Slots that a killed process kept after the
    end of its run are freed too.
    """
    # The status is read again after the check: a process writes the end of its run before it exits.
    dead = [
        OpenRun(current, each.process, each.state)
        for each in open_runs(instance, start_seconds)
        if each.state == "ended" and (current := instance.get_run_by_id(each.run_id)) and not current.is_finished
    ]
    for each in dead:
        message = f"The process of this run ended without ending the run: {describe_process(each.process)}."
        _end(instance, each.run, message)
        LOG.warning("Ended run %s of %s: %s", each.run_id[:RUN_ID_DIGITS], each.title, message)
    _free_slots_of_ended_runs(instance)
    return dead


def end_run(instance: dg.DagsterInstance, run_id: str) -> OpenRun:
    """End the run with this id, or with this start of an id, on request, and return it.

    This ends a run whose process cannot be checked, such as a run of a machine that no longer exists. Raises
    :class:`RunEndError` when no open run has this id, when several have it, or when the process still runs.
    """
    found = [each for each in open_runs(instance) if each.run_id.startswith(run_id)] if run_id else []
    if len(found) != 1:
        raise RunEndError(
            f"Run '{run_id}'",
            expected="the id of one run that has not ended, or its first digits",
            found=listed([each.run_id for each in found]) if found else "no such run",
            fix="Run `ml-platform runs` to see all runs that have not ended.",
        )
    (run,) = found
    if run.state == "running":
        raise RunEndError(
            f"Run {run.run_id[:RUN_ID_DIGITS]}",
            expected="a run without a process",
            found=f"{describe_process(run.process)}, which still runs",
            fix=f"Terminate the run in the Dagster UI, or stop the process: kill {run.process.split('/')[1]}",
        )
    _end(instance, run.run, f"Ended on request; its process was {describe_process(run.process)}.")
    _free_slots_of_ended_runs(instance)
    return run


@contextmanager
def ending_dead_runs(instance: dg.DagsterInstance) -> Iterator[None]:
    """End dead runs now, and every :data:`POLL_SECONDS` during the body.

    A step of the body may wait for the slot of a pool; the run that has the slot may be killed meanwhile, with no
    daemon to notice.
    """
    end_dead_runs(instance)
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(POLL_SECONDS):
            try:
                end_dead_runs(instance)
            except Exception:
                # The next turn tries again, for instance after a lock of the database.
                LOG.warning("The search for runs whose process is gone failed.", exc_info=True)

    watcher = threading.Thread(target=watch, name="end-dead-runs", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def examine(instance: dg.DagsterInstance, run: dg.DagsterRun, start_seconds: float = START_SECONDS) -> OpenRun:
    """Return ``run`` with its process and the state of that process."""
    process = process_of(instance, run)
    state = process_state(process)
    if not process and _never_started(instance, run, start_seconds):
        process, state = tagged_process(run, LAUNCHER_TAG), "ended"
    elif state == "running" and not tagged_process(run, PROCESS_TAG):
        # It may end at any time.
        with suppress(psutil.NoSuchProcess):
            # From now on the exact start counts, whatever happens to the clock.
            process = process_name(int(process.split("/")[1]))
            instance.add_run_tags(run.run_id, {PROCESS_TAG: process_tag(process, run.run_id)})
    return OpenRun(run, process, state)


def process_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return the name of the process that executes ``run``; "" if it is unknown or on another machine.

    A launched run gets its process from its first event, in which the run worker tells its id. So does a run of `dg`
    or of an earlier release, if the runs are in a file of this machine.
    """
    if process := tagged_process(run, PROCESS_TAG):
        return process
    if _code_server_host(run.tags) not in LOCAL_HOSTS:
        return ""
    observer = tagged_process(run, LAUNCHER_TAG) or _this_machine(instance)
    if not observer:
        return ""
    for entry in instance.event_log_storage.get_logs_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            return observed_process(observer, int(str(pid.value)), entry.timestamp)
    return ""


def tagged_process(run: dg.DagsterRun, tag: str) -> str:
    """Return the process in ``tag``; "" without one, or with one that belongs to another run."""
    process, _, run_id = run.tags.get(tag, "").partition(" ")
    return process if run_id == run.run_id[:RUN_ID_DIGITS] else ""


def _never_started(instance: dg.DagsterInstance, run: dg.DagsterRun, start_seconds: float) -> bool:
    """Return whether the launcher of ``run`` is gone and no process of the run has appeared in time."""
    if run.status != dg.DagsterRunStatus.STARTING or process_state(tagged_process(run, LAUNCHER_TAG)) != "ended":
        return False
    launched = instance.get_run_stats(run.run_id).launch_time
    return launched is not None and abs(_now() - launched) >= start_seconds


def _now() -> float:
    from dagster._time import get_current_timestamp

    return get_current_timestamp()


def _code_server_host(tags: Mapping[str, str]) -> str:
    """Return the host of the code server that started the run; a run without code server is local."""
    return str(json.loads(tags.get(GRPC_INFO_TAG, "{}")).get("host", "localhost"))


def _this_machine(instance: dg.DagsterInstance) -> str:
    """Return a process name without boot for this machine, if the runs are in a file here; "" otherwise."""
    return "/".join(current_process().split("/")[:3]) if isinstance(instance.run_storage, SqliteRunStorage) else ""


def _end(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str) -> None:
    if run.status == dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message)
    else:
        instance.report_run_failed(run, message)


def _free_slots_of_ended_runs(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        # A deleted run has no process either.
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
