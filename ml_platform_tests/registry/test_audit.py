"""Changed, missing and inserted records of the audit log are detected, on SQLite and on Postgres."""

import contextlib
import json
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_platform.data.canonical import canonical_json, value_digest
from ml_platform.registry.audit import GENESIS, MODEL_RENAMED, AuditError, AuditHead, AuditLog
from ml_platform.state.schema import audit_head, audit_records
from ml_platform.state.sqlite_file import StateStoreError
from ml_platform.state.store import StateStore

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def log(any_state: StateStore) -> AuditLog:
    log = AuditLog(any_state)
    for number in range(1, 4):
        log.append("champion", actor="mara", at=NOON, facts={"model": "risk", "version": number})
    return log


def tamper(log: AuditLog, *statements: sa.Executable) -> None:
    """Execute ``statements`` as a person with access to the database can: without the triggers."""
    with log.state.write() as connection:
        if connection.dialect.name == "sqlite":
            for name in connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
                connection.execute(sa.text(f"DROP TRIGGER {name}"))
        else:
            for table in ("audit_records", "audit_head"):
                connection.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        for statement in statements:
            connection.execute(statement)


def forged_row(log: AuditLog, sequence: int, **changes: object) -> dict[str, object]:
    """Return the columns of a record with ``changes`` and the digest that belongs to them."""
    record = log.record(sequence)
    content = {
        "sequence": sequence,
        "at": record.at.isoformat(),
        "kind": record.kind,
        "actor": record.actor,
        "facts": dict(record.facts),
        "previous": record.previous,
        **changes,
    }
    return {**content, "facts": json.dumps(content["facts"]), "digest": value_digest(content)}


def replaced(sequence: int, values: dict[str, object]) -> sa.Executable:
    return audit_records.update().where(audit_records.c.sequence == sequence).values(values)


def test_records_are_returned_in_order_with_their_facts(log: AuditLog) -> None:
    found = [(record.sequence, record.facts["version"], record.actor, record.at) for record in log.records()]
    assert found == [(1, 1, "mara", NOON), (2, 2, "mara", NOON), (3, 3, "mara", NOON)]
    assert log.verify() == 3


def test_records_of_one_kind_and_model_are_selected(log: AuditLog) -> None:
    log.append("approval", actor="ed", at=NOON, facts={"model": "delay"})
    log.append("champion", actor="ed", at=NOON, facts={"model": "delay"})
    assert [record.sequence for record in log.records("approval")] == [4]
    assert [record.sequence for record in log.records("champion", "delay")] == [5]
    assert [record.sequence for record in log.records(model="delay")] == [4, 5]
    assert log.models("champion") == ["delay", "risk"]
    assert [record.sequence for record in log.newest_first("champion")] == [5, 3, 2, 1]
    latest = log.latest("champion", "risk")
    assert latest is not None
    assert latest.sequence == 3
    assert log.latest("champion", "no such model") is None


def test_record_is_stored_with_the_digest_of_its_canonical_json(log: AuditLog) -> None:
    # The digest of a record never changes, so it is computed here from the text that is hashed.
    first = log.record(1)
    hashed = (
        b'{"actor":"mara","at":"2013-07-01T12:00:00+00:00","facts":{"model":"risk","version":1},'
        b'"kind":"champion","previous":"' + GENESIS.encode() + b'","sequence":1}'
    )
    assert canonical_json(json.loads(hashed)) == hashed
    assert first.digest == value_digest(json.loads(hashed))
    assert log.record(2).previous == first.digest
    assert log.head() == AuditHead(3, log.record(3).digest)


@pytest.mark.parametrize("statement", ["UPDATE audit_records SET actor = 'eve'", "DELETE FROM audit_records"])
def test_database_refuses_to_change_or_remove_records(log: AuditLog, statement: str) -> None:
    with pytest.raises(StateStoreError, match="append-only"), log.state.write() as connection:
        connection.execute(sa.text(statement))
    assert log.verify() == 3


def test_database_refuses_to_replace_a_record(log: AuditLog) -> None:
    verb = "INSERT OR REPLACE" if log.state.path else "INSERT"
    statement = sa.text(f"{verb} INTO audit_records SELECT * FROM audit_records WHERE sequence = 2")
    with pytest.raises(StateStoreError, match=r"append-only|duplicate key"), log.state.write() as connection:
        connection.execute(statement)


