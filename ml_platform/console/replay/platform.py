"""The platform that a replay drives: the processes of `ml-platform up`, and waiting until they have settled."""

import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from filelock import FileLock, Timeout

from ml_platform.components.overlay import OVERLAY_VARIABLE
from ml_platform.components.sensor_interval import INTERVAL_VARIABLE
from ml_platform.console.replay.steps import ReplayError
from ml_platform.console.services import CODE_LOCATION, headless_workspace
from ml_platform.data.atomic import write_text
from ml_platform.features.history_store import SCHEME
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.serving.left_supervisor import stop_left_processes
from ml_platform.serving.processes import STATUS_FILE, UP_FILE, free_port, stop_supervisor
from ml_platform.serving.serving_status import read_serving_status
from ml_platform.state.store import StateStore
from resources.addresses import DEFAULT_PORTS, port_variable
from resources.home import HOME_VARIABLE, Home
from resources.home_version import prepare_home
from resources.orchestration import open_instance
from resources.profile import ONLINE_VARIABLE, PROFILE_VARIABLE
from resources.profiles import REPOSITORY
from resources.state import open_state
from resources.stopped_runs import STOPPED_RUNS_VARIABLE

SENSOR_SECONDS = 2
"""Interval of the sensors in a replay. Data time runs thousands of times faster than in production."""

POLL_SECONDS = 0.5
LOOKS = 2
"""Ticks after the last run in which a sensor requested nothing. Some conditions see a change one tick later."""

TICKS_READ = 10
"""Last ticks of a sensor that are read to see what it requested."""


LOG = logging.getLogger(__name__)


