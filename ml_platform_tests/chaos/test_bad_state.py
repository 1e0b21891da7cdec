"""Each fault of a store is detected and named with its fix, and nothing else is damaged."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from ml_platform.data.delta_log import DeltaLogError
from ml_platform.data.lake import LakeError
from ml_platform.registry.audit import AuditError, AuditLog
from ml_platform.serving.desired_state import DesiredState, ServedVersion, all_desired_states, swap_desired_state
from ml_platform.state import sqlite_file
from ml_platform.state.sqlite_file import StateLockedError, StateStoreError
from ml_platform.state.store import StateStore
from ml_platform.steps.backup import back_up, restore
from ml_platform.steps.backup_target import BackupTarget
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.repair import repair_home, repair_state_store
from ml_platform.steps.verification import verify_home
from ml_platform_tests.command_line import run_command
from ml_platform_tests.conftest import PROJECT
from resources.home import Home
from resources.home_lake import open_lake
from resources.state import open_state

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
TABLE = "datasets/orders"
WITHOUT_LOCKS = """
import errno, fcntl, os, sys

def no_locks(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = no_locks
from ml_platform.cli import main
sys.argv = ["ml-platform", *sys.argv[1:]]
main()
"""


def rows(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": list(values)}, schema={"value": pl.Int64})


def fresh(state: StateStore) -> StateStore:
    """Return the store at the same place as another process would open it."""
    assert state.path is not None
    return StateStore(path=state.path)


def stores_of(home: Home) -> PlatformStores:
    from ml_platform.components.stores import open_home_stores

    return open_home_stores(home)


def contents(home: Home) -> tuple[list[bytes], list[int], dict[str, DesiredState]]:
    """Return decisions, rows and desired states of ``home``."""
    lake = open_lake(home)
    values = lake.scan(TABLE).collect()["value"].sort().to_list()
    return list(AuditLog(lake.state).export()), values, dict(all_desired_states(lake.state).readable)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Return a home with three rows, three decisions and a desired state."""
    made = Home(tmp_path / "home")
    lake = open_lake(made)
    lake.write(TABLE, rows(1, 2), "2024-01")
    lake.write(TABLE, rows(3), "2024-02")
    for number in (1, 2, 3):
        AuditLog(lake.state).append("note", actor="ada", at=NOW, facts={"model": "late", "number": number})
    served = ServedVersion(version="1", bento="late/1")
    swap_desired_state(lake.state, "late", DesiredState(stable=served, weights={"stable": 100}), 0)
    yield made
    lake.state.close()


@contextmanager
def written_by_another(path: Path) -> Iterator[None]:
    """Hold a write transaction on the database, as another process does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def damage(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def platform(home: Home, *arguments: str, script: str = "") -> "subprocess.CompletedProcess[str]":
    """Run `ml-platform` on ``home`` and return the ended process; ``script`` runs in its place, in a fresh one."""
    environment = {**os.environ, "ML_PLATFORM_HOME": str(home.root), "COLUMNS": "200"}
    if not script:
        return run_command(*arguments, environment=environment)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)


# The state store.


def test_store_that_another_process_keeps_locked_is_named_and_unchanged(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(home)
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.2)
    state = fresh(open_state(home))
    with written_by_another(home.state):
        with pytest.raises(StateLockedError, match=r"found another process that is writing\. Nothing was changed"):
            AuditLog(state).append("note", actor="bob", at=NOW, facts={"model": "late"})
        assert AuditLog(state).verify() == 3  # readers do not wait
    assert contents(home) == before
    assert AuditLog(state).append("note", actor="bob", at=NOW, facts={"model": "late"}).sequence == 4


def test_full_store_is_named_and_keeps_all_records(home: Home) -> None:
    state = fresh(open_state(home))
    with state.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    state.close()
    sa.event.listen(state.engine, "connect", lambda opened, _: opened.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StateStoreError, match=r"expected space for one more record.*full.*Free disk space"):
        AuditLog(state).append("note", actor="bob", at=NOW, facts={"model": "late", "text": "x" * 400_000})
    assert AuditLog(fresh(state)).verify() == 3
    assert contents(home)[1] == [1, 2, 3]


def test_file_that_is_no_database_is_named_moved_aside_and_rebuilt(home: Home) -> None:
    decisions, values, _ = contents(home)
    open_state(home).close()
    for suffix in ("-wal", "-shm"):
        home.state.with_name(home.state.name + suffix).unlink(missing_ok=True)
    damage(home.state, 0, b"garbage!" * 64)
    found = platform(home, "status")
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert f"State store {home.state}: expected a readable database, found file is not a database" in found.stderr
    assert "ml-platform restore" in found.stderr

    repairs = [(each.subject, each.repaired) for each in repair_state_store(home)]
    assert repairs[:2] == [("State store", True), ("State store", True)]
    assert [path.name for path in home.root.glob("state.db.damaged-*")] != []
    repaired = {each.subject: each.repaired for each in repair_home(stores_of(home))}
    assert repaired == {f"Table '{TABLE}'": True, "Audit log": True}
    assert contents(home) == (decisions, values, {})


def test_database_with_a_damaged_page_is_repaired_as_far_as_its_rows_are_readable(home: Home) -> None:
    state = open_state(home)
    with state.engine.connect() as connection:
        root = connection.exec_driver_sql(
            "SELECT rootpage FROM sqlite_master WHERE name = 'desired_states'"
        ).scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    decisions, values, _ = contents(home)
    state.close()
    with closing(sqlite3.connect(home.state)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(home.state, (root - 1) * size, b"\xff" * size)

    repairs = {each.subject: each for each in repair_state_store(home)}
    assert not repairs["State store, table desired_states"].repaired
    assert "the rest cannot be read" in repairs["State store, table desired_states"].text
    assert repairs["Audit log"].text == "copied 3 records"
    assert contents(home) == (decisions, values, {})
    assert AuditLog(open_state(home)).verify() == 3


def test_store_of_a_later_release_is_refused_and_unchanged(home: Home) -> None:
    state = open_state(home)
    with state.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    state.close()
    before = home.state.read_bytes()
    # A process checks the schema of a store once, when it opens it.
    found = platform(home, "status")
    assert found.returncode == 1
    assert "revision 9999, written by a later release" in found.stderr
    assert home.state.read_bytes() == before


def test_store_that_is_deleted_while_running_is_named_and_no_empty_one_is_made(home: Home) -> None:
    state = open_state(home)
    for path in home.root.glob("state.db*"):
        path.unlink()
    with pytest.raises(StateStoreError, match=r"found no file: it was deleted.*ml-platform restore"):
        AuditLog(state).append("note", actor="bob", at=NOW, facts={"model": "late"})
    assert not home.state.exists()


def test_file_system_without_locks_is_named_at_once(home: Home) -> None:
    before = contents(home)
    found = platform(home, "backup", str(home.root.parent / "backups"), script=WITHOUT_LOCKS)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert "expected a file system with locks and shared memory, found [Errno 37] No locks available" in found.stderr
    assert "Set ML_PLATFORM_HOME to a local disk" in found.stderr
    assert contents(home) == before


def test_audit_log_with_a_damaged_page_is_read_from_its_copy(home: Home) -> None:
    state = open_state(home)
    with state.engine.connect() as connection:
        root = connection.exec_driver_sql(
            "SELECT rootpage FROM sqlite_master WHERE name = 'audit_records'"
        ).scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    before = contents(home)
    state.close()
    with closing(sqlite3.connect(home.state)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(home.state, (root - 1) * size, b"\xff" * size)

    repair_state_store(home)
    repairs = {each.subject: each.text for each in repair_home(stores_of(home))}
    assert repairs == {"Audit log": "read 3 records from its copy audit.jsonl"}
    assert contents(home) == before
    assert AuditLog(open_state(home)).verify() == 3


# The audit log, and a clock that goes back.


def test_changed_record_is_named_and_later_ones_are_refused_only_if_it_is_the_last(home: Home) -> None:
    with closing(sqlite3.connect(home.state)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE audit_records SET actor = 'eve' WHERE sequence = 2")
    audit = AuditLog(open_state(home))
    with pytest.raises(AuditError, match=r"record 2: expected content with the digest"):
        audit.verify()
    problems = {each.area: each for each in verify_home(stores_of(home)).problems}
    assert "record 2" in problems["audit"].subject
    assert "Restore it from a backup" in problems["audit"].fix
    assert audit.record(1).actor == audit.record(3).actor == "ada"
    assert open_lake(home).scan(TABLE).collect().height == 3


def test_clock_that_goes_back_changes_no_order(home: Home, tmp_path: Path) -> None:
    audit = AuditLog(open_state(home))
    audit.append("note", actor="ada", at=NOW - timedelta(days=400), facts={"model": "late", "number": 4})
    assert audit.verify() == 4
    latest = audit.latest("note", "late")
    assert latest is not None
    assert latest.facts["number"] == 4

    target = BackupTarget(str(tmp_path / "backups"))
    first = back_up(home, target, now=NOW)
    open_lake(home).write(TABLE, rows(9), "2024-02")
    second = back_up(home, target, now=NOW - timedelta(days=1))
    assert second.id > first.id
    third = back_up(home, target, now=NOW + timedelta(days=1), keep=1)
    assert target.indexes() == [third.id]
    restored = Home(tmp_path / "restored")
    restore(target, restored)
    assert contents(restored)[1] == [1, 2, 9]


# The lake.


def test_truncated_delta_log_is_named_and_written_again_and_the_rows_stay_readable(home: Home) -> None:
    lake = open_lake(home)
    newest = sorted((home.lake / TABLE / "_delta_log").glob("*.json"))[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert lake.scan(TABLE).collect().height == 3
    problems = [each for each in verify_home(stores_of(home)).problems if each.area == "delta logs"]
    assert [each.repairable for each in problems] == [True]
    with pytest.raises(DeltaLogError, match=r"The rows are safe.*ml-platform repair"):
        lake.write(TABLE, rows(7), "2024-03")
    assert [(each.subject, each.repaired) for each in repair_home(stores_of(home))] == [
        (f"Delta log of '{TABLE}'", True)
    ]
    assert pl.read_delta(str(home.lake / TABLE))["value"].sort().to_list() == [1, 2, 3, 7]
    assert [each for each in verify_home(stores_of(home)).problems if each.area == "delta logs"] == []


def test_missing_parquet_file_is_named_and_only_its_partition_cannot_be_read(home: Home) -> None:
    lake = open_lake(home)
    (segment,) = lake.catalog.segments(TABLE, partitions=["2024-02"])
    (home.lake / TABLE / segment.files[0].path).unlink()
    with pytest.raises(LakeError, match=r"partition 2024-02: expected the file .* found no file.*Materialize"):
        lake.scan(TABLE).collect()
    assert lake.scan(TABLE, partitions=["2024-01"]).collect()["value"].to_list() == [1, 2]
    problems = [each for each in verify_home(stores_of(home)).problems if each.area == "lake files"]
    assert [each.subject for each in problems] == [f"Table '{TABLE}', partition 2024-02"]
    lake.write(TABLE, rows(3), "2024-02")
    assert contents(home)[1] == [1, 2, 3]
    assert [each for each in verify_home(stores_of(home)).problems if each.area == "lake files"] == []


# The border of the command line.


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home with MLflow's database and one champion record."""
    made = Home(tmp_path_factory.mktemp("tracked") / "home")
    stores = stores_of(made)
    stores.registry.tracking.experiment("late")
    facts = {
        "model": "late",
        "version": 1,
        "previous_version": None,
        "action": "promote",
        "reason": "",
        "content_digest": "",
        "partition": "2024-01",
        "manifest": {},
        "verdict": None,
        "approved_by": [],
    }
    stores.audit.append("champion", actor="ada", at=NOW, facts=facts)
    stores.state.close()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["no database", "a damaged page"])