@pytest.mark.parametrize("statement", ["UPDATE audit_head SET sequence = 2", "DELETE FROM audit_head"])
def test_database_moves_the_head_forward_only(log: AuditLog, statement: str) -> None:
    refused = pytest.raises(StateStoreError, match=r"forward only|cannot be removed|append-only")
    with refused, log.state.write() as connection:
        connection.execute(sa.text(statement))
    assert log.verify() == 3


def test_changed_record_is_named(log: AuditLog) -> None:
    tamper(log, replaced(2, {"facts": '{"model":"risk","version":9}'}))
    with pytest.raises(AuditError, match="record 2: expected content with the digest"):
        log.verify()
    with pytest.raises(AuditError, match="record 2: expected content with the digest"):
        log.records("champion", "risk")


def test_changed_record_with_a_new_digest_breaks_the_one_after_it(log: AuditLog) -> None:
    tamper(log, replaced(2, forged_row(log, 2, facts={"model": "risk", "version": 9})))
    with pytest.raises(AuditError, match="record 3: expected record 3 after"):
        log.verify()


def test_last_record_with_a_new_digest_is_detected_by_the_next_append(log: AuditLog) -> None:
    tamper(log, replaced(3, forged_row(log, 3, facts={"model": "risk", "version": 9})))
    with pytest.raises(AuditError, match=r"record 3: expected the digest .* as the head says"):
        log.verify()
    with pytest.raises(AuditError, match=r"record 3: expected record 3 with the digest .* as the head says"):
        log.append("champion", actor="mara", at=NOON, facts={})


def test_removed_record_is_named(log: AuditLog) -> None:
    tamper(log, audit_records.delete().where(audit_records.c.sequence == 2))
    with pytest.raises(AuditError, match=r"record 2: expected record 2 after .* found record 3"):
        log.verify()


def test_removed_last_record_is_detected(log: AuditLog) -> None:
    tamper(log, audit_records.delete().where(audit_records.c.sequence == 3))
    with pytest.raises(AuditError, match="record 3: expected 3 records, as the head says, found 2"):
        log.verify()
    with pytest.raises(AuditError, match="record 3: expected record 3 with the digest"):
        log.append("champion", actor="mara", at=NOON, facts={})


def test_removed_head_is_detected(log: AuditLog) -> None:
    tamper(log, audit_head.delete())
    with pytest.raises(AuditError, match="expected a head row, found none: it was removed"):
        log.verify()
    with pytest.raises(AuditError, match="expected a head row"):
        log.append("champion", actor="mara", at=NOON, facts={})


def test_record_that_is_hidden_from_the_index_is_detected(log: AuditLog) -> None:
    tamper(log, replaced(3, {"model": "other"}))
    with pytest.raises(AuditError, match="record 3: expected the model 'risk' of its facts, found 'other'"):
        log.verify()


def test_rewritten_log_differs_from_its_anchor(log: AuditLog) -> None:
    anchor = log.head()
    first = forged_row(log, 1, actor="eve")
    second = forged_row(log, 2, previous=first["digest"])
    third = forged_row(log, 3, previous=second["digest"])
    rewritten = [replaced(number, values) for number, values in enumerate([first, second, third], start=1)]
    log.require_anchor(anchor, "audit_head.json")
    tamper(log, *rewritten, audit_head.update().values(digest=third["digest"]))
    assert log.verify() == 3
    with pytest.raises(AuditError, match=r"record 3: expected the digest .* of the anchor audit_head\.json"):
        log.require_anchor(anchor, "audit_head.json")
    with pytest.raises(AuditError, match=r"record 7: expected the digest .* found no record"):
        log.require_anchor(AuditHead(7, "f" * 64), "audit_head.json")


def test_broken_log_accepts_no_record(log: AuditLog) -> None:
    tamper(log, replaced(3, {"actor": "eve"}))
    with pytest.raises(AuditError, match="record 3"):
        log.append("champion", actor="mara", at=NOON, facts={})
    with log.state.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(audit_records)) == 3


