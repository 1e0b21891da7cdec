"""The decision on a candidate (PROMOTE, HOLD or REJECT) with its reasons, as a stored record named by its digest.

Promotion reads the stored record back and trusts only its digest, not the process that wrote it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.canonical import value_digest
from ml_platform.errors import PlatformError
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.look import Look, labels_needed_text, waiting_text, windows_needed

Decision = Literal["PROMOTE", "HOLD", "REJECT"]


class VerdictError(PlatformError):
    """Raised when a stored verdict is unreadable, or does not match its digest."""


class Verdict(BaseModel):
    """The decision on one candidate, with its gates and its evidence.

    ``candidate`` and ``champion`` are content digests of model directories. ``evidence`` is the digest of the evidence,
    and ``table`` is the content hash of its stored rows. ``looks`` are those at the windows that the evidence pools, in
    order; it is empty for a model whose candidates are judged once. ``days_needed`` is the length of data that has
    ``labels_needed`` labels at the rate of the last window. ``digest`` covers all other fields of the record.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    partition: str
    candidate: str
    champion: str | None
    decision: Decision
    gates: list[GateResult]
    reasons: list[str]
    labels_needed: int | None
    days_needed: float | None = None
    evidence: str
    table: str = ""
    looks: list[Look] = Field(default_factory=list)
    decided_at: str
    digest: str

    @property
    def notes(self) -> list[str]:
        """The reasons after those of the gates: what would decide a HOLD, and whether it is judged again."""
        return self.reasons[len(decide(self.gates)[1]) :]


def decide(gates: Sequence[GateResult]) -> tuple[Decision, list[str]]:
    """Return the decision and its reasons.

    It is PROMOTE when all gates passed, HOLD when only undecided gates failed, and REJECT otherwise. Without any gate
    it is REJECT.
    """
    if not gates:
        return "REJECT", ["No gate is declared, so no evidence supports a promotion."]
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return "PROMOTE", [f"{gate.name}: {gate.reason}" for gate in gates]
    decision: Decision = "HOLD" if all(gate.undecided for gate in failed) else "REJECT"
    return decision, [f"{gate.name}: {gate.reason}" for gate in failed]


def build_verdict(
    *,
    model: str,
    partition: str,
    candidate: str,
    champion: str | None,
    gates: Sequence[GateResult],
    evidence: str,
    at: datetime,
    table: str = "",
    looks: Sequence[Look] = (),
    maximum_looks: int = 1,
    labels_per_day: float | None = None,
) -> Verdict:
    """Return the verdict on ``candidate`` over ``champion`` (content digests), with its own digest.

    The reasons of a HOLD say how many labels would decide, and how much time they are at ``labels_per_day``. They also
    say whether the candidate is judged again, by its ``looks`` and ``maximum_looks``.
    """
    decision, reasons = decide(gates)
    wanted = [gate.labels_needed for gate in gates if not gate.passed and gate.labels_needed]
    needed = max(wanted, default=None) if decision == "HOLD" else None
    days = needed / labels_per_day if needed and labels_per_day else None
    if needed:
        said = f" {labels_needed_text(needed, None)}"  # by its gate, which does not know the rate of labels
        reasons = [*(each.replace(said, "") for each in reasons), labels_needed_text(needed, days)]
    if looks and decision == "HOLD":
        windows = windows_needed(needed, looks[-1].pooled_rows, len(looks))
        reasons.append(waiting_text(len(looks), maximum_looks, windows))
    content = {
        "model": model,
        "partition": partition,
        "candidate": candidate,
        "champion": champion,
        "decision": decision,
        "gates": [gate.model_dump() for gate in gates],
        "reasons": reasons,
        "labels_needed": needed,
        "days_needed": days,
        "evidence": evidence,
        "table": table,
        "looks": [look.model_dump() for look in looks],
        "decided_at": at.isoformat(),
    }
    return Verdict.model_validate({**content, "digest": value_digest(content)})


def parse_verdict(stored: Mapping[str, Any]) -> Verdict:
    """Return the verdict of its stored JSON values.

    Raises :class:`VerdictError` in three cases: a field is absent or wrong; the digest of the content differs from the
    stored one; the decision does not follow from the gates.
    """
    name = str(stored.get("digest"))[:12]
    try:
        verdict = Verdict.model_validate(stored)
    except ValueError as error:
        raise _invalid_verdict(name, "a readable verdict", type(error).__name__) from error
    # Take the digest of the stored fields: an older record lacks the fields that were added later.
    actual = value_digest({name: value for name, value in stored.items() if name != "digest"})
    if actual != verdict.digest:
        raise _invalid_verdict(name, f"content with the digest {name}", f"digest {actual[:12]}")
    decision, _ = decide(verdict.gates)
    if decision != verdict.decision:
        raise _invalid_verdict(name, f"the decision {decision} that follows from its gates", verdict.decision)
    return verdict


def _invalid_verdict(name: str, expected: str, found: str) -> VerdictError:
    return VerdictError(
        f"Verdict '{name}'",
        expected=expected,
        found=found,
        fix="Materialize the evaluation again; promotion ignores this record.",
    )
