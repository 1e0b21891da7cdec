"""The recorded verdict on a version: record it in the audit log, and verify it before a promotion.

The registry trusts the digest and the record, not the process that wrote the verdict.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ml_platform.data.canonical import value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.champion_history import ChampionRecord
from ml_platform.registry.models import ModelVersion

VERDICT_KIND = "verdict"


class PromotionError(PlatformError):
    """Raised when a version cannot become champion, or a champion or verdict is missing."""


class _GateRecord(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    passed: bool


class VerdictRecord(BaseModel):
    """The fields of a stored verdict that promotion reads; the other fields count only for the digest."""

    model_config = ConfigDict(extra="allow")

    model: str
    candidate: str
    champion: str | None
    decision: str
    gates: list[_GateRecord]
    evidence: str
    digest: str


def record_verdict(audit: AuditLog, verdict: Mapping[str, Any], *, actor: str, at: datetime) -> AuditRecord:
    """Record a stored verdict (as JSON) in the audit log; promotion accepts only recorded verdicts."""
    facts = {name: verdict[name] for name in ("model", "partition", "candidate", "decision", "evidence", "digest")}
    return audit.append(VERDICT_KIND, actor=actor, at=at, facts=facts)


def latest_evidence_digest(audit: AuditLog, version: ModelVersion) -> str:
    """Return the digest of the evidence of the latest verdict on ``version``, to which approvals are bound.

    Raises :class:`PromotionError` when the version has no verdict.
    """
    return str(_latest_record(audit, version).facts["evidence"])


def latest_verdict_digest(audit: AuditLog, version: ModelVersion) -> str:
    """Return the digest of the latest verdict on ``version``, which names its file; raises like the function above."""
    return str(_latest_record(audit, version).facts["digest"])


def load_verified_verdict(
    audit: AuditLog, version: ModelVersion, path: Path, champion: ChampionRecord | None
) -> VerdictRecord:
    """Return the verdict at ``path`` when it allows a promotion of ``version`` over ``champion``.

    Raises :class:`PromotionError`, which names the first condition that fails.
    """
    fix = "Materialize the evaluation again."
    try:
        stored = json.loads(path.read_bytes())
        verdict = VerdictRecord.model_validate(stored)
    except (OSError, ValueError) as error:
        raise _promotion_error(version, f"a readable verdict at '{path}'", type(error).__name__, fix) from error
    digest = value_digest({name: value for name, value in stored.items() if name != "digest"})
    if not digest == verdict.digest == path.stem:
        raise _promotion_error(version, f"a verdict with the digest {path.stem[:12]}", f"content {digest[:12]}", fix)
    if all(record.facts["digest"] != digest for record in audit.records(VERDICT_KIND)):
        raise _promotion_error(version, "a verdict in the audit log", f"no record of the digest {digest[:12]}", fix)
    if (verdict.model, verdict.candidate) != (version.name, version.content_digest):
        found = f"a verdict about '{verdict.model}' {verdict.candidate[:12]}"
        raise _promotion_error(version, f"a verdict about content {version.content_digest[:12]}", found, fix)
    failed = [gate.name for gate in verdict.gates if not gate.passed]
    if verdict.decision != "PROMOTE" or failed or not verdict.gates:
        found = f"{verdict.decision} (gates not passed: {', '.join(failed) or 'none'})"
        raise _promotion_error(version, "the verdict PROMOTE with all gates passed", found, "Improve the candidate.")
    compared, current = verdict.champion, champion.content_digest if champion else None
    if compared != current:
        found = f"a comparison with {compared[:12] if compared else 'no champion'}"
        raise _promotion_error(
            version,
            f"a comparison with the current champion ({current[:12] if current else 'no champion'})",
            found,
            fix,
        )
    return verdict


def _latest_record(audit: AuditLog, version: ModelVersion) -> AuditRecord:
    records = [
        record
        for record in audit.records(VERDICT_KIND)
        if (record.facts["model"], record.facts["candidate"]) == (version.name, version.content_digest)
    ]
    if not records:
        raise _promotion_error(
            version, "a verdict to approve or reject", "none", "Materialize the evaluation of the version first."
        )
    return records[-1]


def _promotion_error(version: ModelVersion, expected: str, found: str, fix: str) -> PromotionError:
    return PromotionError(
        f"Promotion of '{version.name}' version {version.version}", expected=expected, found=found, fix=fix
    )