def test_append_reads_the_last_record_only(log: AuditLog) -> None:
    # A change in the middle is found by `verify`, and an append costs the same however long the log is.
    tamper(log, replaced(1, {"actor": "eve"}))
    assert log.append("champion", actor="mara", at=NOON, facts={}).sequence == 4


def test_record_of_a_failed_transaction_is_not_kept(log: AuditLog) -> None:
    def fail_after_append() -> None:
        with log.state.write():
            log.append("champion", actor="mara", at=NOON, facts={})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_after_append()
    assert log.verify() == 3


WRITER = """
    import datetime, sys
    from pathlib import Path
    from ml_platform.registry.audit import AuditLog
    from ml_platform.state.store import StateStore
    place = sys.argv[1]
    log = AuditLog(StateStore(url=place) if "://" in place else StateStore(path=Path(place)))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(40):
        log.append("champion", actor="mara", at=datetime.datetime.now(datetime.UTC), facts={"number": number})
"""


def writer(state: StateStore) -> "subprocess.Popen[str]":
    place = state.url or str(state.path)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_writers_and_readers_in_several_processes_do_not_disturb_each_other(any_state: StateStore) -> None:
    log = AuditLog(any_state)
    writers = [writer(any_state) for _ in range(2)]
    for each in writers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in writers:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    reads = 0
    while any(each.poll() is None for each in writers):
        log.verify()
        reads += 1
    errors = [each.communicate()[1] for each in writers]
    assert errors == ["", ""]
    assert reads > 5
    assert [record.sequence for record in log.records()] == list(range(1, 81))
    assert log.verify() == 80


def test_full_disk_rejects_the_record_and_keeps_the_log(state_store: StateStore) -> None:
    log = AuditLog(state_store)
    log.append("champion", actor="mara", at=NOON, facts={})
    with state_store.write() as connection:
        pages = connection.scalar(sa.text("PRAGMA page_count"))
        connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StateStoreError, match="space for one more record, found database or disk is full"):
        log.append("champion", actor="mara", at=NOON, facts={"reason": "x" * 100_000})
    assert log.verify() == 1


# The log of the releases up to 0.1.0: JSON lines, and a head file beside it.


def old_log(folder: Path, facts: list[dict[str, object]]) -> Path:
    """Write a log of these releases, from the description of its format."""
    path, previous, lines = folder / "audit.jsonl", GENESIS, []
    for number, each in enumerate(facts, start=1):
        content = {
            "sequence": number,
            "at": f"2013-07-0{number}T12:00:00+02:00",
            "kind": "champion",
            "actor": "mära",
            "facts": each,
            "previous": previous,
        }
        previous = value_digest(content)
        lines.append(canonical_json({**content, "digest": previous}) + b"\n")
    path.write_bytes(b"".join(lines))
    path.with_name("audit.jsonl.head").write_text(json.dumps({"sequence": len(facts), "digest": previous}))
    return path


FACTS: list[dict[str, object]] = [
    {"model": "risk", "version": 1, "number": 0.1},
    {"z": None, "a": [1e300, -0.0, "ö"]},
    {},
]


def test_log_of_an_earlier_release_is_imported_byte_for_byte(any_state: StateStore, tmp_path: Path) -> None:
    path, log = old_log(tmp_path, FACTS), AuditLog(any_state)
    assert log.import_jsonl(path) == 3
    assert b"".join(log.export()) == path.read_bytes()
    assert log.verify() == 3
    assert log.import_jsonl(path) == 0  # a killed upgrade starts again
    assert log.append("champion", actor="ed", at=NOON, facts={}).sequence == 4


def test_imported_log_may_end_beyond_its_head_or_in_an_incomplete_line(any_state: StateStore, tmp_path: Path) -> None:
    path = old_log(tmp_path, FACTS)
    head = {"sequence": 2, "digest": json.loads(path.read_bytes().splitlines()[1])["digest"]}
    path.with_name("audit.jsonl.head").write_text(json.dumps(head))
    with path.open("ab") as file:
        file.write(b'{"sequence":4,"ki')
    assert AuditLog(any_state).import_jsonl(path) == 3


