"""An approval counts only for its version, its evidence and its period of validity."""

from datetime import UTC, datetime, timedelta

import pytest

from ml_platform.registry.approvals import (
    ApprovalError,
    ApprovalSettings,
    ApprovalState,
    approval_state,
    approve,
    reject,
)
from ml_platform.registry.audit import AuditLog
from ml_platform.state.store import StateStore

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
MANUAL = ApprovalSettings(mode="manual")


@pytest.fixture
def log(state_store: StateStore) -> AuditLog:
    return AuditLog(state_store)


def approve_version(
    log: AuditLog, by: str = "mara", evidence: str = "e1", version: int = 2, at: datetime = NOON
) -> None:
    approve(log, model="risk", version=version, evidence=evidence, by=by, reason="looks right", at=at)


def state(log: AuditLog, settings: ApprovalSettings = MANUAL, evidence: str = "e1", hours: float = 1) -> ApprovalState:
    at = NOON + timedelta(hours=hours)
    return approval_state(log, settings, model="risk", version=2, evidence=evidence, at=at)


def test_automatic_approval_needs_no_person(log: AuditLog) -> None:
    assert state(log, ApprovalSettings()).approved


def test_rejection_outweighs_automatic_approval(log: AuditLog) -> None:
    reject(log, model="risk", version=2, evidence="e1", by="mara", reason="slice JFK is off", at=NOON)
    assert not state(log, ApprovalSettings()).approved


def test_manual_approval_is_missing_until_a_person_approves(log: AuditLog) -> None:
    assert state(log) == ApprovalState(False, (), "0 of 1 approvals.")
    approve_version(log)
    assert state(log) == ApprovalState(True, ("mara",), "Approved by mara.")


def test_approval_of_another_version_does_not_count(log: AuditLog) -> None:
    approve_version(log, version=1)
    assert not state(log).approved


def test_approval_is_void_when_the_evidence_changes(log: AuditLog) -> None:
    approve_version(log)
    assert state(log, evidence="e2").reason == "0 of 1 approvals (1 void because the evidence changed)."


def test_approval_expires_after_its_hours(log: AuditLog) -> None:
    approve_version(log)
    day = ApprovalSettings(mode="manual", expires_hours=24)
    assert state(log, day, hours=24).approved
    assert state(log, day, hours=24.1).reason == "0 of 1 approvals (1 expired after 24 h)."


def test_two_approvals_must_come_from_two_people(log: AuditLog) -> None:
    two = ApprovalSettings(mode="manual", people=2)
    approve_version(log, by="mara")
    approve_version(log, by="Mara")
    assert state(log, two).reason == "1 of 2 approvals."
    approve_version(log, by="ed")
    assert state(log, two).approved_by == ("Mara", "ed")


def test_one_rejection_outweighs_approvals(log: AuditLog) -> None:
    approve_version(log, by="ed")
    reject(log, model="risk", version=2, evidence="e1", by="mara", reason="slice JFK is off", at=NOON)
    assert state(log) == ApprovalState(False, (), "Rejected by mara: slice JFK is off", rejected=True)


def test_latest_decision_of_a_person_counts(log: AuditLog) -> None:
    reject(log, model="risk", version=2, evidence="e1", by="mara", reason="slice JFK is off", at=NOON)
    approve_version(log, by="mara", at=NOON + timedelta(minutes=5))
    assert state(log).approved


def test_approval_does_not_count_before_its_time(log: AuditLog) -> None:
    approve_version(log, at=NOON + timedelta(hours=2))
    assert not state(log, hours=1).approved


def test_approval_without_a_reason_is_rejected(log: AuditLog) -> None:
    with pytest.raises(ApprovalError, match="a name and a reason, found name 'mara', reason ''"):
        approve(log, model="risk", version=2, evidence="e1", by="mara", reason="  ", at=NOON)
