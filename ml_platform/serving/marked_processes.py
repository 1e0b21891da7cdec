"""Finds and stops the processes of one run folder by two environment variables, which their children inherit.

A killed run leaves its processes behind without a parent that knows them. The variables are still in them.
"""

import os
import signal
from collections.abc import Collection
from pathlib import Path

import psutil

RUN_VARIABLE = "ML_PLATFORM_RUN"
"""Environment variable that marks every process of a run; its value is the run folder of the home."""

PROCESS_VARIABLE = "ML_PLATFORM_PROCESS"
"""Environment variable with the name of the process in its run."""

GATEWAY, BRIDGE, SERVICE_PREFIX = "gateway", "grpc_bridge", "service."
"""Names of the gateway and of its bridge for gRPC, and the prefix of the names of services."""


def processes_of(run: Path) -> list[psutil.Process]:
    """Return all other processes that :data:`RUN_VARIABLE` marks as part of ``run``."""
    run_folder = str(run.resolve())
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == run_folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it ended meanwhile, or it belongs to another user
    return found


def process_name(process: psutil.Process) -> str:
    """Return the name that :data:`PROCESS_VARIABLE` gives to ``process``; empty without one or when it has ended."""
    try:
        return process.environ().get(PROCESS_VARIABLE, "")
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return ""


def is_alive(process: psutil.Process) -> bool:
    """Return whether ``process`` still runs; one that ended and that its parent has not collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_orphaned_processes(run: Path, kept: Collection[psutil.Process] = ()) -> list[str]:
    """Stop all other processes of ``run`` except those ``kept``, and return their descriptions.

    A process that is about to end can start another one, so it looks again until there is none.
    """
    descriptions = []
    while orphans := [each for each in processes_of(run) if each not in kept]:
        descriptions += [describe_process(process) for process in orphans]
        stop_processes(orphans)
    return descriptions


def stop_processes(processes: Collection[psutil.Process], seconds: float = 5) -> None:
    """Stop ``processes``; those that go on after ``seconds`` are killed."""
    for process in processes:
        signal_process(process, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(processes, timeout=seconds)
    for process in stubborn:
        signal_process(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=seconds)


def describe_process(process: psutil.Process) -> str:
    """Return the id and the start of the command of ``process``."""
    try:
        return f"process {process.pid} ({' '.join(process.cmdline())[:80]})"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return f"process {process.pid}"


def signal_process(process: psutil.Process, number: signal.Signals) -> None:
    """Send the signal ``number`` to ``process``, unless it has ended."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
