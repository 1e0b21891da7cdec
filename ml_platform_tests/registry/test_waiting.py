"""Candidates on HOLD wait until the records end their wait, and each end is recorded once."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.look import Look
from ml_platform.evaluation.verdict import Verdict, build_verdict
from ml_platform.registry.approvals import approve, reject
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import PROMOTE, RETIRE, current_champion
from ml_platform.registry.open_waits import MAXIMUM_SETTLED, WAIT_ENDED_KIND
from ml_platform.registry.promotion import append_champion_record
from ml_platform.registry.verdict_record import judged_partitions, record_verdict
from ml_platform.registry.waiting import end_waits, waiting_candidates
from ml_platform.state.store import StateStore

AT = datetime(2013, 7, 1, tzinfo=UTC)
CHAMPION, CANDIDATE, OTHER = "c" * 64, "a" * 64, "b" * 64
GATES = {
    "PROMOTE": GateResult(name="paired", passed=True, numbers={}, reason="better"),
    "HOLD": GateResult(name="paired", passed=False, numbers={}, reason="near", undecided=True, labels_needed=150),
    "REJECT": GateResult(name="paired", passed=False, numbers={}, reason="worse"),
}


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    """Return the log of a home whose model 'late' has a champion."""
    log = AuditLog(StateStore.in_folder(tmp_path))
    change_champion(log, CHAMPION)
    return log


def change_champion(audit: AuditLog, content: str, action: str = PROMOTE) -> None:
    before = current_champion(audit, "late")
    facts = {
        "model": "late",
        "version": 1 if before is None else before.version + 1,
        "previous_version": None,
        "action": action,
        "reason": "gates",
        "content_digest": content,
        "partition": "2013-03",
        "manifest": {},
        "verdict": None,
        "approved_by": [],
    }
    append_champion_record(audit, facts, before, decided_by="gates", at=AT)


def judge(
    audit: AuditLog,
    decision: Literal["PROMOTE", "HOLD", "REJECT"],
    windows: Sequence[str] = ("2013-04",),
    candidate: str = CANDIDATE,
    champion: str | None = CHAMPION,
) -> Verdict:
    looks = [
        Look(
            number=number,
            window=window,
            until=f"{window}-28T00:00:00+00:00",
            rows=100,
            pooled_rows=100 * number,
            blocks=10 * number,
            cases=20,
            level=0.025,
            spent=0.05 / 2**number,
            estimates={},
        )
        for number, window in enumerate(windows, start=1)
    ]
    verdict = build_verdict(
        model="late",
        partition=windows[0],
        candidate=candidate,
        champion=champion,
        gates=[GATES[decision]],
        evidence=f"evidence of {candidate[0]} {len(windows)}",
        at=AT,
        looks=looks,
        maximum_looks=6,
    )
    record_verdict(audit, verdict.model_dump(), {}, actor="gates", at=AT)
    return verdict


def ends(audit: AuditLog, maximum_looks: int = 6) -> list[str]:
    """End the waits twice and return the recorded actions: the second time must record nothing."""
    waits = end_waits(audit, "late", maximum_looks, at=AT)
    found = [each.action for each in waits.ended]
    assert waits.waiting == waiting_candidates(audit, "late", maximum_looks)
    assert end_waits(audit, "late", maximum_looks, at=AT) == replace(waits, ended=[])
    assert [record.facts["action"] for record in audit.records(WAIT_ENDED_KIND, "late")][-len(found) or 99 :] == found
    return found


def test_candidate_on_hold_waits_with_all_its_windows(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    verdict = judge(audit, "HOLD", ["2013-04", "2013-05"])
    (waiting,) = waiting_candidates(audit, "late")
    assert (waiting.partition, waiting.look, waiting.windows) == ("2013-04", 2, ("2013-04", "2013-05"))
    assert (waiting.rows, waiting.labels_needed, waiting.verdict) == (200, 150, verdict.digest)
    assert verdict.reasons[-1] == (
        "Look 2 of at most 6: it is judged again when the next window closes. About 2 more windows would decide."
    )
    assert judged_partitions(audit.state, "late") == {"2013-04": verdict.digest}
    assert ends(audit) == []


def test_windows_before_the_last_look_are_not_read(audit: AuditLog) -> None:
    """SQLite counts its steps: a look at the windows after the last one takes as many however many are before it."""

    def steps(after: str | None) -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        with audit.state.read() as connection:
            database = connection.connection.driver_connection
            assert database is not None
            database.set_progress_handler(count, 1)
            try:
                found = judged_partitions(audit.state, "late", after)
            finally:
                database.set_progress_handler(None, 1)
        assert set(found) >= {"2013-05", "2013-06"}
        return counted

    judge(audit, "REJECT", ["2013-05"])
    latest = judge(audit, "REJECT", ["2013-06"])
    assert judged_partitions(audit.state, "late", "2013-05") == {"2013-06": latest.digest}
    # The first earlier window costs one step, which passes it in the index.
    judge(audit, "REJECT", ["1992-01"])
    few, few_of_all = steps("2013-04"), steps(None)
    for year in range(1993, 2013):
        judge(audit, "REJECT", [f"{year}-01"])
    many, many_of_all = steps("2013-04"), steps(None)
    assert many == few
    assert many_of_all > 2 * few_of_all


@pytest.mark.parametrize("decision", ["PROMOTE", "REJECT"])
def test_decided_candidate_waits_no_longer(audit: AuditLog, decision: Literal["PROMOTE", "REJECT"]) -> None:
    judge(audit, "HOLD")
    judge(audit, decision, ["2013-04", "2013-05"])
    assert waiting_candidates(audit, "late") == []
    assert ends(audit) == []


def test_another_champion_ends_the_wait_as_superseded(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    change_champion(audit, OTHER)
    assert waiting_candidates(audit, "late") == []
    assert ends(audit) == ["superseded"]
    record = audit.latest(WAIT_ENDED_KIND, "late")
    assert record is not None
    assert (record.facts["candidate"], record.facts["look"]) == (CANDIDATE, 1)
    assert record.facts["reason"] == "The champion is now version 2 of 2013-03 (promote)."


def test_verdict_against_an_earlier_champion_that_was_recorded_late_does_not_wait(audit: AuditLog) -> None:
    change_champion(audit, OTHER)
    judge(audit, "HOLD")
    assert waiting_candidates(audit, "late") == []
    assert ends(audit) == ["superseded"]


def test_retired_champion_ends_the_wait(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    change_champion(audit, CHAMPION, action=RETIRE)
    assert ends(audit) == ["superseded"]


def test_candidate_that_became_champion_has_no_ended_wait(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    change_champion(audit, CANDIDATE)
    assert waiting_candidates(audit, "late") == []
    assert ends(audit) == []


def test_candidate_of_a_model_without_champion_waits(tmp_path: Path) -> None:
    audit = AuditLog(StateStore.in_folder(tmp_path))
    judge(audit, "HOLD", champion=None)
    assert [each.champion for each in waiting_candidates(audit, "late")] == [None]
    change_champion(audit, OTHER)
    assert ends(audit) == ["superseded"]


def test_another_candidate_of_the_partition_replaces_the_waiting_one(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    judge(audit, "HOLD", candidate=OTHER)
    assert [each.candidate for each in waiting_candidates(audit, "late")] == [OTHER]
    assert ends(audit) == ["replaced"]


def test_candidates_of_two_partitions_wait_beside_each_other(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    judge(audit, "HOLD", ["2013-05"], candidate=OTHER)
    assert [each.partition for each in waiting_candidates(audit, "late")] == ["2013-05", "2013-04"]
    assert ends(audit) == []


def test_rejection_by_a_person_ends_the_wait_unless_it_is_lifted(audit: AuditLog) -> None:
    verdict = judge(audit, "HOLD")
    decision = {"model": "late", "version": 2, "evidence": verdict.evidence, "by": "ada", "at": AT}
    reject(audit, reason="off at night", **decision)  # type: ignore[arg-type]
    approve(audit, reason="my mistake", **decision)  # type: ignore[arg-type]
    assert len(waiting_candidates(audit, "late")) == 1
    reject(audit, reason="off at night", **decision)  # type: ignore[arg-type]
    assert waiting_candidates(audit, "late") == []
    assert ends(audit) == ["rejected"]
    record = audit.latest(WAIT_ENDED_KIND)
    assert record is not None
    assert record.facts["reason"] == "Rejected by ada: off at night"


def test_wait_ends_after_the_last_look(audit: AuditLog) -> None:
    judge(audit, "HOLD", ["2013-04", "2013-05"])
    assert len(waiting_candidates(audit, "late", 3)) == 1
    assert waiting_candidates(audit, "late", 2) == []
    assert ends(audit, maximum_looks=2) == ["exhausted"]
    assert waiting_candidates(audit, "late") == []  # also if more looks are declared later


def test_verdict_without_looks_does_not_wait(audit: AuditLog, tmp_path: Path) -> None:
    """Verdicts of earlier releases, and of models without windows of time, have none."""
    verdict = judge(audit, "HOLD").model_copy(update={"looks": []})
    assert verdict.decision == "HOLD"
    (tmp_path / "other").mkdir()
    log = AuditLog(StateStore.in_folder(tmp_path / "other"))
    record_verdict(log, verdict.model_dump(), {}, actor="gates", at=AT)
    assert waiting_candidates(log, "late") == []


def corrected(audit: AuditLog, maximum_looks: int = 6) -> list[str]:
    return [each.verdict for each in end_waits(audit, "late", maximum_looks, at=AT).corrected]


def test_settled_candidate_is_due_when_a_window_that_settled_it_is_judged_afresh(audit: AuditLog) -> None:
    judge(audit, "HOLD")
    settled = judge(audit, "REJECT", ["2013-04", "2013-05"])
    assert corrected(audit) == []
    judge(audit, "HOLD", ["2013-06"], candidate=OTHER)  # another window
    judge(audit, "HOLD", ["2013-05", "2013-06"], candidate=OTHER)  # a later look changes no row of its own window
    assert corrected(audit) == []
    judge(audit, "HOLD", ["2013-05"], candidate=OTHER)
    assert corrected(audit) == [settled.digest]
    judge(audit, "PROMOTE", ["2013-04", "2013-05"])  # judged again
    assert corrected(audit) == []


def test_candidate_whose_last_look_did_not_decide_is_due_after_a_correction(audit: AuditLog) -> None:
    exhausted = judge(audit, "HOLD", ["2013-04", "2013-05"])
    assert ends(audit, 2) == ["exhausted"]
    judge(audit, "REJECT", ["2013-05"], candidate=OTHER)
    assert corrected(audit, 2) == [exhausted.digest]


@pytest.mark.parametrize("since", ["champion", "replaced", "rejected", "first look"])
def test_settled_candidate_is_not_due_after(since: str, audit: AuditLog) -> None:
    settled = judge(audit, "REJECT", ["2013-04"] if since == "first look" else ["2013-04", "2013-05"])
    if since == "champion":
        change_champion(audit, OTHER)
    elif since == "replaced":
        judge(audit, "HOLD", ["2013-04"], candidate=OTHER)
    elif since == "rejected":
        reject(audit, model="late", version=1, evidence=settled.evidence, by="Ada", reason="seen", at=AT)
    judge(audit, "HOLD", ["2013-05"], candidate=OTHER)
    assert corrected(audit) == []


def test_only_the_last_settled_candidates_are_kept(audit: AuditLog) -> None:
    names = [f"{number:064x}" for number in range(MAXIMUM_SETTLED + 2)]
    years = [f"{1990 + number}-01" for number in range(len(names))]
    for name, window in zip(names, years, strict=True):
        judge(audit, "REJECT", [window, "2020-01"], candidate=name)
    judge(audit, "HOLD", ["2020-01"], candidate=OTHER)
    assert len(corrected(audit)) == MAXIMUM_SETTLED
