"""What tests share: signals as in a terminal, and a home in which the demo ran, made at most once in a session."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

COMMAND = Path(sys.executable).parent / "ml-platform"
PROJECT = Path(__file__).resolve().parents[1]

# A script that runs the tests in the background has them ignore SIGINT; what they start would inherit that, and Dagster
# takes SIGTERM for SIGINT: nothing could be ended any more.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class DemoHome:
    """The home, and what the demo printed there. It is shared: a test that changes anything works on a copy."""

    root: Path
    printed: str

    def copy(self, target: Path) -> "DemoHome":
        """Return a copy at ``target``; artifacts of MLflow are still read where the demo wrote them."""
        shutil.copytree(self.root, target, ignore=shutil.ignore_patterns("run"))
        return DemoHome(target, self.printed)

    def run(self, *arguments: str, columns: int = 80) -> str:
        """Run `ml-platform` on this home and return what it prints; fails when its exit code is not 0."""
        done = self.done(*arguments, columns=columns)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def done(self, *arguments: str, columns: int = 80) -> "subprocess.CompletedProcess[str]":
        """Run `ml-platform` on this home, whatever its exit code."""
        environment = {**os.environ, "ML_PLATFORM_HOME": str(self.root), "COLUMNS": str(columns)}
        return subprocess.run(
            [COMMAND, *arguments], env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> DemoHome:
    """Return the home of this run of the tests; a worker that comes second waits for the one that makes it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    home, printed = DemoHome(shared / "demo" / "home", ""), shared / "demo.txt"
    with FileLock(shared / "demo.lock"):
        if not printed.exists():
            printed.write_text(home.run("demo"))
    return DemoHome(home.root, printed.read_text())
