"""From a verdict to a champion: where evaluation, registry and the people who approve meet.

Apart from the assets because the command line approves and promotes by the same steps.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from ml_platform.evaluation.verdict import Verdict, read_verdict
from ml_platform.registry.approvals import ApprovalError, approve
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ChampionRecord
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import ApprovalPendingError, VersionRejectedError, promote, reject_version
from ml_platform.registry.verdict_record import (
    VERDICT_KIND,
    PromotionError,
    latest_evidence_digest,
    latest_verdict_digest,
)
from ml_platform.steps.model import BoundModel


@dataclass(frozen=True)
class ApprovalDecision:
    """What a person says to a version, and why."""

    decision: Literal["approve", "reject"]
    by: str
    reason: str
    evidence: str = ""
    """The first digits of the digest of the evidence they looked at; empty takes the newest."""


@dataclass(frozen=True)
class NotPromoted:
    """A version that passed its gates and is not champion: a person's yes is awaited, or a person said no."""

    version: int
    rejected: bool
    reason: str


def promote_candidate(
    model: BoundModel,
    month: str,
    *,
    registry: ModelRegistry,
    audit: AuditLog,
    verdicts: Path,
    decision: ApprovalDecision | None,
    decided_by: str,
    now: datetime,
) -> ChampionRecord | NotPromoted:
    """Promote the candidate of ``month`` on its newest verdict and return its record, or what holds it.

    A person's ``decision`` is entered first, on the evidence of that verdict. Raises :class:`PromotionError` when there
    is no verdict on the month, or it does not allow promotion.
    """
    verdict, path = latest_verdict(model, month, audit, verdicts)
    version = evaluated_version(model, verdict, registry)
    if decision is None:
        return _promote_if_approved(
            model, version, path, decided_by, _all_gates_passed(path, version), registry, audit, now
        )
    return _record_and_promote(model, version, path, decision, registry, audit, now)


def record_decision(
    model: BoundModel,
    version: int,
    decision: ApprovalDecision,
    *,
    registry: ModelRegistry,
    audit: AuditLog,
    verdicts: Path,
    now: datetime,
) -> ChampionRecord | NotPromoted:
    """Enter a person's ``decision`` on ``version``; if nothing else is missing it is champion at once.

    Raises :class:`PromotionError`, and records nothing, when there is no verdict on the version or an approval meets
    one that is not PROMOTE, and :class:`~ml_platform.registry.approvals.ApprovalError` when the newest evidence is not
    what the person looked at.
    """
    registered = registry.version(model.name, version)
    path = verdicts / f"{latest_verdict_digest(audit, registered)}.json"
    return _record_and_promote(model, registered, path, decision, registry, audit, now)


def _record_and_promote(
    model: BoundModel,
    version: ModelVersion,
    verdict_path: Path,
    decision: ApprovalDecision,
    registry: ModelRegistry,
    audit: AuditLog,
    now: datetime,
) -> ChampionRecord | NotPromoted:
    evidence = latest_evidence_digest(audit, version)
    _require_latest_evidence(version, decision, evidence)
    if decision.decision == "reject":
        reject_version(registry, audit, version, by=decision.by, reason=decision.reason, at=now)
        return NotPromoted(version.version, True, f"Rejected by {decision.by}: {decision.reason}")
    _require_promote_verdict(version, read_verdict(verdict_path))
    approve(
        audit,
        model=model.name,
        version=version.version,
        evidence=evidence,
        by=decision.by,
        reason=decision.reason,
        at=now,
    )
    try:
        return _promote_if_approved(model, version, verdict_path, decision.by, decision.reason, registry, audit, now)
    except PromotionError as error:
        # What was said is on record: whoever said it must know that, and what stands in the way.
        return NotPromoted(version.version, False, f"{error.found}. {error.fix}")


def _promote_if_approved(
    model: BoundModel,
    version: ModelVersion,
    verdict_path: Path,
    decided_by: str,
    reason: str,
    registry: ModelRegistry,
    audit: AuditLog,
    now: datetime,
) -> ChampionRecord | NotPromoted:
    try:
        return promote(
            registry,
            audit,
            version,
            verdict_path=verdict_path,
            approval=model.declared.approval,
            decided_by=decided_by,
            reason=reason,
            at=now,
        )
    except (ApprovalPendingError, VersionRejectedError) as error:
        return NotPromoted(version.version, isinstance(error, VersionRejectedError), f"{error.found}. {error.fix}")


def _all_gates_passed(verdict_path: Path, version: ModelVersion) -> str:
    return f"All {len(read_verdict(verdict_path).gates)} gates passed on {version.partition}."


def _require_latest_evidence(version: ModelVersion, decision: ApprovalDecision, latest: str) -> None:
    if decision.evidence and not latest.startswith(decision.evidence):
        raise ApprovalError(
            f"Approval of '{version.name}' version {version.version}",
            expected=f"the evidence {decision.evidence[:12]}, which {decision.by} looked at, to be the newest",
            found=f"{latest[:12]}: it was evaluated again since",
            fix="Look at the new card, and name the evidence that stands on it.",
        )


def _require_promote_verdict(version: ModelVersion, verdict: Verdict) -> None:
    # An approval of what the gates refused would promote by itself once somebody loosens them.
    if verdict.decision != "PROMOTE":
        raise PromotionError(
            f"Approval of '{version.name}' version {version.version}",
            expected="a verdict of PROMOTE",
            found=f"{verdict.decision}: {'; '.join(verdict.reasons)}".rstrip("."),
            fix="Nothing was recorded. Improve the candidate, or wait for the labels that would decide.",
        )


def latest_verdict(model: BoundModel, month: str, audit: AuditLog, verdicts: Path) -> tuple[Verdict, Path]:
    """Return the newest recorded verdict on ``month`` and where it is stored."""
    digests = [
        record.facts["digest"]
        for record in audit.records(VERDICT_KIND)
        if (record.facts["model"], record.facts["partition"]) == (model.name, month)
    ]
    if not digests:
        raise PromotionError(
            f"Model '{model.name}', {month}",
            expected="a recorded verdict",
            found="none",
            fix=f"Materialize {model.name}/evaluation for {month} first.",
        )
    path = verdicts / f"{digests[-1]}.json"
    return read_verdict(path), path


def evaluated_version(model: BoundModel, verdict: Verdict, registry: ModelRegistry) -> ModelVersion:
    """Return the registered version that ``verdict`` is about; raises :class:`PromotionError` where there is none."""
    version = registry.by_content(model.name, verdict.candidate)
    if version is None:
        raise PromotionError(
            f"Model '{model.name}', {verdict.partition}",
            expected=f"a registered version with content {verdict.candidate[:12]}",
            found="none",
            fix="Materialize the candidate again.",
        )
    return version
