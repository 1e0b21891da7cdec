"""The daemon ends before the code server, so no run is launched on a server that refuses it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ml_platform.serving.processes import UP_FILE, ProcessSpec
from ml_platform_tests.polling import until
from ml_platform_tests.serving.plans import plan_in

PROGRAM = """
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(float(sys.argv[2]))
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[3] + "\\n")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1] + "." + sys.argv[3]).touch()
while True:
    signal.pause()
"""


@pytest.mark.slow
def test_the_code_server_ends_after_the_daemon(tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    def process(name: str, seconds: float) -> ProcessSpec:
        return ProcessSpec(name=name, command=[sys.executable, "-c", PROGRAM, str(ended), str(seconds), name])

    plan = plan_in(tmp_path, processes=[process("code_server", 0), process("daemon", 1)])
    plan.open_state().migrate()
    file = tmp_path / "plan.json"
    file.write_text(plan.model_dump_json())
    command = [sys.executable, "-m", "ml_platform.serving.processes", str(file)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as up:
        started = [plan.run / UP_FILE, Path(f"{ended}.daemon"), Path(f"{ended}.code_server")]
        until(lambda: all(each.exists() for each in started), 60)
        os.kill(up.pid, signal.SIGTERM)
        up.wait(60)
    assert ended.read_text().split() == ["daemon", "code_server"]
