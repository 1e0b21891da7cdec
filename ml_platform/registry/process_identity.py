"""Who writes a run: a process of a machine, named so that another one can tell later whether it is still there.

Apart because a killed process cannot end its own run, and no other may end one that is still being written.
"""

import os
import socket

import psutil

CLOCK_SHIFT_SECONDS = 60
"""By how much the start of a process may seem to move when the clock is set; ids are not given again that soon."""


def current_process() -> str:
    """Return the name of this process, ``host/pid/start``; the start (POSIX seconds) tells apart who had the id."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.0f}"


def has_exited(process: str) -> bool:
    """Return whether ``process``, as :func:`current_process` names it, ran on this machine and does so no more.

    Of a process of another machine, and of "", nothing is known: False.
    """
    host, _, pid_and_start = process.partition("/")
    if not pid_and_start or host != socket.gethostname():
        return False
    pid, start = pid_and_start.split("/")
    try:
        found = psutil.Process(int(pid))
        # A zombie writes nothing any more, and who started at another time is somebody else.
        pid_reused = abs(found.create_time() - float(start)) > CLOCK_SHIFT_SECONDS
        return pid_reused or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
