"""Which version was champion when, on which data, by whose decision: answered from the audit log alone.

Apart from promotion, which writes these records: whoever asks needs neither MLflow nor a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from ml_platform.registry.audit import AuditLog, AuditRecord

CHAMPION_KIND = "champion"
PROMOTE, ROLL_BACK = "promote", "roll_back"


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


def history(audit: AuditLog, model: str) -> list[Championship]:
    """Return every change of the champion, oldest first; the log is verified on the way."""
    return [championship(record) for record in audit.records(CHAMPION_KIND) if record.facts["model"] == model]


def current(audit: AuditLog, model: str) -> Championship | None:
    """Return the present champion's record, or None."""
    past = history(audit, model)
    return past[-1] if past else None


def champion_at(audit: AuditLog, model: str, at: datetime) -> Championship | None:
    """Return which version was champion at ``at``, on which data, by whose decision; None before the first."""
    past = [one for one in history(audit, model) if one.since <= at]
    return past[-1] if past else None


def rolled_back_at(audit: AuditLog, model: str, version: int) -> datetime | None:
    """Return when ``version`` was last rolled back, or None."""
    past = history(audit, model)
    undone = [
        later.since for earlier, later in pairwise(past) if later.action == ROLL_BACK and earlier.version == version
    ]
    return undone[-1] if undone else None


def championship(record: AuditRecord) -> Championship:
    """Return the championship that a record of the log tells."""
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
