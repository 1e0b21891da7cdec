"""`ml-platform doctor`: each check fails in its case, and a diagnosis changes nothing."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from rich.console import Console
from typer.testing import CliRunner

from ml_platform.cli import app
from ml_platform.console.doctor import home_state, installation, machine
from ml_platform.console.doctor.diagnosis import CHECKS, as_json, diagnose, has_failed, show
from ml_platform.console.doctor.finding import Finding, Subject, failed, ok, warning
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.marked_processes import RUN_VARIABLE
from ml_platform.serving.streams.declared_streams import CURSOR_PREFIX
from ml_platform.serving.streams.stream_status import StreamStatus, write_stream_status
from ml_platform.state.cursors import write_cursor
from ml_platform.state.schema import desired_states
from ml_platform.training import resource_usage
from ml_platform_tests.components.project_loading import PROJECT_FILE
from resources.addresses import DEFAULT_PORTS, port_variable
from resources.home import HOME_VARIABLE, Home
from resources.home_lake import open_lake
from resources.home_version import HOME_VERSION, prepare_home
from resources.state import open_state

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Return a home that does not exist yet, with a repository without declarations."""
    (tmp_path / "repository" / "assets").mkdir(parents=True)
    return Subject(Home(tmp_path / "home"), tmp_path / "repository", datetime.now(UTC))


