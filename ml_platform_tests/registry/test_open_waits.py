"""The cursor of the open waits: a look reads only newer records, and finds what reading the whole log finds."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ml_platform.registry.approvals import APPROVAL_KIND, approve, reject
from ml_platform.registry.audit import MODEL_RENAMED, AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, RETIRE
from ml_platform.registry.open_waits import WAIT_ENDED_KIND, WAITING_AREA, read_open_waits
from ml_platform.registry.verdict_record import VERDICT_KIND
from ml_platform.registry.waiting import end_waits, waiting_candidates
from ml_platform.state.cursors import delete_cursors, read_cursor, write_cursor
from ml_platform.state.store import StateStore
from ml_platform_tests.registry.test_waiting import CANDIDATE, CHAMPION, OTHER, change_champion, judge

AT = datetime(2013, 7, 1, tzinfo=UTC)
CURSOR = f"{WAITING_AREA}/late"

Found = list[tuple[str, str | None]]
"""Evidence digest of each candidate on HOLD, and the action that ends its wait, the latest verdict first."""


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    """Return the log of a home whose model 'late' has a champion."""
    log = AuditLog(StateStore.in_folder(tmp_path))
    change_champion(log, CHAMPION)
    return log


def on_hold(audit: AuditLog) -> Found:
    """Return what the whole log says, read from its start without a cursor."""
    records = audit.records(model="late")
    champions = [each for each in records if each.kind == CHAMPION_KIND]
    since = champions[-2].sequence if len(champions) > 1 else 0
    last = champions[-1].facts if champions else {"action": RETIRE}
    champion = None if last["action"] == RETIRE else last["content_digest"]
    recent = [each for each in records if each.sequence > since]
    over = {each.facts["verdict"] for each in recent if each.kind == WAIT_ENDED_KIND}
    decisions = {
        (each.facts["evidence"], each.actor.casefold()): each.facts["word"]
        for each in recent
        if each.kind == APPROVAL_KIND
    }
    rejected = {evidence for (evidence, _), decision in decisions.items() if decision == "reject"}
    verdicts = [each.facts for each in recent if each.kind == VERDICT_KIND]
    found: Found = []
    for place, facts in enumerate(verdicts):
        later = [each for each in verdicts[place + 1 :] if each["partition"] == facts["partition"]]
        same = [each for each in later if all(each[name] == facts[name] for name in ("candidate", "champion"))]
        if same or facts["decision"] != "HOLD" or facts["digest"] in over or facts["candidate"] == champion:
            continue
        if facts["champion"] != champion:
            found.append((facts["evidence"], "superseded"))
        elif later:
            found.append((facts["evidence"], "replaced"))
        elif facts["evidence"] in rejected:
            found.append((facts["evidence"], "rejected"))
        else:
            found.append((facts["evidence"], None))
    return found[::-1]


@contextmanager
def counted_steps(state: StateStore, *, writes: bool) -> Iterator[list[None]]:
    """Count the steps that SQLite takes for the queries of the body, which joins one transaction."""
    steps: list[None] = []

    def count() -> int:
        steps.append(None)
        return 0

    with state.write() if writes else state.read() as connection:
        database = connection.connection.driver_connection
        assert database is not None
        database.set_progress_handler(count, 1)
        try:
            yield steps
        finally:
            database.set_progress_handler(None, 1)


def look_steps(audit: AuditLog, *, writes: bool) -> int:
    """Return the steps of one look at the waiting candidates, as the sensor takes it."""
    with counted_steps(audit.state, writes=writes) as steps:
        end_waits(audit, "late", 99, at=AT)
    return len(steps)


def judge_often(audit: AuditLog, count: int) -> None:
    """Record ``count`` verdicts of HOLD on one candidate, each after a further window."""
    with audit.state.write():
        for number in range(count):
            evidence = f"evidence {number} of {count}"
            record_look(audit, {"decision": "HOLD", "candidate": CANDIDATE, "evidence": evidence, "digest": evidence})


def record_look(audit: AuditLog, values: dict[str, Any]) -> None:
    """Record a verdict as the evaluation does, without its metrics and gates."""
    look = {"number": 1, "windows": ["2013-04"], "until": "2013-04-28T00:00:00+00:00", "pooled_rows": 100}
    facts = {"model": "late", "partition": "2013-04", "champion": CHAMPION, "labels_needed": 150, "look": look}
    audit.append(VERDICT_KIND, actor="gates", at=AT, facts=facts | values)


def test_look_costs_the_same_however_many_verdicts_are_old(audit: AuditLog) -> None:
    def costs(verdicts: int) -> tuple[int, int, int]:
        """Return the steps of the first look, of one without news, and of one after a further verdict."""
        judge_often(audit, verdicts)
        first, idle = look_steps(audit, writes=True), look_steps(audit, writes=False)
        judge_often(audit, 1)
        return first, idle, look_steps(audit, writes=True)

    first_of_few, *few = costs(10)
    first_of_many, *many = costs(1_000)
    assert many == few
    assert first_of_many > 20 * first_of_few  # the counter counts


def test_look_without_news_writes_nothing(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    first = end_waits(audit, "late", 6, at=AT)
    with audit.state.read():  # a write transaction cannot begin inside a read transaction
        assert end_waits(audit, "late", 6, at=AT) == first
    assert [each.candidate for each in first.waiting] == [CANDIDATE]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["HOLD", "HOLD", "REJECT", "champion", "retired", "reject", "approve", "look"]),
        st.sampled_from([CANDIDATE, OTHER]),
        st.sampled_from(["2013-04", "2013-05"]),
    ),
    max_size=25,
)


class RollBackError(Exception):
    """Ends a transaction without its records."""


APRIL = "2013-04"
ROLLED_BACK = [("champion", OTHER), ("HOLD", CANDIDATE), ("look", OTHER), ("champion", CANDIDATE), ("champion", OTHER)]


@given(EVENTS)
@example([(event, candidate, APRIL) for event, candidate in ROLLED_BACK])
@example([(event, CANDIDATE, APRIL) for event in ("HOLD", "reject", "approve", "look", "reject", "look")])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_looks_between_records_find_what_the_whole_log_says(
    audit: AuditLog, events: list[tuple[str, str, str]]
) -> None:
    with suppress(RollBackError), audit.state.write():  # each list of events begins with the same log
        for number, (event, candidate, partition) in enumerate(events):
            _record(audit, event, candidate, partition, number)
            expected = on_hold(audit)
            waiting = [evidence for evidence, end in expected if end is None]
            evidence = {each.digest: each.evidence for each in read_open_waits(audit, "late").holds}
            assert [evidence[each.verdict] for each in waiting_candidates(audit, "late")] == waiting
            if event == "look":
                waits = end_waits(audit, "late", 99, at=AT)
                ended = [(evidence[each.waiting.verdict], each.action) for each in waits.ended]
                assert ended == [each for each in expected if each[1] is not None]
                assert [evidence[each.verdict] for each in waits.waiting] == waiting
        raise RollBackError


def _record(audit: AuditLog, event: str, candidate: str, partition: str, number: int) -> None:
    evidence = f"evidence of {candidate[0]} in {partition}"
    if event in ("HOLD", "REJECT"):
        current = [each.facts for each in audit.records(CHAMPION_KIND, "late")][-1:]
        champion = None if not current or current[0]["action"] == RETIRE else current[0]["content_digest"]
        values = {"candidate": candidate, "champion": champion, "evidence": evidence, "digest": f"verdict {number}"}
        record_look(audit, {"partition": partition, "decision": event, **values})
    elif event == "champion":
        change_champion(audit, candidate)
    elif event == "retired":
        change_champion(audit, candidate, action=RETIRE)
    elif event in ("reject", "approve"):
        decide = reject if event == "reject" else approve
        decide(audit, model="late", version=1, evidence=evidence, by="Ada", reason="seen", at=AT)


def test_home_of_an_earlier_release_gets_the_cursor_at_its_first_look(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    judge(audit, "HOLD", ["2013-05"], candidate=OTHER)
    expected = end_waits(audit, "late", 6, at=AT)
    delete_cursors(audit.state, [CURSOR])
    assert waiting_candidates(audit, "late", 6) == expected.waiting
    assert read_cursor(audit.state, CURSOR) is None  # a reader stores nothing
    assert end_waits(audit, "late", 6, at=AT) == expected
    head = audit.head()
    assert (read_cursor(audit.state, CURSOR)["sequence"], len(expected.waiting)) == (head.sequence, 2)


@pytest.mark.parametrize("changed", [{"digest": "0" * 64}, {"sequence": 999}, {"format": 1}, {"format": 3}])
def test_cursor_that_does_not_match_the_log_is_filled_again(
    audit: AuditLog, changed: dict[Literal["digest", "sequence", "format"], Any]
) -> None:
    """The log was restored from a copy, or another release wrote the cursor."""
    judge(audit, "HOLD")
    expected = end_waits(audit, "late", 6, at=AT)
    stored = read_cursor(audit.state, CURSOR)
    write_cursor(audit.state, CURSOR, stored | {"holds": []} | changed)
    assert end_waits(audit, "late", 6, at=AT) == expected
    assert read_cursor(audit.state, CURSOR) == stored


def test_waiting_candidate_of_a_renamed_model_waits_under_the_new_name(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    (before,) = end_waits(audit, "late", 6, at=AT).waiting
    audit.append(MODEL_RENAMED, actor="ada", at=AT, facts={"model": "tardy", "renamed_from": "late", "reason": "named"})
    (after,) = end_waits(audit, "tardy", 6, at=AT).waiting
    assert (after.model, after.verdict) == ("tardy", before.verdict)
    assert end_waits(audit, "late", 6, at=AT).waiting == []
