"""Waiting candidates: those whose last verdict is HOLD, and the record that ends the wait of each.

Nothing else is stored about them. They follow from the recorded verdicts, champions and rejections, so any process
finds the same ones, and a process that was killed has lost nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from typing import Any

from ml_platform.registry.approvals import APPROVAL_KIND, DECISION_KEY
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.champion_history import CHAMPION_KIND, RETIRE
from ml_platform.registry.verdict_record import VERDICT_KIND

WAIT_ENDED_KIND = "wait_ended"
"""Kind of the audit records that end the wait of a candidate without a verdict on it."""


@dataclass(frozen=True)
class WaitingCandidate:
    """A candidate on HOLD that is judged again when the next window closes.

    ``candidate`` and ``champion`` (None: no champion) are content digests, ``partition`` is that of the candidate, and
    ``verdict`` is the digest of its last verdict. ``look`` counts the looks so far at ``windows``, which end at
    ``until`` (ISO 8601) and have ``rows`` rows together.
    """

    model: str
    partition: str
    candidate: str
    champion: str | None
    verdict: str
    look: int
    windows: tuple[str, ...]
    until: str
    rows: int
    labels_needed: int | None


@dataclass(frozen=True)
class EndedWait:
    """The end of a wait: ``action`` is superseded, replaced, rejected or exhausted."""

    waiting: WaitingCandidate
    action: str
    reason: str


def waiting_candidates(audit: AuditLog, model: str, maximum_looks: int | None = None) -> list[WaitingCandidate]:
    """Return the candidates of ``model`` that wait for a further window, the one with the latest verdict first.

    Those with ``maximum_looks`` looks are left out; None reads the records only, without the declaration.
    """
    return [waiting for waiting, end in _on_hold(audit, model, maximum_looks) if end is None]


def end_waits(audit: AuditLog, model: str, maximum_looks: int, *, at: datetime) -> list[EndedWait]:
    """Record the end of each candidate on HOLD that waits no longer, once, and return the recorded ends.

    A wait ends when the champion changes, when another candidate of its partition is judged, when a person rejects the
    candidate, and after ``maximum_looks`` looks. A verdict of PROMOTE or REJECT ends it too and is its own record.
    """
    if all(end is None for _, end in _on_hold(audit, model, maximum_looks)):
        return []
    ended = []
    with audit.state.write():  # two processes must not both find the end unrecorded
        for waiting, end in _on_hold(audit, model, maximum_looks):
            if end is None:
                continue
            facts = {
                "model": model,
                "partition": waiting.partition,
                "candidate": waiting.candidate,
                "champion": waiting.champion,
                "verdict": waiting.verdict,
                "look": waiting.look,
                "action": end[0],
                "reason": end[1],
            }
            audit.append(WAIT_ENDED_KIND, actor="gates", at=at, facts=facts)
            ended.append(EndedWait(waiting, *end))
    return ended


def _on_hold(
    audit: AuditLog, model: str, maximum_looks: int | None
) -> Iterator[tuple[WaitingCandidate, tuple[str, str] | None]]:
    """Yield each candidate on HOLD without a recorded end, latest first, and why its wait is over (None: it is not)."""
    champions = list(islice(audit.newest_first(CHAMPION_KIND, model), 2))
    since = champions[1].sequence if len(champions) == 2 else 0
    champion = champions[0] if champions and champions[0].facts["action"] != RETIRE else None
    ended = {record.facts["verdict"] for record in _since(audit, WAIT_ENDED_KIND, model, since)}
    decided: dict[tuple[str, str], AuditRecord] = {}
    for record in _since(audit, APPROVAL_KIND, model, since):
        decided.setdefault((record.facts["evidence"], record.actor.casefold()), record)
    rejections = {key[0]: each for key, each in decided.items() if each.facts[DECISION_KEY] == "reject"}
    compared: set[tuple[Any, ...]] = set()
    partitions: set[str] = set()
    for record in _since(audit, VERDICT_KIND, model, since):
        facts = record.facts
        comparison = (facts["partition"], facts["candidate"], facts.get("champion"))
        is_last, is_replaced = comparison not in compared, facts["partition"] in partitions
        compared.add(comparison)
        partitions.add(facts["partition"])
        waits = is_last and facts["decision"] == "HOLD" and "look" in facts and facts["digest"] not in ended
        if not waits or (champion is not None and champion.facts["content_digest"] == facts["candidate"]):
            continue
        waiting = _waiting(facts, model)
        if waiting.champion != (None if champion is None else champion.facts["content_digest"]):
            yield waiting, ("superseded", _superseded(champion))
        elif is_replaced:
            yield waiting, ("replaced", f"Another candidate of {waiting.partition} was judged.")
        elif facts["evidence"] in rejections:
            by = rejections[facts["evidence"]]
            yield waiting, ("rejected", f"Rejected by {by.actor}: {by.facts['reason']}")
        elif maximum_looks is not None and waiting.look >= maximum_looks:
            yield waiting, ("exhausted", f"Look {waiting.look} of at most {maximum_looks} did not decide.")
        else:
            yield waiting, None


def _since(audit: AuditLog, kind: str, model: str, sequence: int) -> Iterator[AuditRecord]:
    return takewhile(lambda record: record.sequence > sequence, audit.newest_first(kind, model))


def _superseded(champion: AuditRecord | None) -> str:
    if champion is None:
        return "The champion that it was compared with was retired."
    facts = champion.facts
    return f"The champion is now version {facts['version']} of {facts['partition']} ({facts['action']})."


def _waiting(facts: Mapping[str, Any], model: str) -> WaitingCandidate:
    look = facts["look"]
    return WaitingCandidate(
        model=model,
        partition=facts["partition"],
        candidate=facts["candidate"],
        champion=facts["champion"],
        verdict=facts["digest"],
        look=look["number"],
        windows=tuple(look["windows"]),
        until=look["until"],
        rows=look["pooled_rows"],
        labels_needed=facts["labels_needed"],
    )
