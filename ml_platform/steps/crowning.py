"""From a verdict to a champion: where evaluation, registry and the people who approve meet.

Apart from the assets because the command line approves and promotes by the same steps.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from ml_platform.evaluation.verdict import Verdict, verified
from ml_platform.registry.approvals import approve
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
    return _settled(model, version, path, word, decided_by, registry, audit, now)


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

    Raises :class:`PromotionRefused` when there is no verdict on the version, or it does not allow promotion.
    """
    chosen = registry.version(model.name, version)
    path = verdicts / f"{newest_verdict_digest(audit, chosen)}.json"
    return _settled(model, chosen, path, word, word.by, registry, audit, now)


def _settled(
    model: BoundModel,
    version: ModelVersion,
    verdict_path: Path,
    word: Word | None,
    decided_by: str,
    registry: ModelRegistry,
    audit: AuditLog,
    now: datetime,
) -> Championship | Held:
    if word is not None and word.word == "reject":
        decline(registry, audit, version, by=word.by, reason=word.reason, at=now)
        return Held(version.version, True, f"Rejected by {word.by}: {word.reason}")
    if word is not None:
        evidence = newest_evidence(audit, version)
        approve(
            audit, model=model.name, version=version.version, evidence=evidence, by=word.by, reason=word.reason, at=now
        )
    try:
        return promote(
            registry,
            audit,
            version,
            verdict_path=verdict_path,
            approval=model.declared.approval,
            decided_by=word.by if word else decided_by,
            reason=word.reason
            if word
            else f"All {len(verified(verdict_path).gates)} gates passed on {version.partition}.",
            at=now,
        )
    except (ApprovalAwaited, VersionRejected) as held:
        return Held(version.version, isinstance(held, VersionRejected), f"{held.found}. {held.mend}")


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
