"""Waiting candidates: those whose last verdict is HOLD, and the record that ends the wait of each.

They follow from the recorded verdicts, champions and rejections, so any process finds the same ones, and a process that
was killed has lost nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from ml_platform.registry.audit import AuditLog
from ml_platform.registry.open_waits import (
    EXHAUSTED,
    WAIT_ENDED_KIND,
    LookVerdict,
    OpenWaits,
    read_open_waits,
    write_open_waits,
)


@dataclass(frozen=True)
class WaitingCandidate:
    """A candidate that is judged again: one on HOLD when the next window closes, another after a correction.

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


@dataclass(frozen=True)
class Waits:
    """The candidates that wait, the one with the latest verdict first, and the ends that were recorded.

    ``corrected`` were settled by looks at windows of which one was judged again since, the latest verdict first.
    """

    waiting: list[WaitingCandidate]
    ended: list[EndedWait]
    corrected: list[WaitingCandidate]


def waiting_candidates(audit: AuditLog, model: str, maximum_looks: int | None = None) -> list[WaitingCandidate]:
    """Return the candidates of ``model`` that wait for a further window, the one with the latest verdict first.

    Those with ``maximum_looks`` looks are left out; None reads the records only, without the declaration.
    """
    waits = read_open_waits(audit, model)
    return [waiting for waiting, end in _on_hold(waits, model, maximum_looks) if end is None]


def end_waits(audit: AuditLog, model: str, maximum_looks: int, *, at: datetime) -> Waits:
    """Record the end of each candidate on HOLD that waits no longer, once; return these ends, and those that wait.

    A wait ends when the champion changes, when another candidate of its partition is judged, when a person rejects the
    candidate, and after ``maximum_looks`` looks. A verdict of PROMOTE or REJECT ends it too and is its own record. Only
    the records since the last call are read.
    """
    waits = read_open_waits(audit, model)
    found = list(_on_hold(waits, model, maximum_looks))
    if waits.is_stored and all(end is None for _, end in found):
        return Waits([waiting for waiting, _ in found], [], list(_corrected(waits, model)))
    ended = []
    with audit.state.write():  # two processes must not both find the end unrecorded
        waits = read_open_waits(audit, model)
        found = list(_on_hold(waits, model, maximum_looks))
        for waiting, end in found:
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
            waits.add(audit.append(WAIT_ENDED_KIND, actor="gates", at=at, facts=facts))
            ended.append(EndedWait(waiting, *end))
        write_open_waits(audit, model, waits)
    return Waits([waiting for waiting, end in found if end is None], ended, list(_corrected(waits, model)))


def _on_hold(
    waits: OpenWaits, model: str, maximum_looks: int | None
) -> Iterator[tuple[WaitingCandidate, tuple[str, str] | None]]:
    """Yield each candidate on HOLD without a recorded end, latest first, and why its wait is over (None: it is not)."""
    champion = waits.champion_digest
    rejections = {each.evidence: each for each in reversed(waits.rejections)}
    for hold in reversed(waits.holds):
        if hold.candidate == champion:
            continue
        waiting = _waiting(hold, model)
        if hold.champion != champion:
            yield waiting, ("superseded", _superseded(waits))
        elif hold.is_replaced:
            yield waiting, ("replaced", f"Another candidate of {hold.partition} was judged.")
        elif hold.evidence in rejections:
            by = rejections[hold.evidence]
            yield waiting, ("rejected", f"Rejected by {by.by}: {by.reason}")
        elif maximum_looks is not None and waiting.look >= maximum_looks:
            yield waiting, (EXHAUSTED, f"Look {waiting.look} of at most {maximum_looks} did not decide.")
        else:
            yield waiting, None


def _corrected(waits: OpenWaits, model: str) -> Iterator[WaitingCandidate]:
    """Yield each settled candidate with a corrected look that only its verdict keeps from the current champion."""
    rejected = {each.evidence for each in waits.rejections}
    for each in reversed(waits.settled):
        is_current = each.champion == waits.champion_digest and each.candidate != waits.champion_digest
        if each.is_corrected and is_current and not each.is_replaced and each.evidence not in rejected:
            yield _waiting(each, model)


def _superseded(waits: OpenWaits) -> str:
    champion = waits.champion
    if champion is None or waits.champion_digest is None:
        return "The champion that it was compared with was retired."
    return f"The champion is now version {champion.version} of {champion.partition} ({champion.action})."


def _waiting(verdict: LookVerdict, model: str) -> WaitingCandidate:
    return WaitingCandidate(
        model=model,
        partition=verdict.partition,
        candidate=verdict.candidate,
        champion=verdict.champion,
        verdict=verdict.digest,
        look=verdict.look["number"],
        windows=tuple(verdict.look["windows"]),
        until=verdict.look["until"],
        rows=verdict.look["pooled_rows"],
        labels_needed=verdict.labels_needed,
    )
