"""From a verdict to a champion: promote the evaluated candidate, or record the decision of a person.

The asset `champion` and the commands `ml-platform approve` and `reject` call the same functions.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ml_platform.evaluation.verdict import Verdict, parse_verdict
from ml_platform.registry.approvals import ApprovalError, approve
from ml_platform.registry.champion_history import ChampionRecord, current_champion
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import ApprovalPendingError, VersionRejectedError, promote, reject_version
from ml_platform.registry.verdict_record import PromotionError, latest_verdict_of, latest_verdict_on
from ml_platform.steps.model import BoundModel
from ml_platform.steps.platform_stores import PlatformStores


@dataclass(frozen=True)
class ApprovalDecision:
    """A person's decision on a version, with the reason."""

    decision: Literal["approve", "reject"]
    by: str
    reason: str
    evidence: str = ""
    """First digits of the digest of the evidence that the person inspected; empty accepts the latest evidence."""


@dataclass(frozen=True)
class NotPromoted:
    """A version that was evaluated and not promoted, with the reason.

    ``state`` says what it waits for: an approval as ``challenger``, or more labels on ``hold``. It is ``rejected`` by a
    person, or ``refused`` by the gates.
    """

    version: int
    state: Literal["challenger", "rejected", "hold", "refused"]
    reason: str


def promote_candidate(
    model: BoundModel,
    window: str,
    stores: PlatformStores,
    *,
    decision: ApprovalDecision | None,
    decided_by: str,
    now: datetime,
) -> ChampionRecord | NotPromoted:
    """Promote the candidate of ``window`` on its latest verdict; return its record, or why it was not promoted.

    A verdict of HOLD or REJECT is a result: the version is not promoted, unless it is champion already. A ``decision``
    is recorded first, on the evidence of the verdict. Raises :class:`PromotionError` when the window has no verdict or
    one that compares with another champion, and for an approval of a version whose verdict is not PROMOTE.
    """
    verdict = latest_verdict(model, window, stores)
    version = evaluated_version(model, verdict, stores.registry)
    champion = current_champion(stores.audit, model.name)
    is_champion = champion is not None and champion.version == version.version
    if decision is None and verdict.decision != "PROMOTE" and not is_champion:
        return _not_passed(version, verdict)
    if decision is None:
        reason = f"All {len(verdict.gates)} gates passed on {version.partition}."
        return _promote_if_approved(model, version, verdict, decided_by, reason, stores, now)
    return _record_and_promote(model, version, verdict, decision, stores, now)


def record_decision(
    model: BoundModel, version: int, decision: ApprovalDecision, stores: PlatformStores, *, now: datetime
) -> ChampionRecord | NotPromoted:
    """Record a person's ``decision`` on ``version``; promote the version at once if nothing else is missing.

    Records nothing and raises :class:`PromotionError` when the version has no verdict, or when the decision approves a
    version whose verdict is not PROMOTE. Records nothing and raises
    :class:`~ml_platform.registry.approvals.ApprovalError` when the person did not inspect the latest evidence.
    """
    registered = stores.registry.version(model.name, version)
    verdict = parse_verdict(latest_verdict_on(stores.audit, registered).content)
    return _record_and_promote(model, registered, verdict, decision, stores, now)


def latest_verdict(model: BoundModel, window: str, stores: PlatformStores) -> Verdict:
    """Return the verdict on ``window`` that was recorded last; raises :class:`PromotionError` without one."""
    found = latest_verdict_of(stores.audit, model.name, window)
    if found is None:
        raise PromotionError(
            f"Model '{model.name}', {window}",
            expected="a recorded verdict",
            found="none",
            fix=f"Materialize {model.name}/evaluation for {window} first.",
        )
    return parse_verdict(found.content)


def evaluated_version(model: BoundModel, verdict: Verdict, registry: ModelRegistry) -> ModelVersion:
    """Return the registered version that ``verdict`` evaluates; raises :class:`PromotionError` without one."""
    version = registry.by_content(model.name, verdict.candidate)
    if version is None:
        raise PromotionError(
            f"Model '{model.name}', {verdict.partition}",
            expected=f"a registered version with content {verdict.candidate[:12]}",
            found="none",
            fix="Materialize the candidate again.",
        )
    return version


def _not_passed(version: ModelVersion, verdict: Verdict) -> NotPromoted:
    """Return the result for a verdict of HOLD or REJECT, with its reasons."""
    state: Literal["hold", "refused"] = "hold" if verdict.decision == "HOLD" else "refused"
    return NotPromoted(version.version, state, f"{verdict.decision}: {' '.join(verdict.reasons)}")


def _record_and_promote(
    model: BoundModel,
    version: ModelVersion,
    verdict: Verdict,
    decision: ApprovalDecision,
    stores: PlatformStores,
    now: datetime,
) -> ChampionRecord | NotPromoted:
    audit = stores.audit
    evidence = str(latest_verdict_on(audit, version).content["evidence"])
    _require_latest_evidence(version, decision, evidence)
    if decision.decision == "reject":
        reject_version(stores.registry, audit, version, by=decision.by, reason=decision.reason, at=now)
        return NotPromoted(version.version, "rejected", f"Rejected by {decision.by}: {decision.reason}")
    _require_promote_verdict(version, verdict)
    approve(
        audit,
        model=model.name,
        version=version.version,
        evidence=evidence,
        by=decision.by,
        reason=decision.reason,
        at=now,
    )
    try:
        return _promote_if_approved(model, version, verdict, decision.by, decision.reason, stores, now)
    except PromotionError as error:
        # The decision is recorded even if promotion fails, so report the reason to the person.
        return NotPromoted(version.version, "challenger", f"{error.found}. {error.fix}")


def _promote_if_approved(
    model: BoundModel,
    version: ModelVersion,
    verdict: Verdict,
    decided_by: str,
    reason: str,
    stores: PlatformStores,
    now: datetime,
) -> ChampionRecord | NotPromoted:
    try:
        return promote(
            stores.registry,
            stores.audit,
            version,
            verdict_digest=verdict.digest,
            approval=model.declared.approval,
            decided_by=decided_by,
            reason=reason,
            at=now,
        )
    except (ApprovalPendingError, VersionRejectedError) as error:
        rejected = isinstance(error, VersionRejectedError)
        return NotPromoted(version.version, "rejected" if rejected else "challenger", f"{error.found}. {error.fix}")


def _require_latest_evidence(version: ModelVersion, decision: ApprovalDecision, latest: str) -> None:
    if decision.evidence and not latest.startswith(decision.evidence):
        raise ApprovalError(
            f"Approval of '{version.name}' version {version.version}",
            expected=f"the evidence {decision.evidence[:12]}, which {decision.by} inspected, to be the latest",
            found=f"{latest[:12]} from a later evaluation",
            fix="Read the latest model card, and give the evidence digest that it shows.",
        )


def _require_promote_verdict(version: ModelVersion, verdict: Verdict) -> None:
    # A recorded approval would promote the version as soon as its gates are loosened.
    if verdict.decision != "PROMOTE":
        raise PromotionError(
            f"Approval of '{version.name}' version {version.version}",
            expected="a verdict of PROMOTE",
            found=f"{verdict.decision}: {'; '.join(verdict.reasons)}".rstrip("."),
            fix="Nothing was recorded. Improve the candidate, or wait for the labels that are needed.",
        )
