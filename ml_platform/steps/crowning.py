"""From a verdict to a champion: where evaluation, registry and the people who approve meet.

Apart from the assets because the command line approves and promotes by the same steps.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from ml_platform.evaluation.verdict import Verdict, verified
from ml_platform.registry.approvals import ApprovalError, approve
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.championship import Championship
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import ApprovalAwaited, VersionRejected, decline, promote
from ml_platform.registry.verdict_record import (
    VERDICT_KIND,
    PromotionRefused,
    newest_evidence,
    newest_verdict_digest,
)
from ml_platform.steps.model import BoundModel


@dataclass(frozen=True)
class Word:
    """What a person says to a version, and why."""

    word: Literal["approve", "reject"]
    by: str
    reason: str
    evidence: str = ""
    """The first digits of the digest of the evidence they looked at; empty takes the newest."""


@dataclass(frozen=True)
class Held:
    """A version that passed its gates and is not champion: a person's yes is awaited, or a person said no."""

    version: int
    rejected: bool
    reason: str


def crown(
    model: BoundModel,
    month: str,
    *,
    registry: ModelRegistry,
    audit: AuditLog,
    verdicts: Path,
    word: Word | None,
    decided_by: str,
    now: datetime,
) -> Championship | Held:
    """Promote the candidate of ``month`` on its newest verdict and return its record, or what holds it.

    A person's ``word`` is entered first, on the evidence of that verdict. Raises :class:`PromotionRefused` when there
    is no verdict on the month, or it does not allow promotion.
    """
    verdict, path = newest_verdict(model, month, audit, verdicts)
    version = judged_version(model, verdict, registry)
    if word is None:
        return _promoted(model, version, path, decided_by, _all_passed(path, version), registry, audit, now)
    return _settled(model, version, path, word, registry, audit, now)


def say(
    model: BoundModel,
    version: int,
    word: Word,
    *,
    registry: ModelRegistry,
    audit: AuditLog,
    verdicts: Path,
    now: datetime,
) -> Championship | Held:
    """Enter a person's ``word`` on ``version``; if nothing else is missing it is champion at once.

    Raises :class:`PromotionRefused`, and records nothing, when there is no verdict on the version or an approval meets
    one that is not PROMOTE, and :class:`~ml_platform.registry.approvals.ApprovalError` when the newest evidence is not
    what the person looked at.
    """
    chosen = registry.version(model.name, version)
    path = verdicts / f"{newest_verdict_digest(audit, chosen)}.json"
    return _settled(model, chosen, path, word, registry, audit, now)


def _settled(
    model: BoundModel,
    version: ModelVersion,
    verdict_path: Path,
    word: Word,
    registry: ModelRegistry,
    audit: AuditLog,
    now: datetime,
) -> Championship | Held:
    evidence = newest_evidence(audit, version)
    _demand_seen(version, word, evidence)
    if word.word == "reject":
        decline(registry, audit, version, by=word.by, reason=word.reason, at=now)
        return Held(version.version, True, f"Rejected by {word.by}: {word.reason}")
    _demand_promotable(version, verified(verdict_path))
    approve(audit, model=model.name, version=version.version, evidence=evidence, by=word.by, reason=word.reason, at=now)
    try:
        return _promoted(model, version, verdict_path, word.by, word.reason, registry, audit, now)
    except PromotionRefused as refused:
        # What was said is on record: whoever said it must know that, and what stands in the way.
        return Held(version.version, False, f"{refused.found}. {refused.mend}")


def _promoted(
    model: BoundModel,
    version: ModelVersion,
    verdict_path: Path,
    decided_by: str,
    reason: str,
    registry: ModelRegistry,
    audit: AuditLog,
    now: datetime,
) -> Championship | Held:
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
    except (ApprovalAwaited, VersionRejected) as held:
        return Held(version.version, isinstance(held, VersionRejected), f"{held.found}. {held.mend}")


def _all_passed(verdict_path: Path, version: ModelVersion) -> str:
    return f"All {len(verified(verdict_path).gates)} gates passed on {version.partition}."


def _demand_seen(version: ModelVersion, word: Word, newest: str) -> None:
    if word.evidence and not newest.startswith(word.evidence):
        raise ApprovalError(
            f"Approval of '{version.name}' version {version.version}",
            expected=f"the evidence {word.evidence[:12]}, which {word.by} looked at, to be the newest",
            found=f"{newest[:12]}: it was evaluated again since",
            mend="Look at the new card, and name the evidence that stands on it.",
        )


def _demand_promotable(version: ModelVersion, verdict: Verdict) -> None:
    # An approval of what the gates refused would promote by itself once somebody loosens them.
    if verdict.decision != "PROMOTE":
        raise PromotionRefused(
            f"Approval of '{version.name}' version {version.version}",
            expected="a verdict of PROMOTE",
            found=f"{verdict.decision}: {'; '.join(verdict.reasons)}".rstrip("."),
            mend="Nothing was recorded. Improve the candidate, or wait for the labels that would decide.",
        )


def newest_verdict(model: BoundModel, month: str, audit: AuditLog, verdicts: Path) -> tuple[Verdict, Path]:
    """Return the newest recorded verdict on ``month`` and where it is stored."""
    known = [
        record.facts["digest"]
        for record in audit.records(VERDICT_KIND)
        if (record.facts["model"], record.facts["partition"]) == (model.name, month)
    ]
    if not known:
        raise PromotionRefused(
            f"Model '{model.name}', {month}",
            expected="a recorded verdict",
            found="none",
            mend=f"Materialize {model.name}/evaluation for {month} first.",
        )
    path = verdicts / f"{known[-1]}.json"
    return verified(path), path


def judged_version(model: BoundModel, verdict: Verdict, registry: ModelRegistry) -> ModelVersion:
    """Return the registered version that ``verdict`` is about; raises :class:`PromotionRefused` where there is none."""
    version = registry.by_content(model.name, verdict.candidate)
    if version is None:
        raise PromotionRefused(
            f"Model '{model.name}', {verdict.partition}",
            expected=f"a registered version with content {verdict.candidate[:12]}",
            found="none",
            mend="Materialize the candidate again.",
        )
    return version
