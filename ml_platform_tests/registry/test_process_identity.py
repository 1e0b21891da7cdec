"""A process identity shows whether the process that wrote a run still runs."""

import os
import subprocess
import sys

import pytest

from ml_platform.registry.process_identity import current_process, has_exited


def test_running_process_has_not_exited() -> None:
    assert not has_exited(current_process())


def test_ended_process_has_exited_even_if_its_id_is_reused() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = current_process().partition("/")[0]
    assert has_exited(f"{host}/{ended.pid}/1000000000")
    assert has_exited(f"{host}/{os.getpid()}/1000000000")


def test_zombie_process_has_exited() -> None:
    code = (
        "from ml_platform.registry.process_identity import current_process;"
        "print(current_process(), flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert child.stdout is not None
    named = child.stdout.readline().strip()
    assert not has_exited(named)
    child.kill()
    # Wait for its death without reaping it.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_exited(named)
    child.wait()


@pytest.mark.parametrize("named", ["", "another-machine/1/1000000000"])
def test_process_of_another_machine_counts_as_running(named: str) -> None:
    assert not has_exited(named)
