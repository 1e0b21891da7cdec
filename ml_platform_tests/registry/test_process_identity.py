"""Whether the process that wrote a run is still there."""

import os
import subprocess
import sys

import pytest

from ml_platform.registry.process_identity import current_process, has_exited


def test_process_that_runs_is_not_gone() -> None:
    assert not has_exited(current_process())


def test_ended_process_is_gone_also_when_its_id_was_given_again() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = current_process().partition("/")[0]
    assert has_exited(f"{host}/{ended.pid}/1000000000")
    assert has_exited(f"{host}/{os.getpid()}/1000000000")


def test_child_that_was_killed_and_not_yet_reaped_is_gone() -> None:
    code = (
        "from ml_platform.registry.process_identity import current_process;"
        "print(current_process(), flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert child.stdout is not None
    named = child.stdout.readline().strip()
    assert not has_exited(named)
    child.kill()
    # Waits until it is dead without reaping it.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_exited(named)
    child.wait()


@pytest.mark.parametrize("named", ["", "another-machine/1/1000000000"])
def test_of_other_machines_nothing_is_known(named: str) -> None:
    assert not has_exited(named)