@pytest.fixture
def free_ports(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return free ports by name, which the environment sets as the ports of the platform."""
    with ExitStack() as opened:
        # All are open at the same time, so that no two are equal.
        probes = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in DEFAULT_PORTS]
        chosen = {name: probe.getsockname()[1] for name, probe in zip(DEFAULT_PORTS, probes, strict=True)}
    for name, number in chosen.items():
        monkeypatch.setenv(port_variable(name), str(number))
    return chosen


def database(file: Path, *, journal: str = "delete", tables: tuple[str, ...] = ("rows",)) -> Path:
    """Create an SQLite file of about 100 pages."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany(f"INSERT INTO {tables[0]} (text) VALUES (?)", [("x" * 100,)] * 3_000)
        connection.commit()
    return file


def overwrite(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(data)


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of each file and folder below ``root``."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(root.rglob("*"))}


# The machine.


@pytest.mark.parametrize(("free", "state"), [(0.5, "failed"), (5, "warning"), (50, "ok")])
def test_nearly_full_disk_is_reported(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, free: float, state: str
) -> None:
    checked = []

    def usage(folder: Path) -> Usage:
        checked.append(folder)
        return Usage(0, 0, int(free * 2**30))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    found = machine.free_disk(subject)
    assert (found.state, found.found.split(" at ")[0]) == (state, f"{free:.1f} GiB free")
    assert checked == [subject.home.root.parent]  # the parent folder, because the home does not exist yet


@pytest.mark.parametrize(("available", "state"), [(0.5, "failed"), (2, "warning"), (8, "ok")])
def test_low_memory_is_reported(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, available: float, state: str
) -> None:
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: int(available * 2**30))
    assert machine.memory(subject).state == state


def test_memory_limit_of_a_container_is_used_if_it_is_lower_than_the_memory_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(machine, "MEMORY_LIMIT_FILES", (limit, used))
    unlimited = machine.available_memory_bytes()
    limit.write_text("3000000\n")
    used.write_text("1000000\n")
    assert machine.available_memory_bytes() == 2_000_000
    limit.write_text("max\n")
    assert machine.available_memory_bytes() == pytest.approx(unlimited, rel=0.5)


def test_port_of_another_process_fails_with_the_variable_that_sets_the_port(
    subject: Subject, free_ports: dict[str, int]
) -> None:
    assert machine.ports(subject).state == "ok"
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", free_ports["mlflow"]))
        other.listen()
        found = machine.ports(subject)
    assert found.state == "failed"
    assert found.found.startswith(f"{free_ports['mlflow']} (mlflow) is used by process {os.getpid()} (")
    assert found.fix == "Stop that process, or choose another port: ML_PLATFORM_MLFLOW_PORT."


def test_port_of_the_platform_of_this_home_passes(subject: Subject, free_ports: dict[str, int]) -> None:
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", listen, str(free_ports["gateway"])],
        env={**os.environ, RUN_VARIABLE: str(subject.home.run.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = machine.ports(subject)
        process.kill()
    assert found.state == "ok"
    assert f"{free_ports['gateway']} (gateway) is used by the platform of this home" in found.found


def test_port_setting_that_is_not_a_number_fails(
    subject: Subject, free_ports: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_REPORTS_PORT", "http")
    found = machine.ports(subject)
    assert (found.state, found.found) == ("failed", "ML_PLATFORM_REPORTS_PORT is 'http', which is not a port")


def future_file(subject: Subject) -> None:
    file = subject.home.landing / "trips" / "2013-01.csv"
    file.parent.mkdir(parents=True)
    file.touch()
    later = subject.now.timestamp() + 3600
    os.utime(file, (later, later))


def future_record(subject: Subject) -> None:
    log = AuditLog(open_state(subject.home))
    log.append("approval", actor="ada", at=subject.now + timedelta(hours=1), facts={})


def future_code(subject: Subject) -> None:
    file = subject.repository / "ml_platform" / "cli.py"
    file.parent.mkdir()
    file.touch()
    later = subject.now.timestamp() + 3600
    os.utime(file, (later, later))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (future_file, "the latest file of the home"),
        (future_record, "the last record of the audit log"),
        (future_code, "the installed code"),
    ],
)
def test_clock_before_a_record_or_file_fails(subject: Subject, write: Callable[[Subject], None], expected: str) -> None:
    assert machine.clock(subject).state == "ok"
    write(subject)
    found = machine.clock(subject)
    assert (found.state, expected in found.found) == ("failed", True)


def test_unknown_time_zone_of_a_declaration_fails_with_its_file(subject: Subject) -> None:
    declared = subject.repository / "assets" / "trips" / "defs.yaml"
    declared.parent.mkdir()
    declared.write_text(
        "type: x\nattributes: {partitions: {time_zone: Europe/Berlin}}\n---\na: [{time_zone: Mars/One}]"
    )
    found = machine.time_zones(subject)
    assert (found.state, found.found) == ("failed", "no time zone 'Mars/One' of assets/trips/defs.yaml")


def test_unknown_time_zone_of_the_process_warns(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert machine.time_zones(subject) == ok("UTC; this process uses Europe/Berlin")
    monkeypatch.setenv("TZ", "Europe/Bärlin")
    assert machine.time_zones(subject).state == "warning"


# The installation.


@pytest.mark.parametrize(("running", "state"), [("3.10.14", "failed"), ("3.12.1", "failed"), ("3.11.9", "ok")])
def test_unsupported_python_fails(subject: Subject, monkeypatch: pytest.MonkeyPatch, running: str, state: str) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: running)
    assert installation.python_version(subject).state == state


@pytest.mark.parametrize(("value", "state"), [("1", "warning"), ("", "ok"), (None, "ok")])
def test_python_that_may_not_keep_compiled_code_warns(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, value: str | None, state: str
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    if value is not None:
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", value)
    found = installation.compiled_code(subject)
    assert found.state == state
    assert state == "ok" or "unset PYTHONDONTWRITEBYTECODE" in found.fix


def test_packages_that_differ_from_the_lock_are_listed(subject: Subject) -> None:
    polars = importlib.metadata.version("polars")
    lock = subject.repository / "requirements.lock"
    lines = [
        "# made by hand",
        f"Polars[gpu]=={polars} \\\n    --hash=sha256:0\n    # via tests",
        "pydantic==0.1 ; python_full_version >= '3.11' \\\n    --hash=sha256:1",
        "tornado==0.1 ; sys_platform == 'win32' \\\n    --hash=sha256:2",
        "no-such-package==2 \\\n    --hash=sha256:3",
    ]
    lock.write_text("\n".join(lines))
    found = installation.locked_versions(subject)
    pydantic = importlib.metadata.version("pydantic")
    assert found.state == "warning"
    assert found.found == (
        f"2 of 3 packages differ from the lock: pydantic {pydantic} (lock: 0.1); no-such-package is missing (lock: 2)"
    )


def test_long_list_of_packages_is_capped(subject: Subject) -> None:
    lock = subject.repository / "requirements.lock"
    lock.write_text("\n".join(f"no-such-package-{number}==1" for number in range(9)))
    assert installation.locked_versions(subject).found.endswith("; … and 4 more")


def test_installation_without_a_lock_warns(subject: Subject) -> None:
    assert installation.locked_versions(subject).state == "warning"


@pytest.mark.parametrize(
    ("present", "usable", "cuda", "state", "found"),
    [
        (0, 0, False, "ok", "none; training uses the CPU, torch 9.9"),
        (2, 2, True, "ok", "2 accelerators, torch 9.9"),
        (2, 0, False, "warning", "2 NVIDIA devices, but torch 9.9 is built for the CPU"),
        (2, 0, True, "warning", "2 NVIDIA devices, but none is visible to this process"),
    ],
)
def test_accelerator_that_torch_cannot_use_warns(
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    present: int,
    usable: int,
    cuda: bool,
    state: str,
    found: str,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    monkeypatch.setattr(installation, "nvidia_devices", lambda: present)
    monkeypatch.setattr(resource_usage, "gpu_count", lambda: usable)
    monkeypatch.setattr(resource_usage, "torch_has_cuda", lambda: cuda)
    result = installation.accelerator(subject)
    assert (result.state, result.found) == (state, found)


def test_missing_torch_warns(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert installation.accelerator(subject).state == "warning"


# The home.


def test_home_of_a_later_version_fails_and_an_older_one_warns(subject: Subject) -> None:
    assert home_state.home_version(subject).found.startswith("no home yet")
    subject.home.lake.mkdir(parents=True)
    assert home_state.home_version(subject).state == "warning"
    prepare_home(subject.home)
    assert home_state.home_version(subject) == ok(f"version {HOME_VERSION} at {subject.home.root}")
    (subject.home.root / "home.json").write_text('{"version": 9}')
    found = home_state.home_version(subject)
    assert (found.state, found.found) == (
        "failed",
        f"version 9, written by a later release at {subject.home.root}",
    )


def test_home_that_cannot_be_written_fails(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    subject.home.lake.mkdir(parents=True)
    assert home_state.access(subject).state == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: path != subject.home.lake)  # root can write everywhere
    found = home_state.access(subject)
    assert (found.state, found.found) == ("failed", f"cannot be written: {subject.home.lake}")


def test_home_that_is_a_file_fails(subject: Subject) -> None:
    subject.home.root.touch()
    assert home_state.access(subject).state == "failed"


@pytest.mark.parametrize(("rights", "state"), [(0o777, "failed"), (0o755, "warning"), (0o700, "ok")])
def test_home_that_others_can_read_or_change_is_reported(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, rights: int, state: str
) -> None:
    subject.home.root.mkdir()
    subject.home.root.chmod(rights)
    monkeypatch.setattr(home_state, "is_reachable_by_others", lambda folder: True)
    assert home_state.access(subject).state == state


def test_home_in_a_private_folder_is_private_with_any_mode(subject: Subject, tmp_path: Path) -> None:
    subject.home.root.mkdir(mode=0o755)
    tmp_path.chmod(0o700)
    assert not home_state.is_reachable_by_others(subject.home.root)
    assert home_state.access(subject).state == "ok"


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_damaged_database_fails(subject: Subject, journal: str) -> None:
    database(subject.home.dagster / "history" / "runs.db", journal=journal)
    study = database(subject.home.models / "studies" / "trips.db", journal=journal)
    assert home_state.databases(subject) == ok("2 SQLite databases are intact")
    overwrite(study, 4096, b"\xff" * 8192)
    found = home_state.databases(subject)
    assert found.state == "failed"
    assert found.found.startswith("1 of 2 SQLite databases are damaged: models/studies/trips.db: ")


def test_file_that_is_not_a_database_fails(subject: Subject) -> None:
    file = database(subject.home.mlflow / "mlflow.db")
    file.write_bytes(b"not a database at all" * 100)
    assert "file is not a database" in home_state.databases(subject).found


def test_database_with_an_active_writer_is_read_or_skipped(subject: Subject) -> None:
    file = database(subject.home.dagster / "runs.db", journal="wal")
    exclusive = database(subject.home.dagster / "schedules.db")
    with closing(sqlite3.connect(file)) as writer, closing(sqlite3.connect(exclusive)) as other:
        writer.execute("INSERT INTO rows (text) VALUES ('y')")
        other.execute("BEGIN EXCLUSIVE")
        found = home_state.databases(subject)
    assert found.state == "ok"
    assert found.found.startswith("1 SQLite databases are intact; 1 in use")


def test_databases_beyond_the_time_limit_are_counted_as_unchecked(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(subject.home.dagster / "runs.db")
    monkeypatch.setattr(home_state, "DATABASE_SECONDS", -1.0)
    assert home_state.databases(subject).found.startswith("0 SQLite databases are intact; 1 in use or not checked")


def test_tracking_store_without_its_tables_or_unreadable_fails(subject: Subject) -> None:
    assert home_state.tracking_store(subject) == ok("no MLflow database yet")
    file = subject.home.mlflow / "mlflow.db"
    database(file, tables=("experiments", "runs"))
    found = home_state.tracking_store(subject)
    assert (found.state, found.found) == (
        "failed",
        f"{file} has no tables alembic_version, model_versions, registered_models",
    )
    file.unlink()
    database(file, tables=tuple(sorted(home_state.MLFLOW_TABLES)))
    assert home_state.tracking_store(subject) == ok("MLflow's database has 0 runs and 0 model versions")
    overwrite(file, 0, b"garbage")
    assert home_state.tracking_store(subject).state == "failed"


def test_changed_audit_log_fails(subject: Subject) -> None:
    log = AuditLog(open_state(subject.home))
    for actor in ("ada", "bob"):
        log.append("approval", actor=actor, at=subject.now, facts={"model": "trips"})
    assert home_state.audit_log(subject) == ok("the chain of 2 records is unbroken")
    with log.state.write() as connection:
        connection.execute(sa.text("DROP TRIGGER audit_records_update"))
        connection.execute(sa.text("UPDATE audit_records SET actor = 'eve' WHERE sequence = 1"))
    found = home_state.audit_log(subject)
    assert (found.state, "record 1" in found.found) == ("failed", True)


def test_stream_that_is_not_consumed_while_the_platform_runs_warns(subject: Subject) -> None:
    assert home_state.streams(subject) == ok("no model answers a stream")
    write_cursor(open_state(subject.home), f"{CURSOR_PREFIX}trips", [{"requests": "trips.requests"}])
    assert home_state.streams(subject) == ok("1 declared; the platform does not run")
    subject.home.run.mkdir()
    (subject.home.run / "status.json").touch()
    assert home_state.streams(subject).found == "1 declared, and their consumer does not run"
    running = replace(subject, now=datetime.now(UTC))
    status = StreamStatus(stream="trips.requests", state="consuming", waiting=2)
    write_stream_status(subject.home.run, {"trips": [status]})
    assert home_state.streams(running) == ok("1 consumed")
    away = status.model_copy(update={"state": "away", "problem": "no server"})
    write_stream_status(subject.home.run, {"trips": [away]})
    found = home_state.streams(running)
    text = "trips: trips.requests: no server (2 waiting, 0 in flight, 0 answered)"
    assert (found.state, found.found) == ("warning", text)


def test_unreadable_desired_state_and_missing_bento_fail(subject: Subject) -> None:
    assert home_state.desired_states(subject) == ok("no rollout yet")
    bento = subject.home.bentos / "trips"
    bento.mkdir(parents=True)
    (bento / "bento.yaml").touch()
    served, state = ServedVersion(version="4", bento="trips"), open_state(subject.home)
    swap_desired_state(state, "trips", DesiredState(stable=served, weights={"stable": 100}), 0)
    assert home_state.desired_states(subject) == ok("1 readable, all bentos exist")

    (bento / "bento.yaml").unlink()
    broken = {"model": "arrivals", "generation": 1, "state": '{"weights": {"stable": 100}}', "changed_at": ""}
    with state.write() as connection:
        connection.execute(desired_states.insert().values(broken))
    found = home_state.desired_states(subject)
    assert found.state == "failed"
    assert "arrivals: 1 validation error for DesiredState" in found.found
    assert f"trips: version 4 has no bento at {bento}" in found.found


@pytest.fixture
def table(subject: Subject) -> Path:
    """Return the folder of a valid Delta table with one partition."""
    open_lake(subject.home).write("datasets/trips", pl.DataFrame({"value": [1, 2]}), "2013-01")
    assert home_state.lake_tables(subject) == ok("1 tables can be read")
    return subject.home.lake / "datasets" / "trips"


def truncate_data(table: Path) -> None:
    (file,) = table.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-8])


def remove_data(table: Path) -> None:
    (file,) = table.rglob("*.parquet")
    file.unlink()


def empty_data(table: Path) -> None:
    (file,) = table.rglob("*.parquet")
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate_data, remove_data, empty_data])
def test_table_with_a_damaged_file_fails(subject: Subject, table: Path, damage: Callable[[Path], None]) -> None:
    damage(table)
    found = home_state.lake_tables(subject)
    assert found.state == "failed"
    assert found.found.startswith("1 of 1 tables cannot be read: datasets/trips: partition=2013-01/part-")


def garble_log(table: Path) -> None:
    for commit in (table / "_delta_log").glob("*.json"):
        commit.write_text("{")


def remove_log(table: Path) -> None:
    shutil.rmtree(table / "_delta_log")


def remove_latest_commit(table: Path) -> None:
    max((table / "_delta_log").glob("*.json")).unlink()


@pytest.mark.parametrize("damage", [garble_log, remove_log, remove_latest_commit])
def test_damaged_delta_log_warns_because_the_catalog_still_reads_the_table(
    subject: Subject, table: Path, damage: Callable[[Path], None]
) -> None:
    damage(table)
    found = home_state.lake_tables(subject)
    assert found.state == "warning"
    assert found.found.startswith("other tools cannot read 1 of 1 tables: datasets/trips: ")
    assert open_lake(subject.home).scan("datasets/trips").collect()["value"].to_list() == [1, 2]


# All checks together.


@pytest.fixture
def damaged(subject: Subject) -> Subject:
    """Return a home in which every part is damaged."""
    home = subject.home
    log = AuditLog(open_state(home))
    log.append("approval", actor="ada", at=subject.now, facts={})
    with log.state.write() as connection:
        connection.execute(sa.text("DROP TRIGGER audit_head_delete"))
        connection.execute(sa.text("DELETE FROM audit_head"))
        broken = {"model": "trips", "generation": 1, "state": "{", "changed_at": ""}
        connection.execute(desired_states.insert().values(broken))
    log.state.close()
    lake = open_lake(home)
    lake.write("datasets/trips", pl.DataFrame({"value": [1, 2]}), "2013-01")
    lake.state.close()
    remove_data(home.lake / "datasets" / "trips")
    database(home.dagster / "runs.db", journal="wal")
    overwrite(database(home.mlflow / "mlflow.db"), 0, b"garbage")
    (home.root / "home.json").write_text("[]")
    return subject


def test_diagnosis_of_a_damaged_home_runs_all_checks_and_changes_nothing(damaged: Subject) -> None:
    before = tree(damaged.home.root)
    findings = diagnose(damaged)
    assert list(findings) == list(CHECKS)
    broken = {"home", "databases", "tracking", "audit log", "desired states", "tables"}
    assert {name for name in broken if findings[name].state == "failed"} == broken
    assert all(finding.fix for finding in findings.values() if finding.state != "ok")
    assert tree(damaged.home.root) == before


def test_check_that_raises_fails_and_the_others_run(subject: Subject) -> None:
    def raises(subject: Subject) -> Finding:
        raise OSError("Input/output error")

    findings = diagnose(subject, {"first": raises, "second": lambda _: ok("fine")})
    assert findings["first"].found == "the check could not run: OSError: Input/output error"
    assert findings["second"] == ok("fine")


def test_only_a_failed_check_makes_the_diagnosis_fail() -> None:
    assert not has_failed({"a": ok("x"), "b": warning("y", "do")})
    assert has_failed({"a": ok("x"), "b": failed("y", "do")})
    assert as_json({"a": warning("y", "do")}) == {
        "ok": True,
        "checks": [{"check": "a", "state": "warning", "found": "y", "fix": "do"}],
    }


def test_output_has_one_line_per_check_with_its_fix_below() -> None:
    output = StringIO()
    show({"disk": ok("9 GiB free"), "ports": failed("80 is used", "Stop it.")}, Console(file=output, width=80))
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert lines == [
        "✓ ok      disk   9 GiB free",
        "✗ failed  ports  80 is used",
        "                 Stop it.",
        "2 checks: 1 failed, 0 with a warning.",
    ]


def test_command_runs_without_a_home_and_creates_none(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, free_ports: dict[str, int]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(subject.home.root))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert [each["check"] for each in found["checks"]] == list(CHECKS)
    assert result.exit_code == (0 if found["ok"] else 1)
    assert not subject.home.root.exists()


def test_command_ends_with_exit_code_1_when_a_check_failed(
    damaged: Subject, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(damaged.home.root))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert re.search("✗ failed +audit log", capfd.readouterr().out)


def test_domain_that_does_not_load_is_named_with_file_and_line(subject: Subject) -> None:
    (subject.repository / "pyproject.toml").write_text(PROJECT_FILE.replace('"shop"', '"shops"'))
    (subject.repository / "shops/late").mkdir(parents=True)
    (subject.repository / "shops/__init__.py").touch()
    (subject.repository / "shops/late/defs.yaml").write_text("type: ml_platform.Dataset\nattributes:\n  nam: late\n")

    found = installation.domains(subject)

    assert found.state == "failed"
    assert "late is left out: " in found.found
    assert "shops/late/defs.yaml:3" in found.found


def test_diagnosis_imports_no_heavy_library(subject: Subject) -> None:
    code = (
        "import json, sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from ml_platform.console.doctor.diagnosis import diagnose\n"
        "from ml_platform.console.doctor.finding import Subject\n"
        "from resources.home import Home\n"
        "findings = diagnose(Subject(Home(Path(sys.argv[1])), Path(sys.argv[2]), datetime.now(UTC)))\n"
        "print(json.dumps([len(findings), sorted({'torch', 'mlflow', 'dagster', 'polars'} & set(sys.modules))]))"
    )
    command = [sys.executable, "-c", code, str(subject.home.root), str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [len(CHECKS), []]
