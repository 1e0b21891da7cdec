"""Runs gateway, reconciler, services and daemons of one home under one process manager (circus).

They start and stop together, and a home runs them only once at a time. Environment variables mark the processes, so the
next run finds what a killed run left behind: it takes over gateway and services without an interruption, and stops the
others.
"""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.atomic import write_json
from ml_platform.errors import PlatformError, listed
from ml_platform.serving.access_watch import AccessPlan, write_first_access
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.serving.gateway import Gateway
from ml_platform.serving.gateway_process import remove_restart_files
from ml_platform.serving.gateway_routes import ANY_MODEL
from ml_platform.serving.marked_processes import (
    BRIDGE,
    GATEWAY,
    PROCESS_VARIABLE,
    RUN_VARIABLE,
    SERVICE_PREFIX,
    describe_process,
    process_name,
    processes_of,
    stop_orphaned_processes,
)
from ml_platform.serving.ordered_stop import RECONCILER, OrderedStop
from ml_platform.serving.serving_settings import BentoSettings
from ml_platform.serving.serving_status import read_serving_status
from ml_platform.serving.startup_status import ManagedProcess, StartupReporter
from ml_platform.serving.streams.stream_status import STATUS_FILE as STREAMS_FILE
from ml_platform.serving.takeover import APPLIED_FILE, EarlierRun, listening_ports
from ml_platform.state.store import StateStore

STATUS_FILE, UP_FILE, LOCK_FILE = "status.json", "up.json", "up.lock"
PLAN_FILE = "plan.json"
"""The plan, which the reconciler and the guard of rollouts read."""

CONTROL_FOLDER = "control"
STOP_SECONDS = 35
DRAIN_SECONDS = STOP_SECONDS - 5
"""Longest wait for the requests under way when the platform stops."""

START_SECONDS = 60.0
POLL_MILLISECONDS = 500


class AlreadyRunningError(PlatformError):
    """Raised when the platform of this home already runs."""


class PortInUseError(PlatformError):
    """Raised when another process listens on a port that is needed."""


class StartFailedError(PlatformError):
    """Raised when the started processes do not serve in time."""


