"""Changing the champion: only on a verified verdict and a standing approval, recorded before MLflow's aliases move.

Apart from the model registry because the audit log decides and the aliases follow: a crash between the two is mended by
`reconcile`.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_platform.registry.approvals import ApprovalSettings, ApprovalState, approval_state, reject, require_decider
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import (
    CHAMPION_KIND,
    PROMOTE,
    ROLL_BACK,
    ChampionRecord,
    champion_history,
    current_champion,
    read_champion_record,
    rolled_back_at,
)
from ml_platform.registry.models import CHALLENGER, CHAMPION, PREVIOUS, ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import PromotionError, latest_evidence_digest, load_verified_verdict

CHALLENGER_KIND = "challenger"


class ApprovalPendingError(PromotionError):
    """Raised when everything but a person's approval is there."""


class VersionRejectedError(PromotionError):
    """Raised when the gates let a version pass and a person does not."""


def promote(
    registry: ModelRegistry,
    audit: AuditLog,
    version: ModelVersion,
    *,
    verdict_path: Path,
    approval: ApprovalSettings,
    decided_by: str,
    reason: str,
    at: datetime,
) -> ChampionRecord:
    """Make ``version`` champion and return its record; the same promotion again changes nothing.

    The verdict is read back from ``verdict_path`` and verified: its digest, its place in the audit log, that it is
    about this version and says PROMOTE by gates that all passed, and that it compared with the champion of now. Then
    the approval must stand for its evidence. Raises :class:`PromotionError` for whichever fails first; where only
    the approval is missing it is an :class:`ApprovalPendingError`, and the version waits as challenger; where somebody
    rejected the version it is a :class:`VersionRejectedError`. A version that was rolled back comes back only by a
    person's later approval, whatever the settings say.
    """
    with audit.exclusive():
        reconcile(registry, audit, version.name)
        champion = current_champion(audit, version.name)
        if champion and champion.version == version.version:
            return champion
        verdict = load_verified_verdict(audit, version, verdict_path, champion)
        state = _approval_state(audit, approval, version, verdict.evidence, at)
        if state.rejected:
            subject = f"Promotion of '{version.name}' version {version.version}"
            raise _rejection_error(subject, "nobody who says no on this evidence", version, state)
        if not state.approved:
            set_challenger(registry, audit, version, by=decided_by, reason=state.reason, at=at)
            raise ApprovalPendingError(
                f"Promotion of '{version.name}' version {version.version}",
                expected="a standing approval",
                found=state.reason.rstrip("."),
                fix=f"Approve or reject it: ml-platform approve {version.name} {version.version}.",
            )
        return _set_champion(
            registry,
            audit,
            version,
            champion,
            action=PROMOTE,
            manifest=registry.manifest(version).model_dump(),
            verdict=verdict.digest,
            approved_by=state.approved_by,
            decided_by=decided_by,
            reason=reason,
            at=at,
        )


def set_challenger(
    registry: ModelRegistry, audit: AuditLog, version: ModelVersion, *, by: str, reason: str, at: datetime
) -> None:
    """Give ``version`` the alias challenger and record it; one that already carries it changes nothing."""
    challenger = registry.by_alias(version.name, CHALLENGER)
    if challenger and challenger.version == version.version:
        return
    facts = {"model": version.name, "version": version.version, "reason": reason}
    audit.append(CHALLENGER_KIND, actor=by, at=at, facts=facts)
    registry.set_alias(version.name, CHALLENGER, version.version)


def reject_version(
    registry: ModelRegistry, audit: AuditLog, version: ModelVersion, *, by: str, reason: str, at: datetime
) -> None:
    """Reject a version on the evidence of its newest verdict; as challenger it steps down.

    Raises :class:`PromotionError` for the champion of now: a rejection would not unseat it.
    """
    with audit.exclusive():
        champion = current_champion(audit, version.name)
        if champion and champion.version == version.version:
            raise PromotionError(
                f"Rejection of '{version.name}' version {version.version}",
                expected="a version that is not champion",
                found=f"the champion since {champion.since:%Y-%m-%d %H:%M} UTC",
                fix=f"Make the one before it champion again: ml-platform rollback {version.name}.",
            )
        evidence = latest_evidence_digest(audit, version)
        reject(audit, model=version.name, version=version.version, evidence=evidence, by=by, reason=reason, at=at)
        challenger = registry.by_alias(version.name, CHALLENGER)
        if challenger and challenger.version == version.version:
            facts = {"model": version.name, "version": None, "reason": reason}
            audit.append(CHALLENGER_KIND, actor=by, at=at, facts=facts)
            registry.delete_alias(version.name, CHALLENGER)


