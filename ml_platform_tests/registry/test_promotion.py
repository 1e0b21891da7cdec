"""A version becomes champion only on a verified verdict and a valid approval, and the log records each decision."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_platform.evaluation.gates import GateResult
from ml_platform.evaluation.verdict import build_verdict, store_verdict
from ml_platform.registry.approvals import ApprovalError, ApprovalSettings, approve
from ml_platform.registry.audit import AuditError, AuditLog
from ml_platform.registry.champion_history import ChampionRecord, champion_at, champion_history, current_champion
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import (
    ApprovalPendingError,
    VersionRejectedError,
    promote,
    reconcile,
    reject_version,
    roll_back,
)
from ml_platform.registry.verdict_record import PromotionError, latest_evidence_digest, record_verdict

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
PASSED = GateResult(name="metric_limit_auc", passed=True, numbers={"value": 0.77}, reason="auc 0.77")
FAILED = GateResult(name="calibration", passed=False, numbers={"ece": 0.2}, reason="ECE 0.2")

Register = Callable[[str], ModelVersion]
RecordedVerdict = Callable[..., Path]
PromoteVersion = Callable[..., ChampionRecord]


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "decisions.jsonl")


@pytest.fixture
def recorded_verdict(audit: AuditLog, tmp_path: Path) -> RecordedVerdict:
    """A function that stores a verdict on a version and records it in the log."""

    def record(version: ModelVersion, gate: GateResult = PASSED, champion: ModelVersion | None = None) -> Path:
        verdict = build_verdict(
            model=version.name,
            partition=version.partition,
            candidate=version.content_digest,
            champion=champion.content_digest if champion else None,
            gates=[gate],
            evidence="e" * 64,
            at=NOON,
        )
        record_verdict(audit, verdict.model_dump(), actor="evaluation", at=NOON)
        return store_verdict(verdict, tmp_path / "verdicts")

    return record


@pytest.fixture
def promote_version(registry: ModelRegistry, audit: AuditLog) -> PromoteVersion:
    def promote_version(
        version: ModelVersion,
        verdict: Path,
        at: datetime = NOON,
        approval: ApprovalSettings = ApprovalSettings(),  # noqa: B008 - frozen in these tests
    ) -> ChampionRecord:
        return promote(
            registry,
            audit,
            version,
            verdict_path=verdict,
            approval=approval,
            decided_by="champion",
            reason="gates",
            at=at,
        )

    return promote_version


def alias(registry: ModelRegistry, name: str) -> int | None:
    found = registry.by_alias("departure_risk", name)
    return found.version if found else None


def test_promotion_moves_champion_and_previous(
    registry: ModelRegistry, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    assert (alias(registry, "champion"), alias(registry, "previous")) == (1, None)
    promote_version(second, recorded_verdict(second, champion=first))
    assert (alias(registry, "champion"), alias(registry, "previous")) == (2, 1)


def test_repeated_promotion_changes_nothing(
    audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    version = registered("tree")
    verdict = recorded_verdict(version)
    assert promote_version(version, verdict) == promote_version(version, verdict, at=NOON + timedelta(days=1))
    assert len(champion_history(audit, "departure_risk")) == 1


def test_verdict_with_a_failed_gate_is_rejected(
    registry: ModelRegistry, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    version = registered("tree")
    with pytest.raises(PromotionError, match=r"found REJECT \(gates not passed: calibration\)"):
        promote_version(version, recorded_verdict(version, FAILED))
    assert alias(registry, "champion") is None


def test_tampered_verdict_is_rejected(
    registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    version = registered("tree")
    path = recorded_verdict(version, FAILED)
    verdict = json.loads(path.read_text())
    verdict["decision"] = "PROMOTE"
    verdict["gates"][0]["passed"] = True
    path.write_text(json.dumps(verdict))
    with pytest.raises(PromotionError, match=f"a verdict with the digest {path.stem[:12]}, found content"):
        promote_version(version, path)


def test_forged_verdict_without_a_record_is_rejected(
    registered: Register, promote_version: PromoteVersion, tmp_path: Path
) -> None:
    version = registered("tree")
    forged = build_verdict(
        model="departure_risk",
        partition="2013-06",
        candidate=version.content_digest,
        champion=None,
        gates=[PASSED],
        evidence="e" * 64,
        at=NOON,
    )
    with pytest.raises(PromotionError, match="a verdict in the audit log, found no record of the digest"):
        promote_version(version, store_verdict(forged, tmp_path))


def test_verdict_about_another_version_is_rejected(
    registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    first, second = registered("tree"), registered("forest")
    with pytest.raises(PromotionError, match=f"a verdict about content {second.content_digest[:12]}"):
        promote_version(second, recorded_verdict(first))


def test_verdict_against_a_former_champion_is_rejected(
    registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    first, second, third = registered("tree"), registered("forest"), registered("net")
    promote_version(first, recorded_verdict(first))
    outdated = recorded_verdict(third, champion=first)
    promote_version(second, recorded_verdict(second, champion=first))
    with pytest.raises(PromotionError, match=f"found a comparison with {first.content_digest[:12]}"):
        promote_version(third, outdated)


def test_missing_verdict_is_rejected(registered: Register, promote_version: PromoteVersion, tmp_path: Path) -> None:
    with pytest.raises(PromotionError, match=r"a readable verdict at '.*none.json', found FileNotFoundError"):
        promote_version(registered("tree"), tmp_path / "none.json")


def test_broken_audit_log_stops_every_promotion(
    audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    version = registered("tree")
    verdict = recorded_verdict(version)
    audit.path.write_text(audit.path.read_text().replace("evaluation", "somebody"))
    with pytest.raises(AuditError, match="record 1"):
        promote_version(version, verdict)


def test_version_without_its_approval_is_challenger_until_a_person_approves(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    version, manual = registered("tree"), ApprovalSettings(mode="manual")
    verdict = recorded_verdict(version)
    with pytest.raises(
        ApprovalPendingError, match=r"found 0 of 1 approvals\. Approve or reject it: ml-platform approve"
    ):
        promote_version(version, verdict, approval=manual)
    assert (alias(registry, "challenger"), alias(registry, "champion")) == (1, None)
    approve(audit, model="departure_risk", version=1, evidence="e" * 64, by="mara", reason="ok", at=NOON)
    assert promote_version(version, verdict, approval=manual).approved_by == ("mara",)
    assert (alias(registry, "challenger"), alias(registry, "champion")) == (None, 1)


def test_rollback_restores_the_previous_champion_and_removes_the_alias_previous(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    promote_version(second, recorded_verdict(second, champion=first))
    back = roll_back(registry, audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)
    assert (back.version, back.action, back.decided_by) == (1, "roll_back", "mara")
    assert (alias(registry, "champion"), alias(registry, "previous")) == (1, None)


def test_rollback_to_a_version_that_was_never_champion_is_rejected(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    first = registered("tree")
    registered("forest")
    promote_version(first, recorded_verdict(first))
    with pytest.raises(PromotionError, match=r"version 2 among earlier champions, found champions \[1\], now 1"):
        roll_back(registry, audit, "departure_risk", decided_by="mara", reason="x", at=NOON, to_version=2)


def test_history_gives_version_data_and_author_of_a_past_champion(
    audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first), at=NOON)
    promote_version(second, recorded_verdict(second, champion=first), at=NOON + timedelta(days=30))
    past = champion_at(audit, "departure_risk", NOON + timedelta(days=29))
    assert past is not None
    assert (past.version, past.decided_by, past.manifest["tables"]) == (1, "champion", {"datasets/flights": 6})
    assert champion_at(audit, "departure_risk", NOON - timedelta(seconds=1)) is None


def test_crash_between_record_and_aliases_is_repaired(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    promote_version(second, recorded_verdict(second, champion=first))
    # This is the state after a kill between the record and the aliases.
    registry.set_alias("departure_risk", "champion", 1)
    registry.delete_alias("departure_risk", "previous")
    assert reconcile(registry, audit, "departure_risk")
    assert (alias(registry, "champion"), alias(registry, "previous")) == (2, 1)
    assert not reconcile(registry, audit, "departure_risk")


def test_no_champion_before_the_first_promotion(audit: AuditLog) -> None:
    assert current_champion(audit, "departure_risk") is None


def test_concurrent_promotions_give_one_champion_and_one_error(
    registry: ModelRegistry, audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict
) -> None:
    versions = [registered("tree"), registered("forest")]
    verdicts = [recorded_verdict(version) for version in versions]

    def promote_version(number: int) -> bool:
        # Each promotion has its own log object, like two processes.
        own = AuditLog(audit.path)
        try:
            promote(
                registry,
                own,
                versions[number],
                verdict_path=verdicts[number],
                approval=ApprovalSettings(),
                decided_by="champion",
                reason="gates",
                at=NOON,
            )
        except PromotionError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(promote_version, [0, 1])) == [False, True]
    assert len(champion_history(audit, "departure_risk")) == 1


def test_rejected_challenger_loses_its_alias_and_stays_rejected(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    version, manual = registered("tree"), ApprovalSettings(mode="manual")
    verdict = recorded_verdict(version)
    with pytest.raises(ApprovalPendingError):
        promote_version(version, verdict, approval=manual)
    reject_version(registry, audit, version, by="mara", reason="slice JFK is off", at=NOON)
    assert alias(registry, "challenger") is None
    approve(audit, model="departure_risk", version=1, evidence="e" * 64, by="ed", reason="ok", at=NOON)
    with pytest.raises(VersionRejectedError, match="Rejected by mara: slice JFK is off"):
        promote_version(version, verdict, approval=manual)
    assert alias(registry, "challenger") is None


def test_version_without_a_verdict_cannot_be_approved_or_rejected(audit: AuditLog, registered: Register) -> None:
    with pytest.raises(PromotionError, match="a verdict to approve or reject, found none"):
        latest_evidence_digest(audit, registered("tree"))


def test_every_change_of_an_alias_is_in_the_log(
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
    registry: ModelRegistry,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    with pytest.raises(ApprovalPendingError):
        promote_version(second, recorded_verdict(second, champion=first), approval=ApprovalSettings(mode="manual"))
    reject_version(registry, audit, second, by="mara", reason="no", at=NOON)
    changes = [
        (record.kind, record.facts["version"])
        for record in audit.records()
        if record.kind in ("champion", "challenger")
    ]
    assert changes == [("champion", 1), ("challenger", 2), ("challenger", None)]


def test_version_that_was_rolled_back_needs_the_approval_of_a_person(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    verdict = recorded_verdict(second, champion=first)
    approve(audit, model="departure_risk", version=2, evidence="e" * 64, by="mara", reason="ok", at=NOON)
    promote_version(second, verdict)
    later = NOON + timedelta(hours=1)
    roll_back(registry, audit, "departure_risk", decided_by="mara", reason="errors", at=later)
    with pytest.raises(ApprovalPendingError, match="found 0 of 1 approvals"):
        promote_version(second, verdict, at=later)
    again = later + timedelta(hours=1)
    approve(audit, model="departure_risk", version=2, evidence="e" * 64, by="mara", reason="fixed", at=again)
    assert promote_version(second, verdict, at=again).version == 2


def test_rejection_of_the_champion_refers_to_a_rollback(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    version = registered("tree")
    promote_version(version, recorded_verdict(version))
    with pytest.raises(PromotionError, match=r"found the champion since 2013-07-01 12:00 UTC.*rollback"):
        reject_version(registry, audit, version, by="mara", reason="slice JFK is off", at=NOON)
    assert alias(registry, "champion") == 1


@pytest.mark.parametrize(("by", "reason"), [("", "errors"), ("mara", " ")])
def test_rollback_needs_a_name_and_a_reason(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
    by: str,
    reason: str,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    promote_version(second, recorded_verdict(second, champion=first))
    with pytest.raises(ApprovalError, match="Rollback of 'departure_risk': expected a name and a reason"):
        roll_back(registry, audit, "departure_risk", decided_by=by, reason=reason, at=NOON)
    assert len(champion_history(audit, "departure_risk")) == 2


def test_rollback_to_a_rejected_version_needs_the_approval_of_the_same_person(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    promote_version(second, recorded_verdict(second, champion=first))
    reject_version(registry, audit, first, by="bob", reason="unfair", at=NOON)
    with pytest.raises(VersionRejectedError, match=r"to version 1: .* found Rejected by bob: unfair\. The person who"):
        roll_back(registry, audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)
    approve(audit, model="departure_risk", version=1, evidence="e" * 64, by="bob", reason="fair", at=NOON)
    assert roll_back(registry, audit, "departure_risk", decided_by="mara", reason="errors", at=NOON).version == 1


def test_rollback_does_not_read_the_artifact_store(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
    tmp_path: Path,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    promote_version(second, recorded_verdict(second, champion=first))
    shutil.rmtree(tmp_path / "artifacts")
    back = roll_back(registry, audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)
    assert back.manifest == champion_history(audit, "departure_risk")[0].manifest


def test_crash_that_left_the_champion_as_challenger_is_repaired(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
) -> None:
    first = registered("tree")
    promote_version(first, recorded_verdict(first))
    registry.set_alias("departure_risk", "challenger", 1)
    assert reconcile(registry, audit, "departure_risk")
    assert alias(registry, "challenger") is None
