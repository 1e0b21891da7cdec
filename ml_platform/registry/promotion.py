"""Changing the champion: only on a verified verdict and a standing approval, recorded before MLflow's aliases move.

Apart from the model registry because the audit log decides and the aliases follow: a crash between the two is mended by
`reconcile`, and "which version was champion then" is answered from the log alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ml_platform.data.canonical import value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.approvals import ApprovalSettings, standing
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.models import CHALLENGER, CHAMPION, PREVIOUS, ModelRegistry, ModelVersion

CHAMPION_KIND = "champion"
CHALLENGER_KIND = "challenger"
VERDICT_KIND = "verdict"


class PromotionRefused(PlatformError):  # noqa: N818 - the name callers catch says what happened
    """Raised when a version may not become champion."""


class ApprovalAwaited(PromotionRefused):
    """Raised when everything but a person's approval is there."""


class _Gate(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    passed: bool


class VerdictRecord(BaseModel):
    """The part of a stored verdict that promotion relies on; the rest only counts for the digest."""

    model_config = ConfigDict(extra="allow")

    model: str
    candidate: str
    champion: str | None
    decision: str
    gates: list[_Gate]
    evidence: str
    digest: str


@dataclass(frozen=True)
class Championship:
    """One version's time as champion, from ``since`` on."""

    model: str
    version: int
    since: datetime
    decided_by: str
    reason: str
    action: str
    content_digest: str
    partition: str
    manifest: Mapping[str, Any]
    verdict: str | None
    approved_by: tuple[str, ...]
    previous_version: int | None


def record_verdict(audit: AuditLog, verdict: Mapping[str, Any], *, actor: str, at: datetime) -> AuditRecord:
    """Enter a stored verdict (as JSON) into the log; promotion accepts no verdict that is not in it."""
    facts = {name: verdict[name] for name in ("model", "partition", "candidate", "decision", "evidence", "digest")}
    return audit.append(VERDICT_KIND, actor=actor, at=at, facts=facts)


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
    the approval is missing it is an :class:`ApprovalAwaited`, and the version waits as challenger.
    """
    reconcile(registry, audit, version.name)
    champion = current(audit, version.name)
    if champion and champion.version == version.version:
        return champion
    verdict = _verified_verdict(audit, version, verdict_path, champion)
    state = standing(audit, approval, model=version.name, version=version.version, evidence=verdict.evidence, at=at)
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
        action="promote",
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

    Needs no new verdict: the version had one. Raises :class:`PromotionRefused` when there is no such champion.
    """
    reconcile(registry, audit, model)
    past = history(audit, model)
    champion = past[-1] if past else None
    wanted = to_version or (champion.previous_version if champion else None)
    earlier = [one for one in past if one.version == wanted]
    if champion is None or wanted is None or not earlier or wanted == champion.version:
        raise PromotionRefused(
            f"Rollback of '{model}'",
            expected="an earlier champion" if to_version is None else f"version {to_version} among earlier champions",
            found=f"champions {sorted({one.version for one in past})}, now {champion.version if champion else 'none'}",
            mend="Promote a version that has a verdict instead.",
        )
    back = earlier[-1]
    return _crown(
        registry,
        audit,
        registry.version(model, wanted),
        champion,
        action="roll_back",
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
    return changed


def history(audit: AuditLog, model: str) -> list[Championship]:
    """Return every change of the champion, oldest first; the log is verified on the way."""
    return [_championship(record) for record in audit.records(CHAMPION_KIND) if record.facts["model"] == model]


def current(audit: AuditLog, model: str) -> Championship | None:
    """Return the present champion's record, or None."""
    past = history(audit, model)
    return past[-1] if past else None


def champion_at(audit: AuditLog, model: str, at: datetime) -> Championship | None:
    """Return which version was champion at ``at``, on which data, by whose decision; None before the first."""
    past = [one for one in history(audit, model) if one.since <= at]
    return past[-1] if past else None


def _verified_verdict(
    audit: AuditLog, version: ModelVersion, path: Path, champion: Championship | None
) -> VerdictRecord:
    again = "Materialize the evaluation again."
    try:
        stored = json.loads(path.read_bytes())
        verdict = VerdictRecord.model_validate(stored)
    except (OSError, ValueError) as error:
        raise _refused(version, f"a readable verdict at '{path}'", type(error).__name__, again) from error
    digest = value_digest({name: value for name, value in stored.items() if name != "digest"})
    if not digest == verdict.digest == path.stem:
        raise _refused(version, f"a verdict with the digest {path.stem[:12]}", f"content {digest[:12]}", again)
    if all(record.facts["digest"] != digest for record in audit.records(VERDICT_KIND)):
        raise _refused(version, "a verdict that the audit log knows", f"none with the digest {digest[:12]}", again)
    if (verdict.model, verdict.candidate) != (version.name, version.content_digest):
        found = f"one about '{verdict.model}' {verdict.candidate[:12]}"
        raise _refused(version, f"a verdict about content {version.content_digest[:12]}", found, again)
    failed = [gate.name for gate in verdict.gates if not gate.passed]
    if verdict.decision != "PROMOTE" or failed or not verdict.gates:
        found = f"{verdict.decision} (gates not passed: {', '.join(failed) or 'none'})"
        raise _refused(version, "the verdict PROMOTE by gates that all passed", found, "Improve the candidate.")
    compared, now = verdict.champion, champion.content_digest if champion else None
    if compared != now:
        found = f"a comparison with {compared[:12] if compared else 'no champion'}"
        raise _refused(version, f"a comparison with the champion of now ({now and now[:12]})", found, again)
    return verdict


def _crown(
    registry: ModelRegistry,
    audit: AuditLog,
    version: ModelVersion,
    champion: Championship | None,
    *,
    action: str,
    verdict: str | None,
    approved_by: tuple[str, ...],
    decided_by: str,
    reason: str,
    at: datetime,
) -> Championship:
    # After a rollback the version that was rolled back is no way back: the one before the restored champion is.
    previous = champion.version if champion and action == "promote" else _before(audit, version)
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
            "manifest": registry.manifest(version).model_dump(),
            "verdict": verdict,
            "approved_by": list(approved_by),
        },
    )
    reconcile(registry, audit, version.name)
    challenger = registry.by_alias(version.name, CHALLENGER)
    if challenger and challenger.version == version.version:
        registry.drop_alias(version.name, CHALLENGER)
    return _championship(record)


def _before(audit: AuditLog, version: ModelVersion) -> int | None:
    crowned = [one for one in history(audit, version.name) if one.version == version.version]
    return crowned[-1].previous_version if crowned else None


def _championship(record: AuditRecord) -> Championship:
    facts = record.facts
    return Championship(
        model=facts["model"],
        version=facts["version"],
        since=record.at,
        decided_by=record.actor,
        reason=facts["reason"],
        action=facts["action"],
        content_digest=facts["content_digest"],
        partition=facts["partition"],
        manifest=facts["manifest"],
        verdict=facts["verdict"],
        approved_by=tuple(facts["approved_by"]),
        previous_version=facts["previous_version"],
    )


def _refused(version: ModelVersion, expected: str, found: str, mend: str) -> PromotionRefused:
    return PromotionRefused(
        f"Promotion of '{version.name}' version {version.version}", expected=expected, found=found, mend=mend
    )