def roll_back(
    registry: ModelRegistry,
    audit: AuditLog,
    model: str,
    *,
    decided_by: str,
    reason: str,
    at: datetime,
    to_version: int | None = None,
) -> ChampionRecord:
    """Make the previous champion (or an earlier one, ``to_version``) champion again and return its record.

    Needs no new verdict: the version had one. Raises :class:`PromotionError` when there is no such champion,
    :class:`VersionRejectedError` when somebody has rejected it since, and
    :class:`~ml_platform.registry.approvals.ApprovalError` when nobody says who decides and why.
    """
    require_decider(f"Rollback of '{model}'", decided_by, reason)
    with audit.exclusive():
        reconcile(registry, audit, model)
        records = champion_history(audit, model)
        champion = records[-1] if records else None
        target = to_version or (champion.previous_version if champion else None)
        earlier = [one for one in records if one.version == target]
        if champion is None or target is None or not earlier or target == champion.version:
            raise PromotionError(
                f"Rollback of '{model}'",
                expected="an earlier champion"
                if to_version is None
                else f"version {to_version} among earlier champions",
                found=f"champions {sorted({one.version for one in records})}, now {champion and champion.version}",
                fix="Promote a version that has a verdict instead.",
            )
        record, version = earlier[-1], registry.version(model, target)
        _require_not_rejected(audit, version, at)
        return _set_champion(
            registry,
            audit,
            version,
            champion,
            action=ROLL_BACK,
            # As recorded: a rollback must not wait for a store of artifacts.
            manifest=record.manifest,
            verdict=record.verdict,
            approved_by=record.approved_by,
            decided_by=decided_by,
            reason=reason,
            at=at,
        )


def reconcile(registry: ModelRegistry, audit: AuditLog, model: str) -> bool:
    """Make MLflow's aliases say what the log says and return whether they had to change."""
    champion = current_champion(audit, model)
    if champion is None:
        return False
    changed = False
    for alias, desired in ((CHAMPION, champion.version), (PREVIOUS, champion.previous_version)):
        current = registry.by_alias(model, alias)
        if desired is None and current:
            registry.delete_alias(model, alias)
            changed = True
        elif desired is not None and (current is None or current.version != desired):
            registry.set_alias(model, alias, desired)
            changed = True
    challenger = registry.by_alias(model, CHALLENGER)
    if challenger and challenger.version == champion.version:
        registry.delete_alias(model, CHALLENGER)
        changed = True
    return changed


def _require_not_rejected(audit: AuditLog, version: ModelVersion, at: datetime) -> None:
    try:
        evidence = latest_evidence_digest(audit, version)
    except PromotionError:
        return  # judged by nobody, so rejected by nobody: a version of before there were verdicts
    state = approval_state(
        audit, ApprovalSettings(), model=version.name, version=version.version, evidence=evidence, at=at
    )
    if state.rejected:
        subject = f"Rollback of '{version.name}' to version {version.version}"
        raise _rejection_error(subject, "a version that nobody says no to", version, state)


def _rejection_error(subject: str, expected: str, version: ModelVersion, state: ApprovalState) -> VersionRejectedError:
    return VersionRejectedError(
        subject,
        expected=expected,
        found=state.reason.rstrip("."),
        fix=f"Whoever rejected it may approve it: ml-platform approve {version.name} {version.version}.",
    )


def _approval_state(
    audit: AuditLog, settings: ApprovalSettings, version: ModelVersion, evidence: str, at: datetime
) -> ApprovalState:
    rolled_back = rolled_back_at(audit, version.name, version.version)
    if rolled_back:
        # Its old verdict still says PROMOTE: without this, the next run would undo the rollback.
        settings = settings.model_copy(update={"mode": "manual"})
    return approval_state(
        audit, settings, model=version.name, version=version.version, evidence=evidence, at=at, since=rolled_back
    )


def _set_champion(
    registry: ModelRegistry,
    audit: AuditLog,
    version: ModelVersion,
    champion: ChampionRecord | None,
    *,
    action: str,
    manifest: Mapping[str, Any],
    verdict: str | None,
    approved_by: tuple[str, ...],
    decided_by: str,
    reason: str,
    at: datetime,
) -> ChampionRecord:
    # After a rollback the version that was rolled back is no way back: the one before the restored champion is.
    previous = champion.version if champion and action == PROMOTE else _previous_champion(audit, version)
    record = audit.append(
        CHAMPION_KIND,
        actor=decided_by,
        at=at,
        facts={
            "model": version.name,
            "version": version.version,
            "previous_version": previous,
            "action": action,
            "reason": reason,
            "content_digest": version.content_digest,
            "partition": version.partition,
            "manifest": dict(manifest),
            "verdict": verdict,
            "approved_by": list(approved_by),
        },
    )
    reconcile(registry, audit, version.name)
    return read_champion_record(record)


def _previous_champion(audit: AuditLog, version: ModelVersion) -> int | None:
    records = [one for one in champion_history(audit, version.name) if one.version == version.version]
    return records[-1].previous_version if records else None
