"""Whether the process that wrote a run is still there."""

import os
import subprocess
import sys

import pytest

from ml_platform.registry.writer import is_gone, this_process


def test_process_that_runs_is_not_gone() -> None:
    assert not is_gone(this_process())


def test_ended_process_is_gone_also_when_its_id_was_given_again() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = this_process().partition("/")[0]
    assert is_gone(f"{host}/{ended.pid}/1000000000")
    assert is_gone(f"{host}/{os.getpid()}/1000000000")


def test_child_that_was_killed_and_not_yet_reaped_is_gone() -> None:
    code = "from ml_platform.registry.writer import this_process; print(this_process(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert child.stdout is not None
    named = child.stdout.readline().strip()
    assert not is_gone(named)
    child.kill()
    # Waits until it is dead without reaping it.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(named)
    child.wait()


@pytest.mark.parametrize("named", ["", "another-machine/1/1000000000"])
def test_of_other_machines_nothing_is_known(named: str) -> None:
    assert not is_gone(named)
