"""Changed, missing and inserted records of the audit log are detected, and no record is written partially."""

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.registry.audit import AuditError, AuditLog

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "records" / "decisions.jsonl")
    for number in range(1, 4):
        log.append("champion", actor="mara", at=NOON, facts={"version": number})
    return log


def test_records_are_returned_in_order_with_their_facts(log: AuditLog) -> None:
    found = [(record.sequence, record.facts["version"], record.actor, record.at) for record in log.records()]
    assert found == [(1, 1, "mara", NOON), (2, 2, "mara", NOON), (3, 3, "mara", NOON)]


def test_records_of_one_kind_are_selected(log: AuditLog) -> None:
    log.append("approval", actor="ed", at=NOON, facts={})
    assert [record.sequence for record in log.records("approval")] == [4]


def test_changed_record_is_named(log: AuditLog) -> None:
    log.path.write_text(log.path.read_text().replace('"version":2', '"version":9'))
    with pytest.raises(AuditError, match="record 2: expected content with the digest"):
        log.verify()


def test_changed_record_with_a_new_digest_breaks_the_one_after_it(log: AuditLog) -> None:
    from ml_platform.data.canonical import canonical_json, value_digest

    lines = log.path.read_bytes().splitlines()
    forged = json.loads(lines[1])
    del forged["digest"]
    forged["facts"] = {"version": 9}
    lines[1] = canonical_json({**forged, "digest": value_digest(forged)})
    log.path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(AuditError, match="record 3: expected record 3 after"):
        log.verify()


def test_dropped_record_is_named(log: AuditLog) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + lines[2])
    with pytest.raises(AuditError, match="record 2: expected record 2 after"):
        log.verify()


def test_truncated_end_is_detected(log: AuditLog) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:2]))
    with pytest.raises(AuditError, match="record 3: expected 3 records, as in its head file, found only 2"):
        log.verify()


def test_broken_log_accepts_no_record(log: AuditLog) -> None:
    broken = log.path.read_text().replace('"version":2', '"version":9')
    log.path.write_text(broken)
    with pytest.raises(AuditError, match="record 2"):
        log.append("champion", actor="mara", at=NOON, facts={})
    assert log.path.read_text() == broken


def test_incomplete_line_of_a_crash_is_removed_by_the_next_writer(log: AuditLog) -> None:
    with log.path.open("ab") as file:
        file.write(b'{"sequence":4,"ki')
    assert log.verify() == 3
    log.append("champion", actor="mara", at=NOON, facts={"version": 4})
    assert [record.facts["version"] for record in log.records()] == [1, 2, 3, 4]


def test_crash_between_record_and_head_keeps_the_record(log: AuditLog) -> None:
    head = log.path.with_name("decisions.jsonl.head")
    old = head.read_text()
    log.append("champion", actor="mara", at=NOON, facts={"version": 4})
    head.write_text(old)
    assert log.verify() == 4


def test_writers_in_several_processes_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_append_ten, [path, path]))
    assert [record.sequence for record in AuditLog(path).records()] == list(range(1, 21))


def test_full_disk_rejects_the_record_and_keeps_the_log(log: AuditLog) -> None:
    size = log.path.stat().st_size
    # A limit on the file size simulates a full disk: the write stops in the middle of the line.
    program = f"""
        import resource, datetime, pathlib
        from ml_platform.registry.audit import AuditLog
        resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 40}, {size + 40}))
        at = datetime.datetime(2013, 7, 1, tzinfo=datetime.UTC)
        AuditLog(pathlib.Path({str(log.path)!r})).append("champion", actor="mara", at=at, facts={{"version": 4}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (
        "expected disk space for one more record, found [Errno 27] File too large. No decision was recorded"
        in done.stderr
    )
    assert (log.path.stat().st_size, log.verify()) == (size, 3)


def _append_ten(path: Path) -> None:
    for number in range(10):
        AuditLog(path).append("champion", actor="mara", at=NOON, facts={"number": number})
