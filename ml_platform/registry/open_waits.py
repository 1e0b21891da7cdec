"""The candidates that wait, as far as the audit log was read.

A cursor of the state store keeps them, so that a look reads only the records since the last one. Nothing is lost with
the cursor: it is filled from the log once, and filled again when it does not match the log.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from ml_platform.registry.approvals import APPROVAL_KIND, DECISION_KEY
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.champion_history import CHAMPION_KIND, RETIRE
from ml_platform.registry.verdict_record import VERDICT_KIND
from ml_platform.state.cursors import read_cursor, write_cursor

WAIT_ENDED_KIND = "wait_ended"
"""Kind of the audit records that end the wait of a candidate without a verdict on it."""

EXHAUSTED = "exhausted"
"""Action of such a record when the last look did not decide."""

KINDS = (CHAMPION_KIND, APPROVAL_KIND, VERDICT_KIND, WAIT_ENDED_KIND)
"""Kinds of the audit records that begin or end a wait."""

WAITING_AREA = "waiting"
"""The cursor of a model is `waiting/<model>`."""

MAXIMUM_SETTLED = 20
"""Number of settled candidates that are kept: a correction that comes later changes no verdict by itself."""


class ChampionFacts(BaseModel):
    """The last champion record: the champion since then, or its retirement."""

    sequence: int
    action: str
    version: int
    partition: str
    content_digest: str


class LookVerdict(BaseModel):
    """The last verdict on a candidate, with its last look.

    ``is_replaced``: another candidate of its partition was judged since. ``is_corrected``: a later window that its
    looks pool was judged again since, as after a correction of its rows.
    """

    sequence: int
    partition: str
    candidate: str
    champion: str | None
    digest: str
    evidence: str
    look: dict[str, Any]
    labels_needed: int | None
    is_replaced: bool = False
    is_corrected: bool = False


class Rejection(BaseModel):
    """A rejection by a person that no later decision of the same person has lifted."""

    sequence: int
    evidence: str
    by: str
    reason: str


class OpenWaits(BaseModel):
    """The open waits by the records until the number ``sequence``.

    The digest of that record tells another log from this one.

    ``holds`` are the verdicts of HOLD. ``settled`` are the last ones that several looks ended: by REJECT, or because
    the last look did not decide. These two and ``rejections`` are those since the last champion but one, oldest first:
    what was compared before cannot wait for the current champion.
    """

    format: Literal[2] = 2
    sequence: int = 0
    digest: str = ""
    champion: ChampionFacts | None = None
    holds: list[LookVerdict] = []
    settled: list[LookVerdict] = []
    rejections: list[Rejection] = []
    is_stored: bool = Field(
        default=True, exclude=True, description="Whether the cursor has them; empty ones need none."
    )

    def add(self, record: AuditRecord) -> None:
        """Add the next record of the model."""
        facts = record.facts
        if record.kind == CHAMPION_KIND:
            self._add_champion(record)
        elif record.kind == APPROVAL_KIND:
            by, evidence = record.actor, facts["evidence"]
            others = [
                each
                for each in self.rejections
                if (each.evidence, each.by.casefold()) != (evidence, by.casefold())  # names count without case
            ]
            is_rejection = facts[DECISION_KEY] == "reject"
            new = [Rejection(sequence=record.sequence, evidence=evidence, by=by, reason=facts["reason"])]
            self.rejections = others + (new if is_rejection else [])
        elif record.kind == VERDICT_KIND:
            self._add_verdict(record)
        elif record.kind == WAIT_ENDED_KIND:
            ended = [each for each in self.holds if each.digest == facts["verdict"]]
            self.holds = [each for each in self.holds if each not in ended]
            self._settle(ended if facts["action"] == EXHAUSTED else [])
        self.sequence, self.digest, self.is_stored = record.sequence, record.digest, False

    def _add_champion(self, record: AuditRecord) -> None:
        since = 0 if self.champion is None else self.champion.sequence
        self.holds = [each for each in self.holds if each.sequence > since]
        self.settled = [each for each in self.settled if each.sequence > since]
        self.rejections = [each for each in self.rejections if each.sequence > since]
        self.champion = ChampionFacts(sequence=record.sequence, **_selected(record, ChampionFacts))

    def _add_verdict(self, record: AuditRecord) -> None:
        facts = record.facts
        comparison = (facts["partition"], facts["candidate"], facts.get("champion"))
        self.holds, self.settled = (
            [each for each in verdicts if (each.partition, each.candidate, each.champion) != comparison]
            for verdicts in (self.holds, self.settled)
        )
        judged_afresh = "look" in facts and facts["look"]["number"] == 1
        for each in (*self.holds, *self.settled):
            each.is_replaced = each.is_replaced or each.partition == facts["partition"]
            each.is_corrected |= judged_afresh and facts["partition"] in each.look["windows"][1:]
        # Verdicts of earlier releases, and on models without windows of time, have no look.
        if "look" not in facts:
            return
        verdict = LookVerdict(sequence=record.sequence, **_selected(record, LookVerdict))
        if facts["decision"] == "HOLD":
            self.holds.append(verdict)
        elif facts["decision"] == "REJECT" and verdict.look["number"] > 1:
            self._settle([verdict])

    def _settle(self, verdicts: Iterable[LookVerdict]) -> None:
        self.settled = [*self.settled, *verdicts][-MAXIMUM_SETTLED:]

    @property
    def champion_digest(self) -> str | None:
        """Content digest of the current champion; None before the first promotion and after a retirement."""
        return None if self.champion is None or self.champion.action == RETIRE else self.champion.content_digest


def read_open_waits(audit: AuditLog, model: str) -> OpenWaits:
    """Return the open waits of ``model`` as of now: those of its cursor, and the records since."""
    with audit.state.read():
        stored = _stored(audit, model)
        if stored is not None and (newer := _newer(audit, model, stored)) is not None:
            return _with(stored, newer)
        champions = list(islice(audit.newest_first(CHAMPION_KIND, model), 2))
        first = champions[1].sequence if len(champions) == 2 else 1
        return _with(OpenWaits(), audit.records_from(first, KINDS, model))


def write_open_waits(audit: AuditLog, model: str, waits: OpenWaits) -> None:
    """Store ``waits`` in the cursor of ``model``, in the write transaction in which they were read."""
    if not waits.is_stored:
        write_cursor(audit.state, f"{WAITING_AREA}/{model}", waits.model_dump())


def _stored(audit: AuditLog, model: str) -> OpenWaits | None:
    try:
        value = read_cursor(audit.state, f"{WAITING_AREA}/{model}")
        return None if value is None else OpenWaits.model_validate(value)
    except ValidationError:
        return None  # another release wrote it; the log has everything


def _newer(audit: AuditLog, model: str, stored: OpenWaits) -> list[AuditRecord] | None:
    """Return the records after the last one of ``stored``; None when that one is not in this log."""
    records = audit.records_from(stored.sequence, KINDS, model)
    return records[1:] if records and records[0].digest == stored.digest else None


def _with(waits: OpenWaits, records: Iterable[AuditRecord]) -> OpenWaits:
    for record in records:
        waits.add(record)
    return waits


def _selected(record: AuditRecord, fields: type[BaseModel]) -> dict[str, Any]:
    return {name: record.facts[name] for name in fields.model_fields if name in record.facts}
