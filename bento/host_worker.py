"""Serves one bento in a process that was forked from the host, which has the code and the libraries in memory already.

The process shares these pages with the host, so that it costs the memory of its model alone.
"""

import asyncio
import ctypes
import logging
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from bento.app import PredictApp, Receive, Scope, Send
from bento.app_factory import create_app
from bento.host_plan import HostedService
from ml_platform.errors import PlatformError
from ml_platform.serving.bento_digest import ChangedBentoError, code_digest, require_unchanged

logger = logging.getLogger("bento.host_worker")

BACKLOG = 2048
GRACE_SECONDS = 30
KEEP_ALIVE_SECONDS = 5
"""An idle connection is closed after this time; the gateway closes its own earlier."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
CHANGED_EXIT = 4
"""Exit code of a worker whose bento was changed after its verification."""

PROBES = ("/readyz", "/livez", "/healthz", "/metrics", "/recent_scores")
"""Paths that are no use of a model: a monitor that asks for them keeps no model loaded."""

SLICE_NANOSECONDS = 200_000
"""Time after which a busy worker lets a waiting one run; by default it would be about 3 ms."""

_PR_SET_PDEATHSIG = 1
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, which the C library does not have."""


class Activity:
    """Requests under way in a worker and the time of the last one, in memory that the host reads."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 16)).cast("d")

    @property
    def in_flight(self) -> int:
        return int(self._numbers[0])

    @property
    def last_used(self) -> float:
        """Monotonic time at which a request began or ended; 0 without one."""
        return self._numbers[1]

    def begin(self) -> None:
        self._numbers[0] += 1
        self._numbers[1] = time.monotonic()

    def end(self) -> None:
        self._numbers[0] -= 1
        self._numbers[1] = time.monotonic()

    def reset(self) -> None:
        """Forget the requests of a worker that ended."""
        self._numbers[0] = 0


def follow_host(host: int) -> None:
    """Handle signals as a new process does, and receive SIGTERM when the process ``host`` ends.

    The host's successor starts workers of its own.
    """
    signal.set_wakeup_fd(-1)
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if os.getppid() != host:
        raise SystemExit("the host ended")


def shorten_slices() -> bool:
    """Let other processes wait for this one at most :data:`SLICE_NANOSECONDS`; return whether the kernel does it.

    Linux has this setting since 6.12 and ignores it before.
    """
    number = _SCHED_SETATTR.get(os.uname().machine)
    # struct sched_attr: size, policy, flags, nice, priority, runtime (the slice), deadline, period.
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, 0, 0, SLICE_NANOSECONDS, 0, 0)
    return number is not None and ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0


def serve(
    service: HostedService,
    code: str,
    online: str,
    listener: socket.socket,
    connections: Sequence[socket.socket],
    activity: Activity,
    ready: int,
) -> int:
    """Serve ``service`` on ``listener`` until SIGTERM, and return the exit code of the process.

    ``connections`` were accepted already, and nothing was read from them. A byte is written to the descriptor ``ready``
    when the model is loaded. A bento whose files changed, or whose code has not the digest ``code``, is not served.
    """
    _redirect_output(service.log)
    shorten_slices()
    try:
        require_unchanged(service.bento)
        _require_code(service, code)
        app = create_app(service.bento / "src", online, service.predictions)
    except ChangedBentoError as error:
        logger.error("%s", error)
        return CHANGED_EXIT
    except PlatformError as error:
        logger.error("%s", error)
        return 1
    config = uvicorn.Config(
        _Counted(app, activity),
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        _Server(config, connections, ready).run(sockets=[listener])
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


class _Counted:
    """Counts the requests of ``app`` in ``activity``."""

    def __init__(self, app: PredictApp, activity: Activity) -> None:
        self._app, self._activity = app, activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        self._activity.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            self._activity.end()


class _Server(uvicorn.Server):
    """A server that begins with connections which another process has accepted."""

    def __init__(self, config: uvicorn.Config, connections: Sequence[socket.socket], ready: int) -> None:
        super().__init__(config)
        self._connections, self._ready = connections, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        for connection in self._connections:
            await loop.connect_accepted_socket(self._protocol, connection)
        os.write(self._ready, b"1")
        os.close(self._ready)

    def _protocol(self) -> Any:
        protocol: Any = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _require_code(service: HostedService, code: str) -> None:
    found = code_digest(service.bento)
    if found != code:
        raise ChangedBentoError(
            f"Bento {service.bento.name}",
            expected=f"the code and libraries of its host, {code[:12]}",
            found=found[:12],
            fix="Start the reconciler again: it places each bento in the host of its code.",
        )


def _redirect_output(log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
