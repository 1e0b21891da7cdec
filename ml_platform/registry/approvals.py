"""Approvals and rejections of a version by people, each bound to the digest of the evidence that was inspected.

This module decides how many approvals a version needs, when an approval expires and what makes it void.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError
from ml_platform.registry.audit import AuditLog, AuditRecord

APPROVAL_KIND = "approval"
DECISION_KEY = "word"
"""Key of the decision (approve or reject) in an approval record; stored records are never renamed."""


class ApprovalError(PlatformError):
    """Raised for a decision without a name or a reason, or on evidence that is not the latest."""


class ApprovalSettings(Settings):
    """Approvals that a candidate needs, besides passing its gates, to become champion."""

    mode: Literal["auto", "manual"] = Field(
        default="auto", description="auto promotes on the verdict alone; manual also needs approvals."
    )
    people: int = Field(default=1, ge=1, le=5, description="Number of different people who must approve.")
    expires_hours: float = Field(default=72.0, gt=0, description="Time after which an approval expires (hours).")


@dataclass(frozen=True)
class ApprovalState:
    """Whether a version may be promoted now, the approvers, and the reason."""

    approved: bool
    approved_by: tuple[str, ...]
    reason: str
    rejected: bool = False


def approve(
    audit: AuditLog, *, model: str, version: int, evidence: str, by: str, reason: str, at: datetime
) -> AuditRecord:
    """Record that ``by`` approves the version on the evidence with the digest ``evidence``."""
    return _append_decision(
        audit, "approve", model=model, version=version, evidence=evidence, by=by, reason=reason, at=at
    )


def reject(
    audit: AuditLog, *, model: str, version: int, evidence: str, by: str, reason: str, at: datetime
) -> AuditRecord:
    """Record that ``by`` rejects the version on this evidence; only the same person can lift it, by an approval."""
    return _append_decision(
        audit, "reject", model=model, version=version, evidence=evidence, by=by, reason=reason, at=at
    )


def approval_state(
    audit: AuditLog,
    settings: ApprovalSettings,
    *,
    model: str,
    version: int,
    evidence: str,
    at: datetime,
    since: datetime | None = None,
) -> ApprovalState:
    """Return whether the recorded approvals suffice at ``at`` for this version and this evidence.

    The latest decision of each person counts; names are compared without regard to case. An approval on other evidence
    is void, and an approval older than ``expires_hours`` has expired. One rejection outweighs all approvals, also when
    approval is automatic. Decisions at or before ``since`` are ignored.
    """
    decisions = [
        record
        for record in audit.records(APPROVAL_KIND, model)
        if record.facts["version"] == version and record.at <= at
        if since is None or record.at > since
    ]
    latest = _latest_decisions(record for record in decisions if record.facts["evidence"] == evidence)
    rejected = [record for record in latest if record.facts[DECISION_KEY] == "reject"]
    if rejected:
        rejection = rejected[0]
        reason = f"Rejected by {rejection.actor}: {rejection.facts['reason']}"
        return ApprovalState(False, (), reason, rejected=True)
    if settings.mode == "auto":
        return ApprovalState(True, (), "Approval is automatic.")
    unexpired = [record for record in latest if at - record.at <= timedelta(hours=settings.expires_hours)]
    names = tuple(sorted(record.actor for record in unexpired))
    if len(unexpired) >= settings.people:
        return ApprovalState(True, names, f"Approved by {', '.join(names)}.")
    expired = len(latest) - len(unexpired)
    void = sum(record.facts["evidence"] != evidence for record in decisions)
    notes = [f"{expired} expired after {settings.expires_hours:g} h"] if expired else []
    notes += [f"{void} void because the evidence changed"] if void else []
    suffix = f" ({', '.join(notes)})" if notes else ""
    return ApprovalState(False, names, f"{len(unexpired)} of {settings.people} approvals{suffix}.")


def require_decider(subject: str, by: str, reason: str) -> None:
    """Raise :class:`ApprovalError` unless the decision has a name and a reason; the log records both."""
    if not by.strip() or not reason.strip():
        raise ApprovalError(
            subject,
            expected="a name and a reason",
            found=f"name '{by.strip()}', reason '{reason.strip()}'",
            fix="Give the name of the person who decides, and the reason.",
        )


def _append_decision(
    audit: AuditLog, decision: str, *, model: str, version: int, evidence: str, by: str, reason: str, at: datetime
) -> AuditRecord:
    require_decider(f"Approval of '{model}' version {version}", by, reason)
    facts = {"model": model, "version": version, "evidence": evidence, DECISION_KEY: decision, "reason": reason.strip()}
    return audit.append(APPROVAL_KIND, actor=by.strip(), at=at, facts=facts)


def _latest_decisions(records: Iterable[AuditRecord]) -> list[AuditRecord]:
    return list({record.actor.casefold(): record for record in records}.values())
