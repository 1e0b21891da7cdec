"""Who said yes or no to a version, bound to the digest of the evidence they saw.

Apart from promotion, which only asks whether an approval stands: how many people it takes, when it lapses and what
voids it is decided here.
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
    """Raised when a decision comes without a name or a reason, or on other evidence than it names."""


class ApprovalSettings(Settings):
    """Who must agree before a candidate that passed its gates becomes champion."""

    mode: Literal["auto", "manual"] = Field(default="auto", description="'auto' promotes on the verdict alone.")
    people: int = Field(default=1, ge=1, le=5, description="How many different people must approve.")
    expires_hours: float = Field(default=72.0, gt=0, description="How long an approval holds, hours.")


@dataclass(frozen=True)
class ApprovalState:
    """Whether a version may be promoted now, by whom, and why not."""

    approved: bool
    approved_by: tuple[str, ...]
    reason: str
    rejected: bool = False


def approve(
    audit: AuditLog, *, model: str, version: int, evidence: str, by: str, reason: str, at: datetime
) -> AuditRecord:
    """Record that ``by`` approves the version on the evidence with this digest."""
    return _append_decision(
        audit, "approve", model=model, version=version, evidence=evidence, by=by, reason=reason, at=at
    )


def reject(
    audit: AuditLog, *, model: str, version: int, evidence: str, by: str, reason: str, at: datetime
) -> AuditRecord:
    """Record that ``by`` rejects the version; it stays rejected on this evidence until the same person approves it."""
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
    """Return whether the approvals on record suffice at ``at`` for this version and this evidence.

    The last word of each person counts (names without regard to case). An approval on other evidence is void, one older
    than ``expires_hours`` has lapsed, and one rejection outweighs any number of approvals, automatic ones too. Nothing
    said at or before ``since`` counts.
    """
    decisions = [
        record
        for record in audit.records(APPROVAL_KIND)
        if record.facts["model"] == model and record.facts["version"] == version and record.at <= at
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
    notes = [f"{expired} lapsed after {settings.expires_hours:g} h"] if expired else []
    notes += [f"{void} void because the evidence changed"] if void else []
    suffix = f" ({', '.join(notes)})" if notes else ""
    return ApprovalState(False, names, f"{len(unexpired)} of {settings.people} approvals{suffix}.")


def require_decider(subject: str, by: str, reason: str) -> None:
    """Raise :class:`ApprovalError` unless somebody stands for the decision and says why: both go on record."""
    if not by.strip() or not reason.strip():
        raise ApprovalError(
            subject,
            expected="a name and a reason",
            found=f"name '{by.strip()}', reason '{reason.strip()}'",
            fix="Say who decides and why.",
        )


def _append_decision(
    audit: AuditLog, decision: str, *, model: str, version: int, evidence: str, by: str, reason: str, at: datetime
) -> AuditRecord:
    require_decider(f"Approval of '{model}' version {version}", by, reason)
    facts = {"model": model, "version": version, "evidence": evidence, DECISION_KEY: decision, "reason": reason.strip()}
    return audit.append(APPROVAL_KIND, actor=by.strip(), at=at, facts=facts)


def _latest_decisions(records: Iterable[AuditRecord]) -> list[AuditRecord]:
    return list({record.actor.casefold(): record for record in records}.values())