class ProcessSpec(BaseModel):
    """A process that the process manager keeps running: it starts again when it ends."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the process and of its log file.")
    command: list[str] = Field(min_length=1, description="Program and arguments.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables added to the current environment.")
    port: int | None = Field(default=None, description="Port that it listens on; must be free at the start.")
    folder: Path | None = Field(default=None, description="Working directory; None: that of the platform.")
    port_setting: str = Field(default="", description="Setting that chooses another port, for error messages.")
    address: str = Field(default="", description="Address of its page; empty: no page.")


class ProcessPlan(BaseModel):
    """The processes of one home, with their folders and ports."""

    model_config = ConfigDict(extra="forbid")

    run: Path = Field(description="Folder of the lock, port and status files.")
    logs: Path = Field(description="Folder of log files, one per process.")
    state: str = Field(description="SQLite file of the state store, or `$` and the variable with its address.")
    bentos: Path = Field(description="Root of all bentos.")
    trusted_keys: Path | None = Field(default=None, description="Folder of the public keys that signed the bentos.")
    online: str = Field(description="Folder of the online snapshots, or address of the server with them.")
    predictions: Path = Field(description="Folder of the prediction logs, with one folder per model.")
    pii_key: Path | None = Field(default=None, description="File of the key of pseudonyms in these logs.")
    gateway_port: int = Field(description="Port of the gateway.")
    max_loaded: int | None = Field(
        default=None, description="Loaded models of a host at once besides the warm ones; None: no limit."
    )
    host: str = Field(default="127.0.0.1", description="Address that the gateway listens on.")
    gateway_setting: str = Field(
        default="ML_PLATFORM_GATEWAY_PORT", description="Setting that chooses the gateway's port."
    )
    keys: bool = Field(default=False, description="Whether the gateway answers only requests with a client's API key.")
    certificate: Path | None = Field(default=None, description="PEM file of the gateway's certificate; None: no TLS.")
    private_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    workers: int = Field(default=1, ge=1, description="Threads of the gateway that answer requests.")
    streams: bool = Field(default=True, description="Whether declared streams are consumed.")
    grpc: bool = Field(default=False, description="Whether the gateway answers gRPC calls, by a bridge to REST.")
    home_page: str = Field(default="", description="Address to which `/` of the gateway redirects; empty: none.")
    traces: str = Field(default="", description="Address of the collector of traces; empty: none are sent.")
    trace_share: float = Field(default=0.0, ge=0, le=1, description="Share of requests that the gateway traces.")
    processes: list[ProcessSpec] = Field(
        default_factory=list, description="Processes besides gateway, reconciler and services."
    )

    @property
    def gateway(self) -> Gateway:
        tls = self.certificate is not None
        reached = (self.host, self.keys, tls, self.workers, self.grpc, self.home_page)
        return Gateway(self.run / "gateway", self.gateway_port, *reached, self.traces, self.trace_share)

    @property
    def access(self) -> AccessPlan | None:
        """The part of the plan that the watch over keys and certificate needs; None without both."""
        if not self.keys and self.certificate is None:
            return None
        return AccessPlan(
            gateway=self.gateway.folder,
            state=self.state,
            keys=self.keys,
            certificate=self.certificate,
            private_key=self.private_key,
        )

    @property
    def status_file(self) -> Path:
        return self.run / STATUS_FILE

    def open_state(self) -> StateStore:
        """Return the state store, which has the desired states."""
        return StateStore.at(self.state)


@dataclass(frozen=True)
class UpHooks:
    """The calls of `up` at its start and stop.

    ``before_start`` and ``after_stop`` are called when no process of the home is left but those that serve; ``on_stop``
    is called when a stop begins.
    """

    before_start: Callable[[], object] = lambda: None
    on_stop: Callable[[], object] = lambda: None
    after_stop: Callable[[], object] = lambda: None


def up(plan: ProcessPlan, echo: Callable[[str], None] = print, hooks: UpHooks | None = None) -> None:
    """Run all processes of ``plan`` until SIGINT or SIGTERM; requests under way are answered, unless it comes twice.

    ``echo`` receives one line with the address of each process and endpoint. The gateway and the services that a killed
    run left behind serve until the new ones do. Its other processes are stopped first and reported. Raises
    :class:`AlreadyRunningError` when this home is up, and :class:`PortInUseError` when another process listens on a
    needed port.
    """
    hooks = hooks or UpHooks()
    plan.run.mkdir(parents=True, exist_ok=True)
    plan.logs.mkdir(parents=True, exist_ok=True)
    with _run_lock(plan.run):
        earlier = _stop_earlier_run(plan, echo)
        hooks.before_start()
        _remove_run_files(plan)
        _require_free_ports(plan, earlier)
        _write_gateway_files(plan, earlier)
        try:
            with _control_sockets(plan.run) as folder:
                _run_arbiter(plan, folder, earlier, echo, hooks.on_stop)
        finally:
            # A process that was just being started, by a server that was about to end, is unknown to the manager.
            stop_orphaned_processes(plan.run)
            remove_restart_files(plan.gateway.folder)
            _remove_run_files(plan)
            (plan.run / APPLIED_FILE).unlink(missing_ok=True)
            hooks.after_stop()


def _stop_earlier_run(plan: ProcessPlan, echo: Callable[[str], None]) -> EarlierRun:
    """Stop what a killed run left behind except what serves, which is returned."""
    serving_kinds = [
        each
        for each in processes_of(plan.run)
        if (name := process_name(each)) in (GATEWAY, BRIDGE) or name.startswith(SERVICE_PREFIX)
    ]
    # The reconciler first: nothing may change what serves while it is looked at.
    orphans = stop_orphaned_processes(plan.run, serving_kinds)
    earlier = EarlierRun.find(plan.run, plan.gateway)
    orphans += stop_orphaned_processes(plan.run, earlier.processes)
    if orphans:
        echo(f"An earlier run was killed; ended the {len(orphans)} processes that it left behind: {listed(orphans)}.")
    if earlier.processes:
        gateway = "The gateway" if earlier.gateways else "No gateway"
        echo(f"{gateway} and {len(earlier.ports)} services of the earlier run go on until the new ones serve.")
    return earlier


@contextmanager
def serve_temporarily(plan: ProcessPlan, timeout_seconds: float = START_SECONDS) -> Iterator[str]:
    """Run ``plan`` in a child process and yield the gateway's address once all desired models serve.

    All processes are stopped when the block ends. Raises :class:`StartFailedError`, with the last lines of the logs,
    when the models do not serve within ``timeout_seconds``.
    """
    plan.run.mkdir(parents=True, exist_ok=True)
    plan.logs.mkdir(parents=True, exist_ok=True)
    plan_file = plan.run / PLAN_FILE
    plan_file.write_text(plan.model_dump_json())
    log = plan.logs / "up.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "ml_platform.serving.processes", str(plan_file)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_serving(plan, running, log, timeout_seconds)
        yield plan.gateway.url
    finally:
        stop_supervisor(running, plan.run)


def stop_supervisor(running: "subprocess.Popen[bytes]", run: Path) -> None:
    """End a supervisor of the run folder ``run`` and all of its processes, by force if they take too long."""
    running.send_signal(signal.SIGTERM)
    try:
        running.wait(DRAIN_SECONDS + STOP_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
        list(stop_orphaned_processes(run))


def free_port() -> int:
    """Return a local port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _run_lock(run: Path) -> Iterator[None]:
    lock = FileLock(run / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        file = run / UP_FILE
        owner = json.loads(file.read_text()) if file.exists() else {}
        description = ", ".join(f"{name} {value}" for name, value in owner.items()) or "starting"
        raise AlreadyRunningError(
            f"Platform home {run.parent}",
            expected="no running platform",
            found=f"it is up already ({description})",
            fix="Use the running platform, stop it with Ctrl-C, or set ML_PLATFORM_HOME to another home.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _control_sockets(run: Path) -> Iterator[str]:
    """Yield the folder of the process manager's sockets; no other user can open it.

    The folder is in the home, so a killed run leaves no file elsewhere. The path of a unix socket has at most 107
    bytes; a path through a descriptor of the folder stays short in a deep home.
    """
    folder = run / CONTROL_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_run_files(plan: ProcessPlan) -> None:
    """Remove the files that are valid only during a run: status and ports.

    So new services do not take the ports of those of an earlier run, which still serve.
    """
    stale = [plan.status_file, plan.run / UP_FILE, plan.run / STREAMS_FILE, *plan.run.glob("*.port")]
    for file in stale:
        file.unlink(missing_ok=True)


def _write_gateway_files(plan: ProcessPlan, earlier: EarlierRun) -> None:
    """Write the files that the gateway starts with: its routes to the services of ``earlier``, and 503 for the rest."""
    settings_of = BentoSettings(plan.bentos)
    serving, clusters = earlier.serving(plan.run, plan.gateway, settings_of)
    desired = _desired_models(plan)
    plan.gateway.write_bootstrap(
        starting=desired - serving.keys(),
        serving=serving,
        clusters=clusters,
        settings_of=settings_of,
    )
    write_json(plan.run / APPLIED_FILE, {model: state.model_dump() for model, state in serving.items()})


def _require_free_ports(plan: ProcessPlan, earlier: EarlierRun) -> None:
    needed = [
        (GATEWAY, plan.host, plan.gateway_port, plan.gateway_setting),
        *((each.name, "127.0.0.1", each.port, each.port_setting) for each in plan.processes if each.port),
    ]
    own = {port for gateway in earlier.gateways for port in listening_ports(gateway)}
    for name, host, port, setting in needed:
        if name == GATEWAY and port in own:
            continue  # it is handed over
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                raise PortInUseError(
                    f"Port {port} of the {name}",
                    expected="a free port",
                    found=f"it is in use by {_process_on_port(port)}",
                    fix=f"Stop that process, or choose another port with {setting}.",
                ) from None


def _process_on_port(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                break
            return describe_process(psutil.Process(connection.pid))
    return "another process (/proc does not show which)"


def _run_arbiter(
    plan: ProcessPlan,
    control: str,
    earlier: EarlierRun,
    echo: Callable[[str], None],
    on_stop: Callable[[], object],
) -> None:
    from circus import get_arbiter
    from tornado.ioloop import PeriodicCallback

    os.environ[RUN_VARIABLE] = str(plan.run.resolve())
    access = [] if plan.access is None else [_access_watch(plan.access)]
    endpoint = f"ipc://{control}/control"
    plan_file = plan.run / PLAN_FILE
    plan_file.write_text(plan.model_dump_json())
    reconciler = ProcessSpec(
        name=RECONCILER,
        command=[sys.executable, "-m", "ml_platform.serving.reconcile", str(plan_file), endpoint],
    )
    gateway = ProcessSpec(
        name=GATEWAY,
        command=plan.gateway.command,
        folder=plan.gateway.folder,
        port=plan.gateway_port,
        address=plan.gateway.url,
    )
    bridge = ProcessSpec(
        name=BRIDGE,
        command=[sys.executable, "-m", "ml_platform.serving.grpc_bridge"],
        folder=plan.gateway.folder,
    )
    specs = [gateway, reconciler, *access, *([bridge] if plan.grpc else []), *plan.processes]
    arbiter = get_arbiter(
        [_watcher(plan, each) for each in specs],
        controller=endpoint,
        pubsub_endpoint=f"ipc://{control}/events",
        check_delay=0.5,
        proc_name="ml-platform",
    )
    write_json(
        plan.run / UP_FILE,
        {"pid": os.getpid(), "gateway": plan.gateway.url, "since": f"{datetime.now(UTC):%Y-%m-%d %H:%MZ}"},
    )

    logging.getLogger("tornado.application").addFilter(is_relevant_log_record)
    managed = [ManagedProcess(each.name, each.address, each.port, plan.logs / f"{each.name}*.log") for each in specs]
    reporter = StartupReporter(managed, plan.status_file, echo, warn_after_seconds=START_SECONDS)
    started_at = time.monotonic()

    def poll() -> None:
        reporter.poll(time.monotonic() - started_at)
        earlier.retire(plan.gateway)

    polling = PeriodicCallback(poll, POLL_MILLISECONDS)
    stop = OrderedStop(arbiter, plan.run, plan.gateway.folder, DRAIN_SECONDS, echo, on_stop)
    stop.listen()
    try:
        arbiter.start(cb=lambda _: polling.start())
    finally:
        polling.stop()
        arbiter.stop()
        del os.environ[RUN_VARIABLE]


def _access_watch(access: AccessPlan) -> ProcessSpec:
    write_first_access(access, datetime.now(UTC))
    command = [sys.executable, "-m", "ml_platform.serving.access_watch", access.model_dump_json()]
    return ProcessSpec(name="access_watch", command=command)


def _desired_models(plan: ProcessPlan) -> set[str]:
    """Return the models that will be served; any when the state store cannot be read, which the reconciler reports."""
    try:
        stored = all_desired_states(plan.open_state())
        return {*stored.readable, *stored.unreadable}
    except PlatformError:
        return {ANY_MODEL}


def is_relevant_log_record(record: logging.LogRecord) -> bool:
    """Return False for the conflict that circus logs when its periodic check meets a command; True otherwise.

    circus repeats the check at once, so the conflict needs no attention.
    """
    from circus.exc import ConflictError

    return not (record.exc_info and isinstance(record.exc_info[1], ConflictError))


def _watcher(plan: ProcessPlan, spec: ProcessSpec) -> dict[str, Any]:
    # Without backups, circus would never begin a new file.
    log = {
        "class": "FileStream",
        "filename": str(plan.logs / f"{spec.name}.log"),
        "max_bytes": 2**24,
        "backup_count": 2,
    }
    return {
        "name": spec.name,
        "cmd": spec.command[0],
        "args": spec.command[1:],
        "env": {**os.environ, **spec.environment, PROCESS_VARIABLE: spec.name},
        **({} if spec.folder is None else {"working_dir": str(spec.folder.resolve())}),
        "copy_env": True,
        "stdout_stream": dict(log),
        "stderr_stream": {**log, "filename": str(plan.logs / f"{spec.name}.err.log")},
        "graceful_timeout": STOP_SECONDS - 5,
        "stop_children": True,
    }


def _wait_until_serving(
    plan: ProcessPlan, running: "subprocess.Popen[bytes]", log: Path, timeout_seconds: float
) -> None:
    deadline = time.monotonic() + timeout_seconds
    pause, state = threading.Event(), plan.open_state()
    while True:
        status = read_serving_status(plan.status_file) if _is_running(plan, running.pid) else None
        stored = all_desired_states(state)
        for error in stored.unreadable.values():
            raise error
        desired = {model: each.generation for model, each in stored.readable.items()}
        if status is not None and {model: each.generation for model, each in status.models.items()} == desired:
            return
        ended = running.poll() is not None
        if ended or time.monotonic() > deadline:
            progress = f"waiting for {listed(status.waiting)}" if status else "no status"
            log_lines = [line for path in (log, plan.logs / "reconciler.err.log") for line in _tail(path)]
            raise StartFailedError(
                "Gateway and services",
                expected=f"endpoints of {', '.join(desired) or 'no model'} within {timeout_seconds:g} s",
                found="that the process ended" if ended else progress,
                fix=f"Fix the error in the logs in {plan.logs}; their last lines: {' | '.join(log_lines)}",
            )
        pause.wait(0.05)


def _is_running(plan: ProcessPlan, pid: int) -> bool:
    """Return whether the process ``pid`` runs the home; before that, the status is of an earlier run."""
    file = plan.run / UP_FILE
    return file.exists() and json.loads(file.read_text())["pid"] == pid


def _tail(path: Path, lines: int = 5) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []


if __name__ == "__main__":
    try:
        up(ProcessPlan.model_validate_json(Path(sys.argv[1]).read_text()))
    except PlatformError as error:
        sys.exit(str(error))
