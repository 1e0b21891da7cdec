"""The history of a model's champions, from the audit log alone: version, time, data, decision and reason.

Reading it needs neither MLflow nor a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from ml_platform.registry.audit import AuditLog, AuditRecord

CHAMPION_KIND = "champion"
PROMOTE, ROLL_BACK, RESTORE, RETIRE = "promote", "roll_back", "restore", "retire"
"""Actions of a champion record. RESTORE registers the files of the champion again, and RETIRE ends it."""


@dataclass(frozen=True)
class ChampionRecord:
    """One change of the champion: ``version`` is champion from ``since`` until the next record.

    With the action RETIRE it stops being champion at ``since``, and the model has none.
    """

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


def champion_history(audit: AuditLog, model: str) -> list[ChampionRecord]:
    """Return every change of the champion, oldest first; raises :class:`~.audit.AuditError` for a changed record."""
    return [read_champion_record(record, model) for record in audit.records(CHAMPION_KIND, model)]


def current_champion(audit: AuditLog, model: str) -> ChampionRecord | None:
    """Return the record of the current champion, or None before the first promotion and after a retirement."""
    record = audit.latest(CHAMPION_KIND, model)
    return None if record is None else _unless_retired(read_champion_record(record, model))


def champion_at(audit: AuditLog, model: str, at: datetime) -> ChampionRecord | None:
    """Return the record of the champion at the time ``at``; None before the first promotion, or when it had ended."""
    records = (read_champion_record(record, model) for record in audit.newest_first(CHAMPION_KIND, model))
    found = next((record for record in records if record.since <= at), None)
    return None if found is None else _unless_retired(found)


def rolled_back_at(audit: AuditLog, model: str, version: int) -> datetime | None:
    """Return the time of the last rollback that replaced ``version``, or None."""
    records = (read_champion_record(record, model) for record in audit.newest_first(CHAMPION_KIND, model))
    return next(
        (
            later.since
            for later, earlier in pairwise(records)
            if later.action == ROLL_BACK and earlier.version == version
        ),
        None,
    )


def _unless_retired(record: ChampionRecord) -> ChampionRecord | None:
    return None if record.action == RETIRE else record


def read_champion_record(record: AuditRecord, model: str) -> ChampionRecord:
    """Return an audit record of the kind champion as a champion record of ``model``, which may be renamed since."""
    facts = record.facts
    return ChampionRecord(
        model=model,
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
