"""The recorded verdicts on the candidates of a model, as `ml-platform status`, `history` and `demo` show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.verdict_record import StoredVerdict


@dataclass(frozen=True)
class VerdictEntry:
    """A verdict on the candidate of ``partition``; ``version`` is None in records of releases that did not note it.

    ``reasons`` are those of the gates that did not pass and what would decide a HOLD; ``data_needed`` is the length of
    data that has ``labels_needed`` labels, in words.
    """

    at: datetime
    decision: str
    version: int | None
    partition: str
    decided_by: str
    reasons: Sequence[str]
    labels_needed: int | None
    data_needed: str | None

    @property
    def title(self) -> str:
        version = "" if self.version is None else f"version {self.version}, "
        return f"{self.decision} for {version}the candidate of {self.partition}"


def last_verdict(audit: "AuditLog", model: str) -> VerdictEntry | None:
    """Return the verdict on a candidate of ``model`` that was recorded last, or None."""
    from ml_platform.registry.verdict_record import latest_verdict_on_model

    found = latest_verdict_on_model(audit, model)
    return None if found is None else _entry(audit, found)


def verdict_entries(audit: "AuditLog", model: str) -> list[VerdictEntry]:
    """Return the verdicts on the candidates of ``model``, oldest first."""
    from ml_platform.registry.verdict_record import verdicts_on_model

    return [_entry(audit, each) for each in verdicts_on_model(audit, model)]


def reasons_of(content: Mapping[str, Any]) -> list[str]:
    """Return the reasons of the stored verdict ``content`` as sentences."""
    passed = content["decision"] == "PROMOTE"
    return [f"All {len(content['gates'])} gates passed."] if passed else list(content["reasons"])


def _entry(audit: "AuditLog", stored: "StoredVerdict") -> VerdictEntry:
    from ml_platform.evaluation.look import data_length

    record, content = audit.record(stored.sequence), stored.content
    days = content.get("days_needed")
    return VerdictEntry(
        at=record.at,
        decision=content["decision"],
        version=record.facts.get("version"),
        partition=content["partition"],
        decided_by=record.actor,
        reasons=reasons_of(content),
        labels_needed=content["labels_needed"],
        data_needed=None if days is None else data_length(days),
    )