@contextmanager
def replay_environment(home: Home, overlay: Mapping[str, Any]) -> Iterator[None]:
    """Select ``home`` with the settings of a replay for this process and its children; restore the variables after it.

    The ports are free ones, so a replay runs beside a platform.
    """
    file = home.root / "replay" / "overlay.yaml"
    variables = {
        HOME_VARIABLE: str(home.root),
        "DAGSTER_HOME": str(home.dagster),
        PROFILE_VARIABLE: "local",
        ONLINE_VARIABLE: f"{SCHEME}://{home.online.resolve()}",
        OVERLAY_VARIABLE: str(file),
        INTERVAL_VARIABLE: str(SENSOR_SECONDS),
        STOPPED_RUNS_VARIABLE: "retry",  # an interruption is no decision against the partitions of its runs
        **{port_variable(name): str(free_port()) for name in DEFAULT_PORTS},
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        prepare_home(home)
        write_text(file, yaml.safe_dump(dict(overlay), sort_keys=False))
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def only_replay(home: Home) -> Iterator[None]:
    """Be the only replay of ``home``; raises :class:`ReplayError` while another process replays it."""
    lock = FileLock(home.root / "replay" / "replay.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ReplayError(
            f"Replay in {home.root}",
            expected="no other process that replays it",
            found="one",
            fix="Wait for its end, or choose another home with --home.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class RunningPlatform:
    """The running processes of ``home``, with Dagster's instance and the code location as its daemon knows them."""

    home: Home
    instance: dg.DagsterInstance
    workspace_file: Path
    process: "subprocess.Popen[bytes]"
    state: StateStore = field(init=False)
    workspace: WorkspaceProcessContext = field(init=False)
    _known_runs: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.state = open_state(self.home)

    def connect(self, stack: ExitStack) -> Callable[[], bool]:
        """Open the workspace, which ``stack`` closes; return a function that says whether its code is loaded."""
        target = WorkspaceFileTarget([str(self.workspace_file)])
        # A code server that still starts is no fault; one that never does ends the waiting. Threads warn too.
        warnings.filterwarnings("ignore", message="Error loading repository location", category=UserWarning)
        self.workspace = stack.enter_context(WorkspaceProcessContext(self.instance, target))

        def is_loaded() -> bool:
            if self.workspace.create_request_context().has_code_location(CODE_LOCATION):
                return True
            self.workspace.refresh_code_location(CODE_LOCATION)
            return self.workspace.create_request_context().has_code_location(CODE_LOCATION)

        return is_loaded

    @property
    def gateway(self) -> str:
        """The address of the gateway."""
        return str(json.loads((self.home.run / UP_FILE).read_text())["gateway"])

    @property
    def repository(self) -> RemoteRepository:
        """The definitions of the project, as the daemon loads them."""
        (found,) = self.workspace.create_request_context().get_code_location(CODE_LOCATION).get_repositories().values()
        return found

    def require_schedule(self, name: str) -> None:
        """Raise :class:`ReplayError` when the code location lacks the schedule ``name``: its domain does not load."""
        if not self.repository.has_schedule(name):
            raise ReplayError(
                f"Schedule '{name}'",
                expected="a domain that loads",
                found="no such schedule in the code location",
                fix="Run `dg check defs`, correct the declarations, then repeat the command.",
            )

    def require_running(self) -> None:
        """Raise :class:`ReplayError` when the platform has ended."""
        if self.process.poll() is not None:
            raise ReplayError(
                f"Platform of {self.home.root}",
                expected="running processes",
                found=f"that it ended with status {self.process.returncode}",
                fix=f"Read {self.home.logs}/replay.log, then repeat the command: it goes on where it was.",
            )

    def wait_until(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until ``reached``; raises :class:`ReplayError`, which names ``what``, after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not reached():
            self.require_running()
            if time.monotonic() > deadline:
                open_runs = [run.run_id for run in self._open_runs()]
                raise ReplayError(
                    f"Replay in {self.home.root}",
                    expected=f"{what} within {seconds:.0f} s",
                    found=f"open runs {open_runs}" if open_runs else "no open run",
                    fix="See the reasons of the ticks in the Dagster UI, then repeat the command.",
                )
            time.sleep(POLL_SECONDS)

    def settle(self, seconds: float) -> None:
        """Wait until nothing follows any more: no open run, and each sensor looked after the last run for nothing.

        The gateway then serves the desired state.
        """
        started = datetime.now(UTC).timestamp()
        self.wait_until(lambda: self.is_quiet(started), "that all sensors have nothing to do", seconds)
        self.wait_until(self.serves_desired, "that the gateway serves the desired state", seconds)

    def is_idle(self) -> bool:
        """Return whether no run is queued or under way."""
        return not self._open_runs()

    def serves_desired(self) -> bool:
        """Return whether the routes of the gateway are those of the desired state."""
        status = read_serving_status(self.home.run / STATUS_FILE)
        desired = {model: each.generation for model, each in all_desired_states(self.state).readable.items()}
        return status is not None and {model: each.generation for model, each in status.models.items()} == desired

    def tick(self, schedule: str, at: datetime) -> str:
        """Submit the run of ``schedule`` for the data time ``at``, once, and return its id.

        It is the run of the scheduler with another clock: it goes through the queue, and its tags name the schedule.
        """
        from dagster._core.definitions.run_request import RunRequest
        from dagster._scheduler.scheduler import _submit_run_request

        found = self.repository.get_schedule(schedule)
        tags = {"dagster/schedule_name": schedule}
        submitted = _submit_run_request(
            RunRequest(tags=tags, run_config={}), self.workspace, found, at.astimezone(UTC), LOG, None
        )
        if submitted.error_info is not None:
            raise ReplayError(
                f"Schedule '{schedule}'",
                expected="that its run is submitted",
                found=submitted.error_info.message,
                fix="Repeat the command.",
            )
        run = submitted.existing_run or submitted.submitted_run
        assert run is not None
        return str(run.run_id)

    def wait_for_run(self, run_id: str, seconds: float) -> bool:
        """Wait for the end of a run and of its retries, and return whether the last of them succeeded."""
        self.wait_until(
            lambda: self._last_of(run_id).is_finished and self.is_idle(), f"the end of run {run_id}", seconds
        )
        return self._last_of(run_id).status is dg.DagsterRunStatus.SUCCESS

    def _last_of(self, run_id: str) -> dg.DagsterRun:
        retries = self.instance.get_runs(dg.RunsFilter(tags={"dagster/root_run_id": run_id}), limit=1)
        run = retries[0] if retries else self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def _open_runs(self) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(statuses=[*NOT_FINISHED_STATUSES])))

    def is_quiet(self, since: float) -> bool:
        """Return whether no run is open, and each sensor has looked since then, and after the last run, for nothing.

        ``since`` is in seconds since 1970.
        """
        if self._open_runs():
            return False
        last = self.instance.get_run_records(limit=1, order_by="update_timestamp")
        if last:
            since = max(since, last[0].update_timestamp.timestamp())
        return all(self._looked_for_nothing(each, since) for each in self._sensors)

    @cached_property
    def _sensors(self) -> list[tuple[str, str]]:
        running = dg.DefaultSensorStatus.RUNNING
        return [
            (each.get_remote_origin_id(), each.selector_id)
            for each in self.repository.get_sensors()
            if each.default_status is running
        ]

    def _looked_for_nothing(self, sensor: tuple[str, str], since: float) -> bool:
        ticks = self.instance.get_ticks(*sensor, limit=TICKS_READ)
        # The run of a tick is created after the tick has ended, under load half a minute later.
        if any(
            not self._exists(run_id)
            for tick in ticks
            for run_id in (*tick.run_ids, *(tick.tick_data.reserved_run_ids or ()))
        ):
            return False
        later = [each for each in ticks if each.timestamp > since]
        ended = [each for each in later if each.status in (TickStatus.SKIPPED, TickStatus.SUCCESS)]
        return len(ended) >= LOOKS and not any(each.run_ids for each in ended)

    def _exists(self, run_id: str) -> bool:
        if run_id not in self._known_runs and self.instance.get_run_by_id(run_id) is not None:
            self._known_runs.add(run_id)
        return run_id in self._known_runs


@contextmanager
def running_platform(home: Home, *, headless: bool, seconds: float = 180) -> Iterator[RunningPlatform]:
    """Start `ml-platform up` on ``home``, yield it when the gateway answers, and stop it.

    The processes of a replay that was killed are ended first. Call it within :func:`replay_environment`. Raises
    :class:`ReplayError` when it does not start in time.
    """
    stop_left_processes(home.run)
    home.logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ml_platform.cli", "up", *(["--headless"] if headless else [])]
    with ExitStack() as stack:
        instance = stack.enter_context(open_instance(home))
        log = stack.enter_context((home.logs / "replay.log").open("ab"))
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        stack.callback(stop_supervisor, process, home.run)
        file = headless_workspace(home, REPOSITORY) if headless else REPOSITORY / "workspace.yaml"
        platform = RunningPlatform(home, instance, file, process)
        platform.wait_until(lambda: _is_up(home, process.pid), "a running gateway", seconds)
        platform.wait_until(platform.connect(stack), "a code location", seconds)
        yield platform


def _is_up(home: Home, pid: int) -> bool:
    file = home.run / UP_FILE
    return (
        file.exists()
        and json.loads(file.read_text())["pid"] == pid
        and read_serving_status(home.run / STATUS_FILE) is not None
    )
