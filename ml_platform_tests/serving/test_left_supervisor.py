"""A supervisor whose starter was killed is ended, so that another one can start."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from filelock import FileLock, Timeout

from ml_platform.serving.left_supervisor import stop_left_processes
from ml_platform.serving.marked_processes import is_alive
from ml_platform.serving.processes import LOCK_FILE, UP_FILE

PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from filelock import FileLock

if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
run = Path(sys.argv[1])
with FileLock(run / "up.lock"):
    (run / "up.json").write_text(json.dumps({"pid": os.getpid()}))
    print("running", flush=True)
    signal.pause()
"""


@pytest.fixture(params=["usual", "stubborn"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[psutil.Process]:
    """A process that has the lock of the run folder and ends by SIGTERM, or only by SIGKILL."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "running\n"
        yield psutil.Process(started.pid)
        started.kill()


def test_the_lock_is_free_after_it(supervisor: psutil.Process, tmp_path: Path) -> None:
    assert json.loads((tmp_path / UP_FILE).read_text())["pid"] == supervisor.pid
    with pytest.raises(Timeout):
        FileLock(tmp_path / LOCK_FILE).acquire(timeout=0)
    stop_left_processes(tmp_path, seconds=1)
    with FileLock(tmp_path / LOCK_FILE).acquire(timeout=0):
        assert not is_alive(supervisor)


def test_a_folder_without_a_supervisor_stays_as_it_is(tmp_path: Path) -> None:
    stop_left_processes(tmp_path / "run")
    assert not (tmp_path / "run").exists()
