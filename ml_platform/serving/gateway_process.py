"""Starts, hands over and drains Envoy: `python -m ml_platform.serving.gateway_process FOLDER ENVOY OPTIONS…`.

When an Envoy already runs in FOLDER, the new one takes its listening sockets over (Envoy's hot restart): from then on
the new one accepts, and the old one answers the requests that it has and ends. So no request fails, and no connection
is refused. The choice is made at each start, so the same command starts a gateway that crashed.

This process stays as the parent of Envoy, which ends with its parent. So it outlives a killed process manager.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from ml_platform.serving.bridge_settings import REST_LISTENER
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.marked_processes import (
    GATEWAY,
    RUN_VARIABLE,
    is_alive,
    process_name,
    processes_of,
    stop_processes,
)

ADMIN_SECONDS = 2.0
DRAIN_SECONDS = 1
"""Time in which a gateway that ends still accepts, and tells each client by `connection: close` to connect again."""

HANDOVER_SECONDS = 65
"""Time until an Envoy that handed its sockets over ends; longer than the longest request."""

SOCKETS = "restart"
"""Start of the names of the sockets in the gateway's folder that the old and the new Envoy talk over."""

SHARED_MEMORY = Path("/dev/shm")
POLL_SECONDS = 0.05


def main(folder: Path, command: Sequence[str]) -> int:
    """Run the Envoy of ``command``, which takes over from a running one in ``folder``, and return its exit status."""
    stop = _Stop()
    running = server_info(folder)
    if running is not None and not _can_hand_over(running, command[0]):
        drain_gateway(folder, HANDOVER_SECONDS)
        running = None
    epoch = -1 if running is None else int(running["command_line_options"].get("restart_epoch", 0))
    if run := os.environ.get(RUN_VARIABLE):
        _end_others(Path(run), epoch)
    return stop.forward_to(subprocess.Popen([*command, *_restart_options(folder, epoch + 1)]))


class _Stop:
    """Ends this process on SIGTERM and SIGINT, or from a moment on the child, whose end is waited for."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        if self._child is None:
            sys.exit(0)
        self._child.terminate()

    def forward_to(self, child: "subprocess.Popen[bytes]") -> int:
        self._child = child
        return child.wait()


def gateways_of(run: Path) -> list[psutil.Process]:
    """Return the Envoys that run as gateways of ``run``, each with its parent, which started it."""
    envoys = [each for each in _marked(run) if _epoch(each) is not None]
    parents = {each.ppid() for each in envoys if is_alive(each)}
    return [*envoys, *(each for each in _marked(run) if each.pid in parents)]


def server_info(folder: Path) -> dict[str, Any] | None:
    """Return what the Envoy in ``folder`` says about itself; None when none runs there or it is not serving."""
    try:
        found: dict[str, Any] = json.loads(query_gateway(folder, "/server_info", seconds=ADMIN_SECONDS))
    except (OSError, ValueError):
        return None
    return found if found.get("state") == "LIVE" else None


def drain_gateway(folder: Path, seconds: float) -> None:
    """Let the Envoy in ``folder`` accept no more and answer the requests that it has; wait at most ``seconds``.

    Clients whose connection stands have :data:`DRAIN_SECONDS` to learn that they must connect again. Returns at once
    when no Envoy runs there.
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    try:
        idle = _active(folder, "cx") == 0
        # The bridge still needs its listener for the calls under way.
        options = [*([] if idle else ["graceful"]), *(["inboundonly"] if _has_rest_listener(folder) else [])]
        path = "?".join(["/drain_listeners", *(["&".join(options)] if options else [])])
        query_gateway(folder, path, seconds=ADMIN_SECONDS, method="POST")
        if not idle:
            pause.wait(DRAIN_SECONDS)
        # Two looks in a row: the counts of an older Envoy, which is about to end, arrive a moment later.
        looks = 0
        while looks < 2 and time.monotonic() < deadline:
            looks = looks + 1 if _active(folder, "rq") == 0 else 0
            pause.wait(POLL_SECONDS)
    except OSError:
        return  # it has ended


def remove_restart_files(folder: Path) -> None:
    """Remove the sockets and the shared memory that ended Envoys of ``folder`` have left."""
    (SHARED_MEMORY / f"envoy_shared_memory_{_base_id(folder)}0").unlink(missing_ok=True)
    for file in folder.glob(f"{SOCKETS}_*"):
        file.unlink(missing_ok=True)


def _active(folder: Path, kind: str) -> int:
    """Return the number of active connections (``cx``) or requests (``rq``) of clients."""
    text = query_gateway(folder, f"/stats?filter=^http.gateway.downstream_{kind}_active$", seconds=ADMIN_SECONDS)
    return int(text.rpartition(":")[2]) if ":" in text else 0


def _has_rest_listener(folder: Path) -> bool:
    """Return whether the Envoy in ``folder`` answers a bridge for gRPC."""
    listeners = query_gateway(folder, "/listeners", seconds=ADMIN_SECONDS).splitlines()
    return any(line.startswith(f"{REST_LISTENER}::") for line in listeners)


def _can_hand_over(running: dict[str, Any], envoy: str) -> bool:
    """Return whether ``envoy`` can take the sockets of the one that is ``running``: both speak the same version."""
    if running["command_line_options"].get("disable_hot_restart"):
        return False
    printed = subprocess.run([envoy, "--hot-restart-version"], capture_output=True, text=True, check=False)
    return (printed.stdout or printed.stderr).strip() == str(running.get("hot_restart_version"))


def _end_others(run: Path, epoch: int) -> None:
    """End the gateways of ``run`` except the one of ``epoch``, from which this one takes over.

    Such a gateway handed its sockets over and answers its last requests. While another one serves, it has time for it.
    """
    others = [each for each in _marked(run) if _epoch(each) not in (None, epoch)]
    deadline = time.monotonic() + (HANDOVER_SECONDS if epoch >= 0 else 0)
    while (others := [each for each in others if is_alive(each)]) and time.monotonic() < deadline:
        threading.Event().wait(POLL_SECONDS)
    stop_processes(others)


def _marked(run: Path) -> list[psutil.Process]:
    return [each for each in processes_of(run) if process_name(each) == GATEWAY]


def _epoch(process: psutil.Process) -> int | None:
    try:
        arguments = process.cmdline()
        return int(arguments[arguments.index("--restart-epoch") + 1])
    except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError, IndexError):
        return None


def _restart_options(folder: Path, epoch: int) -> list[str]:
    drain = ["--drain-time-s", str(DRAIN_SECONDS), "--drain-strategy", "immediate"]
    if not os.access(SHARED_MEMORY, os.W_OK):
        return [*drain, "--disable-hot-restart"]
    return [
        *drain,
        *("--restart-epoch", str(epoch), "--base-id", str(_base_id(folder))),
        # Relative to the working directory, since the path of a socket must be short.
        *("--socket-path", SOCKETS, "--socket-mode", "600"),
        *("--parent-shutdown-time-s", str(HANDOVER_SECONDS)),
    ]


def _base_id(folder: Path) -> int:
    """Return the number that names the shared memory of the Envoys of ``folder``; it is the same at each start."""
    return zlib.crc32(str(folder.resolve()).encode()) % 2**28


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
