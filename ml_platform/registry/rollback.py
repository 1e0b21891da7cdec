"""Rollback: make an earlier champion champion again, from the audit log alone.

It needs no MLflow, which may be slow or down when a rollback is urgent. The aliases there follow the log, see
:mod:`ml_platform.registry.pending_aliases`.
"""

from datetime import datetime

from ml_platform.errors import did_you_mean
from ml_platform.registry.approvals import ApprovalSettings, approval_state, require_decider
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import (
    CHAMPION_KIND,
    RETIRE,
    ROLL_BACK,
    ChampionRecord,
    champion_history,
    current_champion,
)
from ml_platform.registry.promotion import append_champion_record, rejection_error
from ml_platform.registry.verdict_record import PromotionError, evidence_about


def rollback_target(audit: AuditLog, model: str, at: datetime, to_version: int | None = None) -> ChampionRecord:
    """Return the record of the previous champion, or of the earlier champion ``to_version``; it changes nothing.

    Raises :class:`PromotionError` when there is no such champion, and
    :class:`~ml_platform.registry.promotion.VersionRejectedError` when a person has rejected it since.
    """
    history = champion_history(audit, model)
    records = [one for one in history if one.action != RETIRE]
    champion = None if not history or history[-1].action == RETIRE else history[-1]
    last = champion or (records[-1] if records else None)
    target = to_version or (last.previous_version if last else None)
    earlier = [one for one in records if one.version == target]
    if not earlier or (champion and target == champion.version):
        known = audit.models(CHAMPION_KIND)
        raise PromotionError(
            f"Rollback of '{model}'",
            expected="an earlier champion" if to_version is None else f"version {to_version} among earlier champions",
            found=f"champions {sorted({one.version for one in records})}, now {champion and champion.version}",
            fix=f"Promote a version with a verdict instead.{'' if history else did_you_mean(model, known)}",
        )
    _require_not_rejected(audit, earlier[-1], at)
    return earlier[-1]


def roll_back(
    audit: AuditLog,
    model: str,
    *,
    decided_by: str,
    reason: str,
    at: datetime,
    to_version: int | None = None,
) -> ChampionRecord:
    """Make the previous champion (or the earlier champion ``to_version``) champion again and return its record.

    It needs no new verdict, and joins the write transaction that is open. Raises the errors of
    :func:`rollback_target`, and :class:`~ml_platform.registry.approvals.ApprovalError` without a name and a reason.
    """
    require_decider(f"Rollback of '{model}'", decided_by, reason)
    with audit.state.write():
        target = rollback_target(audit, model, at, to_version)
        facts = {
            "model": model,
            "version": target.version,
            # The predecessor of the restored version, not the version rolled back.
            "previous_version": target.previous_version,
            "action": ROLL_BACK,
            "reason": reason,
            "content_digest": target.content_digest,
            "partition": target.partition,
            "manifest": dict(target.manifest),
            "verdict": target.verdict,
            "approved_by": list(target.approved_by),
        }
        return append_champion_record(audit, facts, current_champion(audit, model), decided_by=decided_by, at=at)


def _require_not_rejected(audit: AuditLog, target: ChampionRecord, at: datetime) -> None:
    evidence = evidence_about(audit, target.model, target.content_digest)
    if evidence is None:
        return  # a version without a verdict cannot have been rejected
    state = approval_state(
        audit, ApprovalSettings(), model=target.model, version=target.version, evidence=evidence, at=at
    )
    if state.rejected:
        subject = f"Rollback of '{target.model}' to version {target.version}"
        raise rejection_error(subject, "a version without a rejection", target.model, target.version, state)
