"""Identity of the process that writes a run, by which another process can check whether it still runs.

A killed process cannot end its own run, and no other process may end a run with an active writer.
"""

import os
import socket

import psutil

CLOCK_SHIFT_SECONDS = 60
"""Tolerance for start times, which shift when the clock is set; a process id is not reused within this time."""


def current_process() -> str:
    """Return the name of this process, ``host/pid/start``; the start (POSIX seconds) distinguishes reused ids."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.0f}"


def has_exited(process: str) -> bool:
    """Return whether ``process``, a name from :func:`current_process`, ran on this machine and has ended.

    False for a process of another machine and for "", because their state is unknown.
    """
    host, _, pid_and_start = process.partition("/")
    if not pid_and_start or host != socket.gethostname():
        return False
    pid, start = pid_and_start.split("/")
    try:
        found = psutil.Process(int(pid))
        # A zombie writes nothing, and another start time means that the id was reused.
        pid_reused = abs(found.create_time() - float(start)) > CLOCK_SHIFT_SECONDS
        return pid_reused or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
