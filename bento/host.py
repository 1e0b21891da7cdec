"""Serves many bentos of equal code and libraries: `python -m bento.host FOLDER`, with the code of these bentos.

The host imports code and libraries once, and forks a worker for each loaded model. So each version has a process of its
own, whose crash or load stays its own, and shares the memory of everything but its model. The host itself only watches:

- FOLDER has a plan, :class:`.host_plan.HostPlan`. A new plan takes effect at once; an unreadable one is logged.
- The host binds the socket of each service and keeps it. Before a worker runs, and after it crashed, clients wait there
  and are not refused.
- A service is ready once its model was loaded and has predicted its examples. A model that is not declared warm can be
  unloaded afterwards, the one unused longest first; its next request loads it again.

The host runs on one thread and computes nothing, because a thread or a lock of a library would be lost in its forks.
"""

import contextlib
import errno
import gc
import importlib
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from bento.app import PredictApp
from bento.host_connections import RECEIVE_SECONDS, Connection
from bento.host_plan import PLAN_FILE, STATUS_FILE, HostedService, HostPlan, HostStatus, ServiceStatus
from bento.host_worker import BACKLOG, CHANGED_EXIT, GRACE_SECONDS, STOP_SIGNALS, Activity, follow_host, serve
from bento.service_socket import bound_socket
from ml_platform.data.atomic import write_text

logger = logging.getLogger("bento.host")

TICK_SECONDS = 0.2
IDLE_SECONDS = 5.0
"""A model that answered a request later than this is not unloaded: clients still have open connections to it."""

START_SECONDS = 120.0
"""A worker that has not loaded its model by then is killed."""

STEADY_SECONDS = 10.0
"""A worker that served this long before it crashed is started again at once; after others the pause grows."""

LONGEST_PAUSE_SECONDS = 10.0
NOT_IMPORTED = ("bento.service", "bento.host")
"""The entry point of BentoML, which is large, and this module."""


@dataclass(eq=False)
class _Worker:
    pid: int
    ready_pipe: int
    started_at: float
    connections: list[Connection]
    ready_at: float | None = None


@dataclass(eq=False)
class _Service:
    spec: HostedService
    listener: socket.socket
    activity: Activity = field(default_factory=Activity)
    worker: _Worker | None = None
    accepted: list[Connection] = field(default_factory=list)
    was_loaded: bool = False
    loads: int = 0
    failures: int = 0
    next_start: float = 0.0
    problem: str | None = None

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def waiting(self) -> list[Connection]:
        return [each for each in self.accepted if each.kind == "request"]

    @property
    def is_ready(self) -> bool:
        return self.was_loaded and not self.failures

    @property
    def status(self) -> ServiceStatus:
        if self.worker is not None:
            state = "starting" if self.worker.ready_at is None else "loaded"
        else:
            state = "failing" if self.failures else "unloaded" if self.was_loaded else "starting"
        pid = None if self.worker is None else self.worker.pid
        return ServiceStatus(state=state, port=self.port, pid=pid, loads=self.loads, problem=self.problem)  # type: ignore[arg-type]


