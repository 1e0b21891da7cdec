"""Identity of a process, by which another process can check whether it still runs.

A killed process cannot end its own run, remove its files or release what it claimed. No other process may do so while
it runs. On Linux the identity contains the boot of the machine and the start in clock ticks since that boot, so neither
a clock that is set nor a process id that is used again can confuse it.
"""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil

CLOCK_SHIFT_SECONDS = 60
"""Tolerance for start times in names without a boot; a process id is not reused within this time."""

ProcessState = Literal["running", "ended", "unknown"]

_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_START_FIELD = 19
"""Position of the start in the fields of `/proc/<pid>/stat` that follow the program's name."""


def current_process() -> str:
    """Return the name of this process; see :func:`process_name`."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """Return the name of the running process ``pid``: ``host/pid/start/boot/ticks``.

    The start is in POSIX seconds. A system without `/proc` gives ``host/pid/start``. Raises
    :class:`psutil.NoSuchProcess`.
    """
    name = f"{socket.gethostname()}/{pid}/{psutil.Process(pid).create_time():.0f}"
    boot, ticks = _boot(), _start_ticks(pid)
    return f"{name}/{boot}/{ticks}" if boot and ticks else name


def observed_process(observer: str, pid: int, at: float) -> str:
    """Return the name of the process that had the id ``pid`` at the time ``at`` (POSIX seconds).

    ``observer`` is the name of a process of the same machine and boot. The start of the named process is unknown, but
    not later than ``at``; the last part of the name is empty.
    """
    host, *rest = observer.split("/")
    return f"{host}/{pid}/{at:.0f}/{rest[2] if len(rest) > 2 else ''}/"


def process_id(process: str) -> int:
    """Return the process id in ``process``, a name from this module."""
    return int(process.split("/")[1])


def process_state(process: str) -> ProcessState:
    """Return whether ``process``, a name from this module, still runs.

    'unknown' for a process of another machine, for "" and for a name in another form. A zombie has ended, because it
    writes nothing.
    """
    host, *rest = process.split("/")
    if host != socket.gethostname() or len(rest) not in (2, 4):
        return "unknown"
    boot, ticks = rest[2:] or ("", "")
    try:
        pid, start = int(rest[0]), float(rest[1])
    except ValueError:
        return "unknown"
    if boot and boot != _boot():
        return "ended"
    try:
        found = psutil.Process(pid)
        if found.status() == psutil.STATUS_ZOMBIE:
            return "ended"
        if ticks:
            same = _start_ticks(pid) == ticks
        elif len(rest) == 4:
            same = found.create_time() <= start + CLOCK_SHIFT_SECONDS
        else:
            same = abs(found.create_time() - start) <= CLOCK_SHIFT_SECONDS
    except psutil.NoSuchProcess:
        return "ended"
    return "running" if same else "ended"


def has_exited(process: str) -> bool:
    """Return whether ``process``, a name from this module, ran on this machine and has ended.

    False for a process whose state is unknown.
    """
    return process_state(process) == "ended"


def describe_process(process: str) -> str:
    """Return ``process``, a name from this module, for a message: "process 12 on 'host', started … UTC"."""
    host, *rest = process.split("/")
    try:
        pid, start = int(rest[0]), datetime.fromtimestamp(float(rest[1]), UTC)
    except (IndexError, ValueError, OverflowError):
        return f"process '{process}'" if process else "an unknown process"
    begun = "running at" if rest[2:] and not rest[-1] else "started"
    return f"process {pid} on '{host}', {begun} {start:%Y-%m-%d %H:%M:%S} UTC"


def _boot() -> str:
    """Return the first digits of the id of this boot; "" where the system has none."""
    return _BOOT_FILE.read_text().partition("-")[0] if _BOOT_FILE.exists() else ""


def _start_ticks(pid: int) -> str:
    """Return the start of ``pid`` in clock ticks since the boot; "" where the system does not say."""
    try:
        # The program's name is in parentheses and may contain any character.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_FIELD]
    except (FileNotFoundError, ProcessLookupError):
        return ""
