"""`ml-platform` in processes that fork from one with all imports done, because imports take most of a command's time.

As a program it reads one request per line and forks a process for each, which ends as the real command does: with its
exit code, its traceback and its exit handlers. It uses no library that starts threads before it forks.
"""

import atexit
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "ml_platform.cli",
    "ml_platform.components.model.component",
    "ml_platform.console.materialize",
    "ml_platform.console.status",
    "ml_platform.steps.backup",
    "ml_platform.steps.verification",
    "mlflow.models",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
)
"""Modules that the program imports before it forks."""


def run_command(*arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run `ml-platform` with ``arguments`` in a forked process and return it when it has ended, with any exit code.

    Libraries were imported in the environment of the first call, so a variable that one reads at its import acts only
    on a real process.
    """
    program = _program()
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(json.dumps({"arguments": arguments, "environment": dict(environment)}) + "\n")
    program.stdin.flush()
    answer = program.stdout.readline()
    assert answer, "the program that forks the commands has ended"
    return subprocess.CompletedProcess(["ml-platform", *arguments], **json.loads(answer))


@cache
def _program() -> "subprocess.Popen[str]":
    """Start the program on the first call; it ends with the test process."""
    started = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, started)
    return started


def _end(program: "subprocess.Popen[str]") -> None:
    assert program.stdin is not None
    program.stdin.close()
    program.wait(timeout=60)


def main() -> None:
    """Serve requests until the standard input ends; in a forked process, be the command and return."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    from resources import environment

    environment.apply()
    for name in PRELOADED:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        request = json.loads(line)
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                answers.close()
                _become(request, stdout.fileno(), stderr.fileno())
                return
            _, status = os.waitpid(pid, 0)
            found = {"returncode": os.waitstatus_to_exitcode(status), "stdout": _text(stdout), "stderr": _text(stderr)}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


def _become(request: Mapping[str, Any], stdout: int, stderr: int) -> None:
    """Run the command of ``request`` in this process."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (stdout, 1), (stderr, 2)):
        os.dup2(descriptor, target)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["ml-platform", *request["arguments"]]
    from ml_platform.cli import main as command

    command()


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode())


if __name__ == "__main__":
    main()