class Host:
    """The services of the plan in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._plan_file, self._status_file = folder / PLAN_FILE, folder / STATUS_FILE
        self._plan = HostPlan(code="", online="")
        self._plan_identity: tuple[int, int] | None = None
        self._services: dict[str, _Service] = {}
        self._ending: dict[int, float] = {}
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._pid, self._parent = os.getpid(), os.getppid()
        self._written_status = ""
        self._wakeup, wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup)
        self._wakeup_end = wakeup
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then end all workers after their requests."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        while not self._stopping:
            self.step(TICK_SECONDS)
        for name in list(self._services):
            self._remove(name)
        while self._ending:
            self._selector.select(TICK_SECONDS)
            self._reap()
            self._kill_overdue(time.monotonic())

    def step(self, seconds: float) -> None:
        """Wait up to ``seconds`` for an event and handle all that are due."""
        for key, _ in self._selector.select(seconds):
            if key.fd == self._wakeup:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
            elif isinstance(key.data, tuple):
                self._handle(*key.data)
        now = time.monotonic()
        self._reap()
        self._follow_plan()
        self._expire_connections(now)
        self._kill_overdue(now)
        self._start_workers(now)
        self._write_status()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _handle(self, service: _Service, subject: "Connection | _Worker | None") -> None:
        if subject is None:
            self._accept(service)
        elif isinstance(subject, Connection):
            self._look(service, subject)
        elif not os.read(subject.ready_pipe, 1):
            self._selector.unregister(subject.ready_pipe)  # it ended before it was ready, which SIGCHLD reports
        else:
            self._set_ready(service, subject)

    # --- connections of services without a worker ---

    def _accept(self, service: _Service) -> None:
        while True:
            try:
                accepted, _ = service.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    logger.error("service %s: no connection can be accepted: %s", service.spec.name, error)
                return
            accepted.setblocking(False)
            connection = Connection(accepted, time.monotonic())
            service.accepted.append(connection)
            self._selector.register(accepted, selectors.EVENT_READ, (service, connection))

    def _look(self, service: _Service, connection: Connection) -> None:
        is_open = connection.look()
        if is_open and connection.kind is None:
            return
        self._selector.unregister(connection.socket)
        if not is_open:
            service.accepted.remove(connection)
            connection.socket.close()
        elif connection.kind == "probe":
            service.accepted.remove(connection)
            connection.answer_probe(ready=service.is_ready)

    def _expire_connections(self, now: float) -> None:
        for service in self._services.values():
            for connection in list(service.accepted):
                limit = RECEIVE_SECONDS if connection.kind is None else self._plan.wait_seconds
                if now - connection.accepted_at > limit:
                    self._refuse(service, connection)

    def _refuse(self, service: _Service, connection: Connection) -> None:
        service.accepted.remove(connection)
        if connection.kind is None:
            self._selector.unregister(connection.socket)
            connection.socket.close()
        else:
            connection.refuse("starting", "The model is not loaded yet; try again.")

    # --- workers ---

    def _start_workers(self, now: float) -> None:
        """Start the workers of waiting requests, then those of models that are warm or were never loaded."""
        due = [each for each in self._services.values() if each.worker is None and now >= each.next_start]
        requested = sorted((each for each in due if each.waiting), key=lambda each: each.waiting[0].accepted_at)
        for service in requested:
            if self._has_place(service, now):
                self._start(service)
        starting = sum(1 for each in self._services.values() if each.worker and each.worker.ready_at is None)
        # More at once would only delay each other.
        for service in due:
            if starting >= (os.cpu_count() or 1):
                return
            is_wanted = service.worker is None and (service.spec.warm or not service.was_loaded)
            if is_wanted and self._has_place(service, now):
                self._start(service)
                starting += 1

    def _has_place(self, service: _Service, now: float) -> bool:
        """Return whether a worker may start; it unloads the model that was unused longest where it must."""
        if service.spec.warm or self._plan.max_loaded is None:
            return True
        loaded = [each for each in self._services.values() if each.worker is not None and not each.spec.warm]
        if len(loaded) < self._plan.max_loaded:
            return True
        unused = [
            each
            for each in loaded
            if each.worker is not None
            and each.worker.ready_at is not None
            and not each.activity.in_flight
            and now - each.activity.last_used > IDLE_SECONDS
        ]
        if not unused:
            return False
        oldest = min(unused, key=lambda each: (each.activity.last_used, each.worker.ready_at if each.worker else 0.0))
        logger.info("unloaded %s, unused longest, for %s", oldest.spec.name, service.spec.name)
        self._end_worker(oldest)
        self._selector.register(oldest.listener, selectors.EVENT_READ, (oldest, None))
        return True

    def _start(self, service: _Service) -> None:
        connections, service.accepted = service.accepted, []
        for connection in connections:
            if connection.kind is None:
                self._selector.unregister(connection.socket)
        ready, ready_end = os.pipe()
        # A signal must find the handlers of the worker, not those that it inherits.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._become_worker(service, connections, ready_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        os.close(ready_end)
        service.worker = _Worker(pid, ready, time.monotonic(), connections)
        self._selector.unregister(service.listener)
        self._selector.register(ready, selectors.EVENT_READ, (service, service.worker))

    def _become_worker(self, service: _Service, connections: list[Connection], ready: int) -> None:
        """Serve in this forked process; never returns."""
        code = 1
        try:
            follow_host(self._pid)
            self._close_all(keep=service)
            code = serve(
                service.spec,
                self._plan.code,
                self._plan.online,
                service.listener,
                [each.socket for each in connections],
                service.activity,
                ready,
            )
        except BaseException:
            logger.exception("the worker of %s failed", service.spec.name)
        finally:
            logging.shutdown()
            os._exit(code)

    def _close_all(self, keep: _Service) -> None:
        """Close the host's descriptors in a worker, which would hold the ports of other services otherwise."""
        self._selector.close()
        os.close(self._wakeup)
        os.close(self._wakeup_end)
        for service in self._services.values():
            if service is not keep:
                service.listener.close()
            if service.worker is not None:
                with contextlib.suppress(OSError):
                    os.close(service.worker.ready_pipe)
            passed = service.worker.connections if service.worker else []
            for connection in [*service.accepted, *passed]:
                connection.socket.close()

    def _set_ready(self, service: _Service, worker: _Worker) -> None:
        self._forget_pipe(worker)
        worker.ready_at = time.monotonic()
        # The worker has its own copies; a connection would stay open as long as this process has one.
        for connection in worker.connections:
            connection.socket.close()
        worker.connections = []
        service.was_loaded, service.problem = True, None
        service.loads += 1
        logger.info("loaded %s in %.0f ms", service.spec.name, (worker.ready_at - worker.started_at) * 1000)
        self._publish_port(service)

    def _publish_port(self, service: _Service) -> None:
        if os.getppid() != self._parent:
            return  # the next run has its own services, whose ports are in the same files
        file = service.spec.port_file
        if not file.exists() or file.read_text() != str(service.port):
            staged = file.with_suffix(".new")
            staged.write_text(str(service.port))
            staged.replace(file)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._ending.pop(pid, None) is not None:
                continue
            for service in self._services.values():
                if service.worker is not None and service.worker.pid == pid:
                    self._handle_crash(service, service.worker, os.waitstatus_to_exitcode(status))

    def _handle_crash(self, service: _Service, worker: _Worker, code: int) -> None:
        now = time.monotonic()
        self._forget_pipe(worker)
        service.worker = None
        service.activity.reset()
        service.accepted += worker.connections
        for connection in worker.connections:
            if connection.kind is None:
                self._selector.register(connection.socket, selectors.EVENT_READ, (service, connection))
        self._selector.register(service.listener, selectors.EVENT_READ, (service, None))
        was_steady = worker.ready_at is not None and now - worker.ready_at >= STEADY_SECONDS
        service.failures = 1 if was_steady else service.failures + 1
        pause = 0.0 if was_steady else min(LONGEST_PAUSE_SECONDS, 0.25 * 2 ** (service.failures - 1))
        service.next_start = now + (LONGEST_PAUSE_SECONDS if code == CHANGED_EXIT else pause)
        cause = "its bento was changed" if code == CHANGED_EXIT else f"its worker ended with {code}"
        service.problem = f"{cause}; see {service.spec.log.name}"
        logger.error("service %s: %s", service.spec.name, service.problem)

    def _kill_overdue(self, now: float) -> None:
        for service in self._services.values():
            worker = service.worker
            if worker is not None and worker.ready_at is None and now - worker.started_at > START_SECONDS:
                _signal(worker.pid, signal.SIGKILL)
            elif worker is not None and worker.ready_at is not None and now - worker.ready_at > STEADY_SECONDS:
                service.failures = 0
        for pid, since in self._ending.items():
            if now - since > GRACE_SECONDS + 5:
                _signal(pid, signal.SIGKILL)

    def _end_worker(self, service: _Service) -> None:
        worker, service.worker = service.worker, None
        if worker is None:
            return
        self._forget_pipe(worker)
        for connection in worker.connections:
            connection.socket.close()
        self._ending[worker.pid] = time.monotonic()
        _signal(worker.pid, signal.SIGTERM)

    def _forget_pipe(self, worker: _Worker) -> None:
        if worker.ready_pipe >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(worker.ready_pipe)
            os.close(worker.ready_pipe)
            worker.ready_pipe = -1

    # --- the plan ---

    def _follow_plan(self) -> None:
        try:
            status = self._plan_file.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            if identity == self._plan_identity:
                return
            self._plan_identity = identity
            plan = HostPlan.model_validate_json(self._plan_file.read_bytes())
        except (OSError, ValueError) as error:
            if self._plan_identity is not None:
                logger.error("the plan cannot be read, the last one stays in force: %s", error)
            return
        wanted = {each.name: each for each in plan.services}
        restarted = plan.code != self._plan.code or plan.online != self._plan.online
        self._plan = plan
        for name, service in list(self._services.items()):
            spec = wanted.get(name)
            if restarted or spec is None or _without_warmth(spec) != _without_warmth(service.spec):
                self._remove(name)
            else:
                service.spec = spec
        for name, spec in wanted.items():
            if name not in self._services:
                service = self._services[name] = _Service(spec, _listening_socket(spec.port_file))
                self._selector.register(service.listener, selectors.EVENT_READ, (service, None))

    def _remove(self, name: str) -> None:
        service = self._services.pop(name)
        for connection in list(service.accepted):
            self._refuse(service, connection)
        if service.worker is None:
            self._selector.unregister(service.listener)
        self._end_worker(service)
        service.listener.close()

    def _write_status(self) -> None:
        services = {name: each.status for name, each in self._services.items()}
        text = HostStatus(pid=self._pid, services=services).model_dump_json(indent=2)
        if text != self._written_status:
            write_text(self._status_file, text)
            self._written_status = text


def _listening_socket(port_file: Path) -> socket.socket:
    listener = bound_socket(port_file)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def import_ahead(code: Path) -> None:
    """Import the modules in ``code``, the libraries that their function `preload` names, and those of the server.

    A module that cannot be imported is logged: the workers of its models report it again.
    """
    for name in _module_names(code):
        try:
            module = importlib.import_module(name)
            getattr(module, "preload", lambda: None)()
        except Exception:
            logger.exception("module %s cannot be imported ahead", name)
    uvicorn.Config(PredictApp.__call__, log_config=None).load()
    others = [each.name for each in threading.enumerate() if each is not threading.main_thread()]
    if others:
        logger.warning("modules of this bento started threads, which its workers lack: %s", ", ".join(others))
    gc.collect()
    # No collection may write to the pages that the workers share.
    gc.freeze()


def _module_names(code: Path) -> Iterable[str]:
    for file in sorted(code.rglob("*.py")):
        parts = file.relative_to(code).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and name not in NOT_IMPORTED:
            yield name


def _without_warmth(spec: HostedService) -> HostedService:
    return spec.model_copy(update={"warm": True})


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> None:
    """Run the host of the folder in the first argument."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    import_ahead(Path(__file__).resolve().parent.parent)
    Host(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