def test_imported_last_record_without_its_newline_is_kept(any_state: StateStore, tmp_path: Path) -> None:
    path = old_log(tmp_path, FACTS)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert AuditLog(any_state).import_jsonl(path) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0].replace(b'"version":1', b'"version":9'), *lines[1:]], "record 1: expected content"),
        (lambda lines: [lines[0], lines[2]], "record 2: expected record 2 after"),
        (lambda lines: lines[:2], "record 3: expected 3 records, as in its head file, found only 2"),
        (lambda lines: [b"{}\n", *lines[1:]], "record 1: expected a readable record, found KeyError"),
        (lambda lines: [lines[0], b"\n", *lines[1:]], "record 2: expected a readable record"),
    ],
    ids=["changed", "removed", "truncated", "empty", "blank"],
)
def test_broken_log_of_an_earlier_release_is_not_imported(
    any_state: StateStore, tmp_path: Path, change: object, message: str
) -> None:
    path = old_log(tmp_path, FACTS)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))  # type: ignore[operator]
    with pytest.raises(AuditError, match=message):
        AuditLog(any_state).import_jsonl(path)
    assert AuditLog(any_state).records() == []


def test_last_imported_record_with_a_new_digest_is_detected(any_state: StateStore, tmp_path: Path) -> None:
    path = old_log(tmp_path, FACTS)
    head = path.with_name("audit.jsonl.head").read_text()
    old_log(tmp_path, [*FACTS[:2], {"forged": True}])
    path.with_name("audit.jsonl.head").write_text(head)
    with pytest.raises(AuditError, match=r"record 3: expected the digest .* as in its head file"):
        AuditLog(any_state).import_jsonl(path)


def test_log_with_other_records_is_not_replaced_by_an_import(log: AuditLog, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="record 1: expected the imported record"):
        log.import_jsonl(old_log(tmp_path, FACTS))
    assert log.verify() == 3


def test_copy_beside_the_store_follows_each_commit_and_catches_up(tmp_path: Path) -> None:
    log = AuditLog(StateStore.in_folder(tmp_path))
    assert log.copy is not None
    log.append("approval", actor="ada", at=NOON, facts={"model": "late"})
    with contextlib.suppress(KeyboardInterrupt), log.state.write():
        log.append("approval", actor="eve", at=NOON, facts={"model": "late"})
        raise KeyboardInterrupt
    first = log.copy.read_bytes()
    # A killed writer: the second record is missing in the copy, and its line is cut.
    log.append("approval", actor="bob", at=NOON, facts={"model": "late"})
    log.copy.write_bytes(first + b'{"actor":"bo')
    log.append("approval", actor="cat", at=NOON, facts={"model": "late"})

    assert log.copy.read_bytes() == b"".join(log.export())
    other = AuditLog(StateStore.in_folder(tmp_path / "other"))
    assert other.import_jsonl(log.copy) == 3
    assert other.head() == log.head()


def test_records_follow_a_renamed_model_and_its_old_name_may_be_used_again(state_store: StateStore) -> None:
    log = AuditLog(state_store)
    for number, (kind, facts) in enumerate(
        (
            ("champion", {"model": "a"}),
            (MODEL_RENAMED, {"model": "b", "renamed_from": "a"}),
            ("champion", {"model": "a"}),  # another model
            ("champion", {"model": "b"}),
            (MODEL_RENAMED, {"model": "c", "renamed_from": "b"}),
            ("champion", {"model": "c"}),
            (MODEL_RENAMED, {"model": "b", "renamed_from": "c"}),
            ("champion", {"model": "b"}),
        )
    ):
        log.append(kind, actor="ada", at=datetime(2024, 1, 1 + number, tzinfo=UTC), facts=facts)

    of = {name: [each.sequence for each in log.records("champion", name)] for name in "abcd"}
    assert of == {"a": [3], "b": [1, 4, 6, 8], "c": [], "d": []}
    assert [each.sequence for each in log.newest_first(model="b")] == [8, 7, 6, 5, 4, 2, 1]
    assert {name: log.former_names(name) for name in "abcd"} == {"a": [], "b": ["c", "a"], "c": [], "d": []}
    assert log.verify() == 8
