"""Ends the platform of a run folder whose starter was killed, so that the starter can begin again."""

import json
import signal
import time
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from ml_platform.serving.marked_processes import signal_process, stop_orphaned_processes
from ml_platform.serving.processes import LOCK_FILE, STOP_SECONDS, UP_FILE


def stop_left_processes(run: Path, seconds: float = STOP_SECONDS) -> None:
    """End the supervisor of ``run``, if there is one, and all processes that an earlier one has left.

    It returns when another supervisor can start. A supervisor that goes on after ``seconds`` is killed.
    """
    lock, deadline, number = FileLock(run / LOCK_FILE), time.monotonic() + seconds, signal.SIGTERM
    signalled = None
    while run.is_dir() and not _is_free(lock, 0.1):
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        # One that still starts has not written its file yet.
        owner = _owner(run)
        if owner is not None and signalled != number:
            signal_process(owner, number)
            signalled = number
    stop_orphaned_processes(run)


def _owner(run: Path) -> psutil.Process | None:
    file = run / UP_FILE
    try:
        return psutil.Process(json.loads(file.read_text())["pid"])
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def _is_free(lock: FileLock, seconds: float) -> bool:
    """Return whether ``lock`` could be taken within ``seconds``; it is free again after it."""
    try:
        with lock.acquire(timeout=seconds):
            return True
    except Timeout:
        return False
