"""A process identity shows whether the process that wrote a run still runs."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from ml_platform.state import process_identity
from ml_platform.state.process_identity import (
    current_process,
    describe_process,
    has_exited,
    observed_process,
    process_name,
    process_state,
)


@pytest.fixture
def ended() -> str:
    """The name of a process that ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(child.pid)
    child.communicate(b"\n")
    return name


def test_running_process_has_not_exited() -> None:
    assert process_state(current_process()) == "running"
    assert not has_exited(current_process())


def test_ended_process_has_exited(ended: str) -> None:
    assert process_state(ended) == "ended"


def test_name_of_an_earlier_release_is_understood(ended: str) -> None:
    host, pid, start = current_process().split("/")[:3]
    assert process_state(f"{host}/{pid}/{start}") == "running"
    assert has_exited("/".join(ended.split("/")[:3]))
    assert has_exited(f"{host}/{pid}/1000000000")


def test_id_that_another_process_uses_again_has_exited() -> None:
    host, pid, start, boot, ticks = current_process().split("/")
    assert has_exited(f"{host}/{pid}/{start}/{boot}/{int(ticks) - 1}")
    assert has_exited(f"{host}/{pid}/{start}/00000000/{ticks}")  # after a reboot, at the same tick


@pytest.mark.parametrize("shift", [-7_200, 7_200])
def test_clock_that_is_set_does_not_end_a_running_process(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    name, as_started = current_process(), psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: as_started(self) + shift)
    assert process_state(name) == "running"


def test_observed_process_runs_until_its_id_belongs_to_a_later_process(ended: str) -> None:
    started = psutil.Process().create_time()
    now = time.time()
    assert process_state(observed_process(current_process(), os.getpid(), now)) == "running"
    assert process_state(observed_process(current_process(), os.getpid(), started + 86_400)) == "running"
    assert process_state(observed_process(current_process(), os.getpid(), started - 86_400)) == "ended"
    assert process_state(observed_process(current_process(), int(ended.split("/")[1]), now)) == "ended"
    assert process_state(observed_process("another-machine/1/1000000000", os.getpid(), now)) == "unknown"


def test_observed_process_of_an_earlier_boot_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    name = observed_process(current_process(), os.getpid(), time.time())
    monkeypatch.setattr(process_identity, "_boot", lambda: "00000000")
    assert has_exited(name)


def test_zombie_process_has_exited() -> None:
    code = (
        "from ml_platform.state.process_identity import current_process;print(current_process(), flush=True); input()"
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


@pytest.mark.parametrize("named", ["", "another-machine/1/1000000000", "no name", "a/b/c/d/e"])
def test_process_that_cannot_be_checked_counts_as_running(named: str) -> None:
    assert process_state(named) == "unknown"
    assert not has_exited(named)


def test_description_has_the_id_the_machine_and_the_start() -> None:
    assert describe_process("host-1/12/1700000000/697990d0/5") == (
        "process 12 on 'host-1', started 2023-11-14 22:13:20 UTC"
    )
    assert describe_process("host-1/12/1700000000/697990d0/") == (
        "process 12 on 'host-1', running at 2023-11-14 22:13:20 UTC"
    )
    assert describe_process("") == "an unknown process"
