"""A home in which the demo ran, made at most once in a session: what tests of the whole loop share."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "ml-platform"
PROJECT = Path(__file__).resolve().parents[1]


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
    home = DemoHome(tmp_path_factory.mktemp("demo") / "home", "")
    return DemoHome(home.root, home.run("demo"))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests of a file, and all tests of the shared home, in one worker: what they share is made once."""
    shares_home = "demo_home" in getattr(item, "fixturenames", ())
    item.add_marker(pytest.mark.xdist_group("demo_home" if shares_home else item.path.stem))
