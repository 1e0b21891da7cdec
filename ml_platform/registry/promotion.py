"""Promotion: change the champion on a verified verdict and valid approvals, and record the change.

The record in the audit log is written before MLflow's aliases move, with the note that they have to move
(:mod:`ml_platform.registry.pending_aliases`). After a crash between the two, `reconcile` sets the aliases. A lock
separates the promotions of one model; no transaction is open while MLflow is called.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ml_platform.registry.approvals import ApprovalSettings, ApprovalState, approval_state, reject
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import (
    CHAMPION_KIND,
    PROMOTE,
    RETIRE,
    ChampionRecord,
    champion_history,
    current_champion,
    read_champion_record,
    rolled_back_at,
)
from ml_platform.registry.models import CHALLENGER, CHAMPION, PREVIOUS, ModelRegistry, ModelVersion
from ml_platform.registry.pending_aliases import aliases_are_set, note_pending_aliases
from ml_platform.registry.verdict_record import PromotionError, latest_evidence_digest, load_verified_verdict

CHALLENGER_KIND = "challenger"


class ApprovalPendingError(PromotionError):
    """Raised when a version lacks only the approval of a person."""


class ChampionMissingError(PromotionError):
    """Raised when the version of a champion was deleted in MLflow."""


class VersionRejectedError(PromotionError):
    """Raised when a version passed its gates and a person rejected it."""


def promote(
    registry: ModelRegistry,
    audit: AuditLog,
    version: ModelVersion,
    *,
    verdict_digest: str,
    approval: ApprovalSettings,
    decided_by: str,
    reason: str,
    at: datetime,
) -> ChampionRecord:
    """Make ``version`` champion and return its record; a repeated promotion changes nothing.

    The stored verdict ``verdict_digest`` is verified: its content, its audit record, the version, the decision
    PROMOTE with all gates passed, and the comparison with the current champion. Then the approvals of its evidence
    must suffice. Raises :class:`PromotionError` for the first condition that fails. When only the approval is missing,
    this is an :class:`ApprovalPendingError`, and the version becomes challenger. When a person rejected the version,
    this is a :class:`VersionRejectedError`. A version that was rolled back always needs a later approval by a person.
    """
    with audit.exclusive(version.name):
        reconcile(registry, audit, version.name)
        champion = current_champion(audit, version.name)
        if champion and champion.version == version.version:
            return champion
        verdict = load_verified_verdict(audit, version, verdict_digest, champion)
        state = _approval_state(audit, approval, version, verdict.evidence, at)
        if state.rejected:
            subject = f"Promotion of '{version.name}' version {version.version}"
            raise rejection_error(subject, "no rejection on this evidence", version.name, version.version, state)
        if not state.approved:
            set_challenger(registry, audit, version, by=decided_by, reason=state.reason, at=at)
            raise ApprovalPendingError(
                f"Promotion of '{version.name}' version {version.version}",
                expected="a valid approval",
                found=state.reason.rstrip("."),
                fix=f"Approve or reject it: ml-platform approve {version.name} {version.version}.",
            )
        facts = champion_facts(
            version,
            action=PROMOTE,
            previous=champion.version if champion else _previous_champion(audit, version),
            manifest=registry.manifest(version).model_dump(),
            verdict=verdict.digest,
            approved_by=state.approved_by,
            reason=reason,
        )
        record = append_champion_record(audit, facts, champion, decided_by=decided_by, at=at)
        reconcile(registry, audit, version.name)
        return record


def set_challenger(
    registry: ModelRegistry, audit: AuditLog, version: ModelVersion, *, by: str, reason: str, at: datetime
) -> None:
    """Give ``version`` the alias challenger and record it, unless it has the alias already."""
    challenger = registry.by_alias(version.name, CHALLENGER)
    if challenger and challenger.version == version.version:
        return
    facts = {"model": version.name, "version": version.version, "reason": reason}
    audit.append(CHALLENGER_KIND, actor=by, at=at, facts=facts)
    registry.set_alias(version.name, CHALLENGER, version.version)


def reject_version(
    registry: ModelRegistry, audit: AuditLog, version: ModelVersion, *, by: str, reason: str, at: datetime
) -> None:
    """Record the rejection of a version on the evidence of its latest verdict; remove its alias challenger.

    Raises :class:`PromotionError` for the current champion, which needs a rollback instead.
    """
    with audit.exclusive(version.name):
        champion = current_champion(audit, version.name)
        if champion and champion.version == version.version:
            raise PromotionError(
                f"Rejection of '{version.name}' version {version.version}",
                expected="a version that is not champion",
                found=f"the champion since {champion.since:%Y-%m-%d %H:%M} UTC",
                fix=f"Roll back to the previous champion: ml-platform rollback {version.name}.",
            )
        evidence = latest_evidence_digest(audit, version)
        reject(audit, model=version.name, version=version.version, evidence=evidence, by=by, reason=reason, at=at)
        challenger = registry.by_alias(version.name, CHALLENGER)
        if challenger and challenger.version == version.version:
            facts = {"model": version.name, "version": None, "reason": reason}
            audit.append(CHALLENGER_KIND, actor=by, at=at, facts=facts)
            registry.delete_alias(version.name, CHALLENGER)


def reconcile(registry: ModelRegistry, audit: AuditLog, model: str) -> bool:
    """Set MLflow's aliases to the champions in the audit log and return whether any alias changed.

    The note that they have to move is deleted, unless it is about a later record.

    Raises :class:`ChampionMissingError` when the champion's version was deleted in MLflow. A deleted previous champion
    loses its alias.
    """
    last = audit.latest(CHAMPION_KIND, model)
    if last is None:
        aliases_are_set(audit.state, model)
        return False
    champion, changed = read_champion_record(last, model), False
    retired = champion.action == RETIRE
    versions = (None, None) if retired else (champion.version, champion.previous_version)
    for alias, desired in zip((CHAMPION, PREVIOUS), versions, strict=True):
        current = registry.by_alias(model, alias)
        if desired is not None and (current is None or current.version != desired):
            if alias == CHAMPION:
                require_champion(registry, champion)
            elif not registry.exists(model, desired):
                desired = None
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
    aliases_are_set(audit.state, model, last.sequence)
    return changed


def require_champion(registry: ModelRegistry, champion: ChampionRecord) -> ModelVersion:
    """Return the version of ``champion``; raises :class:`ChampionMissingError` when it was deleted in MLflow."""
    if not registry.has(champion.model, champion.version, champion.content_digest):
        raise ChampionMissingError(
            f"Champion version {champion.version} of '{champion.model}'",
            expected="the version in MLflow",
            found="none with its content: it was deleted there",
            fix=f"Restore it with `ml-platform restore-version {champion.model} --by NAME --reason TEXT`, "
            f"or end it with `ml-platform retire {champion.model} --by NAME --reason TEXT`.",
        )
    return registry.version(champion.model, champion.version)


def rejection_error(
    subject: str, expected: str, model: str, version: int, state: ApprovalState
) -> VersionRejectedError:
    """Return the error about a rejected version, which names who can approve it."""
    return VersionRejectedError(
        subject,
        expected=expected,
        found=state.reason.rstrip("."),
        fix=f"The person who rejected it can approve it: ml-platform approve {model} {version}.",
    )


def _approval_state(
    audit: AuditLog, settings: ApprovalSettings, version: ModelVersion, evidence: str, at: datetime
) -> ApprovalState:
    rolled_back = rolled_back_at(audit, version.name, version.version)
    if rolled_back:
        # Its verdict is still PROMOTE: without this, the next run would undo the rollback.
        settings = settings.model_copy(update={"mode": "manual"})
    return approval_state(
        audit, settings, model=version.name, version=version.version, evidence=evidence, at=at, since=rolled_back
    )


def champion_facts(
    version: ModelVersion,
    *,
    action: str,
    previous: int | None,
    manifest: Mapping[str, Any],
    verdict: str | None,
    approved_by: tuple[str, ...],
    reason: str,
) -> dict[str, Any]:
    """Return the facts of a champion record on ``version``."""
    return {
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
    }


def append_champion_record(
    audit: AuditLog, facts: Mapping[str, Any], champion: ChampionRecord | None, *, decided_by: str, at: datetime
) -> ChampionRecord:
    """Record a change of the champion ``champion`` (None: no champion) and return its record.

    Raises :class:`PromotionError`, and records nothing, when another change came first.
    """
    with audit.state.write():
        require_current_champion(audit, facts["model"], champion)
        recorded = audit.append(CHAMPION_KIND, actor=decided_by, at=at, facts=facts)
        note_pending_aliases(audit.state, facts["model"], recorded.sequence)
        return read_champion_record(recorded, facts["model"])


def require_current_champion(audit: AuditLog, model: str, champion: ChampionRecord | None) -> None:
    """Raise :class:`PromotionError` unless ``champion`` (None: no champion) is the current one of ``model``.

    Called in a write transaction, it excludes that another decision comes between.
    """
    current = current_champion(audit, model)
    if current != champion:
        raise PromotionError(
            f"Champion of '{model}'",
            expected=f"version {champion.version}" if champion else "no champion",
            found=f"version {current.version}, by another decision" if current else "none, by another decision",
            fix="Read `ml-platform history` and decide again.",
        )


def _previous_champion(audit: AuditLog, version: ModelVersion) -> int | None:
    records = [one for one in champion_history(audit, version.name) if one.version == version.version]
    return records[-1].previous_version if records else None