def test_damaged_tracking_database_ends_with_a_message(tracked: Home, tmp_path: Path, damaged: str) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(tracked.root, home.root)
    database = home.mlflow / "mlflow.db"
    if damaged == "no database":
        database.write_bytes(b"not a database" * 1000)
    else:
        damage(database, 4096, b"\xff" * (database.stat().st_size - 4096))
    for arguments in (["status"], ["verify"], ["doctor"], ["repair"]):
        found = platform(home, *arguments)
        assert "Traceback" not in found.stdout + found.stderr, (arguments, found.stderr[-2000:])
        assert found.returncode == (0 if arguments == ["status"] else 1), (arguments, found.stdout, found.stderr)
        if arguments != ["status"]:
            assert "mlflow.db" in found.stdout + found.stderr, arguments
    assert AuditLog(open_state(home)).verify() == 1


@pytest.mark.slow
@pytest.mark.parametrize("table", ["desired_states", "cursors", "verdicts"])
def test_garbage_in_a_row_ends_with_a_message(tracked: Home, tmp_path: Path, table: str) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(tracked.root, home.root)
    garbage = {
        "desired_states": ("model, generation, state, changed_at", ("late", 1, "{garbage", "x")),
        "cursors": ("name, value, changed_at", ("landing", "{garbage", "x")),
        "verdicts": (
            "digest, sequence, model, partition, candidate, evidence, verdict, metrics, recorded_at",
            ("d", 1, "late", "2024-01", "c", "e", "{garbage", "{garbage", "x"),
        ),
    }
    columns, values = garbage[table]
    with closing(sqlite3.connect(home.state)) as connection, connection:
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)
    for arguments in (["status"], ["verify"], ["doctor"]):
        found = platform(home, *arguments)
        assert "Traceback" not in found.stdout + found.stderr, (arguments, found.stderr[-2000:])


@pytest.mark.slow
def test_full_disk_ends_with_a_message_that_names_the_file(home: Home, tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from ml_platform.cli import main\n"
        "sys.argv = ['ml-platform', *sys.argv[1:]]\n"
        "main()\n"
    )
    before = contents(home)
    open_state(home).close()
    found = platform(home, "backup", str(tmp_path / "backups"), script=script)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr, found.stderr[-3000:]
    assert "expected space for one more" in found.stderr or "File too large" in found.stderr
    assert contents(home) == before
    assert BackupTarget(str(tmp_path / "backups")).indexes() == []
