"""Changing the champion: only on a verified verdict and a standing approval, recorded before MLflow's aliases move.

Apart from the model registry because the audit log decides and the aliases follow: a crash between the two is mended by
`reconcile`.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ml_platform.registry.approvals import ApprovalSettings, ApprovalState, demand_decider, reject, standing
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.championship import (
    CHAMPION_KIND,
    PROMOTE,
    ROLL_BACK,
    Championship,
    championship,
    current,
    history,
    rolled_back_at,
)
from ml_platform.registry.models import CHALLENGER, CHAMPION, PREVIOUS, ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import PromotionRefused, newest_evidence, verified_verdict

CHALLENGER_KIND = "challenger"


class ApprovalAwaited(PromotionRefused):
    """Raised when everything but a person's approval is there."""


class VersionRejected(PromotionRefused):
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
) -> Championship:
    """Make ``version`` champion and return its record; the same promotion again changes nothing.

    The verdict is read back from ``verdict_path`` and verified: its digest, its place in the audit log, that it is
    about this version and says PROMOTE by gates that all passed, and that it compared with the champion of now. Then
    the approval must stand for its evidence. Raises :class:`PromotionRefused` for whichever fails first; where only
    the approval is missing it is an :class:`ApprovalAwaited`, and the version waits as challenger; where somebody said
    no it is a :class:`VersionRejected`. A version that was rolled back comes back only by a person's approval given
    since, whatever the settings say.
    """
    with audit.exclusive():
        reconcile(registry, audit, version.name)
        champion = current(audit, version.name)
        if champion and champion.version == version.version:
            return champion
        verdict = verified_verdict(audit, version, verdict_path, champion)
        state = _approval(audit, approval, version, verdict.evidence, at)
        if state.rejected:
            what = f"Promotion of '{version.name}' version {version.version}"
            raise _rejected(what, "nobody who says no on this evidence", version, state)
        if not state.stands:
            nominate(registry, audit, version, by=decided_by, reason=state.reason, at=at)
            raise ApprovalAwaited(
                f"Promotion of '{version.name}' version {version.version}",
                expected="a standing approval",
                found=state.reason.rstrip("."),
                mend=f"Approve or reject it: ml-platform approve {version.name} {version.version}.",
            )
        return _crown(
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


def nominate(
    registry: ModelRegistry, audit: AuditLog, version: ModelVersion, *, by: str, reason: str, at: datetime
) -> None:
    """Give ``version`` the alias challenger and record it; one that already carries it changes nothing."""
    carried = registry.by_alias(version.name, CHALLENGER)
    if carried and carried.version == version.version:
        return
    facts = {"model": version.name, "version": version.version, "reason": reason}
    audit.append(CHALLENGER_KIND, actor=by, at=at, facts=facts)
    registry.set_alias(version.name, CHALLENGER, version.version)


def decline(
    registry: ModelRegistry, audit: AuditLog, version: ModelVersion, *, by: str, reason: str, at: datetime
) -> None:
    """Reject a version on the evidence of its newest verdict; as challenger it steps down.

    Raises :class:`PromotionRefused` for the champion of now: a rejection would not unseat it.
    """
    with audit.exclusive():
        champion = current(audit, version.name)
        if champion and champion.version == version.version:
            raise PromotionRefused(
                f"Rejection of '{version.name}' version {version.version}",
                expected="a version that is not champion",
                found=f"the champion since {champion.since:%Y-%m-%d %H:%M} UTC",
                mend=f"Make the one before it champion again: ml-platform rollback {version.name}.",
            )
        evidence = newest_evidence(audit, version)
        reject(audit, model=version.name, version=version.version, evidence=evidence, by=by, reason=reason, at=at)
        carried = registry.by_alias(version.name, CHALLENGER)
        if carried and carried.version == version.version:
            facts = {"model": version.name, "version": None, "reason": reason}
            audit.append(CHALLENGER_KIND, actor=by, at=at, facts=facts)
            registry.drop_alias(version.name, CHALLENGER)


def roll_back(
    registry: ModelRegistry,
    audit: AuditLog,
    model: str,
    *,
    decided_by: str,
    reason: str,
    at: datetime,
    to_version: int | None = None,
) -> Championship:
    """Make the previous champion (or an earlier one, ``to_version``) champion again and return its record.

    Needs no new verdict: the version had one. Raises :class:`PromotionRefused` when there is no such champion,
    :class:`VersionRejected` when somebody has rejected it since, and
    :class:`~ml_platform.registry.approvals.ApprovalError` when nobody says who decides and why.
    """
    demand_decider(f"Rollback of '{model}'", decided_by, reason)
    with audit.exclusive():
        reconcile(registry, audit, model)
        past = history(audit, model)
        champion = past[-1] if past else None
        wanted = to_version or (champion.previous_version if champion else None)
        earlier = [one for one in past if one.version == wanted]
        if champion is None or wanted is None or not earlier or wanted == champion.version:
            raise PromotionRefused(
                f"Rollback of '{model}'",
                expected="an earlier champion"
                if to_version is None
                else f"version {to_version} among earlier champions",
                found=f"champions {sorted({one.version for one in past})}, now {champion and champion.version}",
                mend="Promote a version that has a verdict instead.",
            )
        back, version = earlier[-1], registry.version(model, wanted)
        _demand_not_rejected(audit, version, at)
        return _crown(
            registry,
            audit,
            version,
            champion,
            action=ROLL_BACK,
            # As recorded: a rollback must not wait for a store of artifacts.
            manifest=back.manifest,
            verdict=back.verdict,
            approved_by=back.approved_by,
            decided_by=decided_by,
            reason=reason,
            at=at,
        )


def reconcile(registry: ModelRegistry, audit: AuditLog, model: str) -> bool:
    """Make MLflow's aliases say what the log says and return whether they had to change."""
    champion = current(audit, model)
    if champion is None:
        return False
    changed = False
    for alias, wanted in ((CHAMPION, champion.version), (PREVIOUS, champion.previous_version)):
        carried = registry.by_alias(model, alias)
        if wanted is None and carried:
            registry.drop_alias(model, alias)
            changed = True
        elif wanted is not None and (carried is None or carried.version != wanted):
            registry.set_alias(model, alias, wanted)
            changed = True
    challenger = registry.by_alias(model, CHALLENGER)
    if challenger and challenger.version == champion.version:
        registry.drop_alias(model, CHALLENGER)
        changed = True
    return changed


def _demand_not_rejected(audit: AuditLog, version: ModelVersion, at: datetime) -> None:
    try:
        evidence = newest_evidence(audit, version)
    except PromotionRefused:
        return  # judged by nobody, so rejected by nobody: a version of before there were verdicts
    state = standing(audit, ApprovalSettings(), model=version.name, version=version.version, evidence=evidence, at=at)
    if state.rejected:
        what = f"Rollback of '{version.name}' to version {version.version}"
        raise _rejected(what, "a version that nobody says no to", version, state)


def _rejected(what: str, expected: str, version: ModelVersion, state: ApprovalState) -> VersionRejected:
    return VersionRejected(
        what,
        expected=expected,
        found=state.reason.rstrip("."),
        mend=f"Whoever rejected it may approve it: ml-platform approve {version.name} {version.version}.",
    )


def _approval(
    audit: AuditLog, settings: ApprovalSettings, version: ModelVersion, evidence: str, at: datetime
) -> ApprovalState:
    undone = rolled_back_at(audit, version.name, version.version)
    if undone:
        # Its old verdict still says PROMOTE: without this, the next run would undo the rollback.
        settings = settings.model_copy(update={"mode": "manual"})
    return standing(
        audit, settings, model=version.name, version=version.version, evidence=evidence, at=at, since=undone
    )


def _crown(
    registry: ModelRegistry,
    audit: AuditLog,
    version: ModelVersion,
    champion: Championship | None,
    *,
    action: str,
    manifest: Mapping[str, Any],
    verdict: str | None,
    approved_by: tuple[str, ...],
    decided_by: str,
    reason: str,
    at: datetime,
) -> Championship:
    # After a rollback the version that was rolled back is no way back: the one before the restored champion is.
    previous = champion.version if champion and action == PROMOTE else _before(audit, version)
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
    return championship(record)


def _before(audit: AuditLog, version: ModelVersion) -> int | None:
    crowned = [one for one in history(audit, version.name) if one.version == version.version]
    return crowned[-1].previous_version if crowned else None
