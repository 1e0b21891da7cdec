"""Processes that a killed run left behind are ended; log records of harmless conflicts are dropped."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from circus.exc import ConflictError
from tornado.ioloop import IOLoop

from ml_platform.serving.marked_processes import RUN_VARIABLE, stop_orphaned_processes
from ml_platform.serving.processes import (
    PortInUseError,
    is_relevant_log_record,
    up,
)
from ml_platform_tests.serving.plans import plan_in

Leftover = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def leftover() -> Iterator[Leftover]:
    """A function that starts a process with the mark of the given run; it ends with the test."""
    with ExitStack() as stack:

        def start(run: Path, program: str = "pass") -> "subprocess.Popen[bytes]":
            code = f"import signal, sys; {program}; sys.stdout.write('up'); sys.stdout.flush(); signal.pause()"
            environment = {**os.environ, RUN_VARIABLE: str(run.resolve())}
            process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.read(2) == b"up"
            return process

        yield start


def test_processes_of_a_killed_run_end_and_those_of_another_home_continue(tmp_path: Path, leftover: Leftover) -> None:
    here, other = leftover(tmp_path / "run"), leftover(tmp_path / "other" / "run")
    described = stop_orphaned_processes(tmp_path / "run")
    assert [each.split()[:2] for each in described] == [["process", str(here.pid)]]
    assert not psutil.pid_exists(here.pid)
    assert other.poll() is None
    assert stop_orphaned_processes(tmp_path / "run") == []


def test_process_of_a_killed_run_may_clean_up_before_it_ends(tmp_path: Path, leftover: Leftover) -> None:
    marker = tmp_path / "cleaned"
    leftover(tmp_path, f"signal.signal(signal.SIGTERM, lambda *_: open({str(marker)!r}, 'w').close() or sys.exit())")
    assert len(stop_orphaned_processes(tmp_path)) == 1
    assert marker.exists()


def test_process_that_ignores_sigterm_is_killed(tmp_path: Path, leftover: Leftover) -> None:
    stubborn = leftover(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert len(stop_orphaned_processes(tmp_path)) == 1
    assert not psutil.pid_exists(stubborn.pid)


def test_up_ends_and_reports_what_a_killed_run_left_before_it_starts(tmp_path: Path, leftover: Leftover) -> None:
    process = leftover(tmp_path / "run")
    printed: list[str] = []
    with socket.socket() as holder:
        # The port is in use, so that `up` ends before it starts anything.
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        plan = plan_in(tmp_path, gateway_port=port)
        with pytest.raises(PortInUseError, match=rf"Port {port} of the gateway: .*process {os.getpid()}"):
            up(plan, printed.append)
    assert not psutil.pid_exists(process.pid)
    assert len(printed) == 1
    assert printed[0].startswith("An earlier run was killed; ended the 1 processes that it left behind")
    assert f"process {process.pid}" in printed[0]


@pytest.mark.parametrize(
    ("error", "records"), [(ConflictError("arbiter is already running watcher_start command"), 0), (OSError("gone"), 1)]
)
def test_conflict_of_a_check_with_a_command_is_not_logged_but_an_error_is(
    caplog: pytest.LogCaptureFixture, error: Exception, records: int
) -> None:
    def fails() -> None:
        raise error

    log = logging.getLogger("tornado.application")
    log.addFilter(is_relevant_log_record)
    loop = IOLoop(make_current=False)
    try:
        loop.add_callback(fails)
        loop.add_callback(loop.stop)
        loop.start()
    finally:
        loop.close()
        log.removeFilter(is_relevant_log_record)
    assert len(caplog.records) == records
