"""Nothing becomes champion but on a verified verdict and a standing approval, and the log says who, when and why."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_platform.evaluation.gates import GateResult
from ml_platform.evaluation.verdict import give_verdict, store
from ml_platform.registry.approvals import ApprovalSettings, approve
from ml_platform.registry.audit import AuditError, AuditLog
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import (
    ApprovalAwaited,
    Championship,
    PromotionRefused,
    champion_at,
    current,
    history,
    promote,
    reconcile,
    record_verdict,
    roll_back,
)

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
PASSED = GateResult(name="floor_auc", passed=True, numbers={"value": 0.77}, reason="auc 0.77")
FAILED = GateResult(name="calibration", passed=False, numbers={"ece": 0.2}, reason="ECE 0.2")

Register = Callable[[str], ModelVersion]
Judge = Callable[..., Path]
Promote = Callable[..., Championship]


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "decisions.jsonl")


@pytest.fixture
def judge(audit: AuditLog, tmp_path: Path) -> Judge:
    """Stores a verdict on the version and enters it into the log."""

    def judge(version: ModelVersion, gate: GateResult = PASSED, champion: ModelVersion | None = None) -> Path:
        verdict = give_verdict(
            model=version.name,
            partition=version.partition,
            candidate=version.content_digest,
            champion=champion.content_digest if champion else None,
            gates=[gate],
            evidence="e" * 64,
            at=NOON,
        )
        record_verdict(audit, verdict.model_dump(), actor="evaluation", at=NOON)
        return store(verdict, tmp_path / "verdicts")

    return judge


@pytest.fixture
def crown(registry: ModelRegistry, audit: AuditLog) -> Promote:
    def crown(
        version: ModelVersion,
        verdict: Path,
        at: datetime = NOON,
        approval: ApprovalSettings = ApprovalSettings(),  # noqa: B008 - frozen in these tests
    ) -> Championship:
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

    return crown


def alias(registry: ModelRegistry, name: str) -> int | None:
    found = registry.by_alias("departure_risk", name)
    return found.version if found else None


def test_promotion_moves_champion_and_previous(
    registry: ModelRegistry, registered: Register, judge: Judge, crown: Promote
) -> None:
    first, second = registered("tree"), registered("forest")
    crown(first, judge(first))
    assert (alias(registry, "champion"), alias(registry, "previous")) == (1, None)
    crown(second, judge(second, champion=first))
    assert (alias(registry, "champion"), alias(registry, "previous")) == (2, 1)


def test_same_promotion_again_changes_nothing(
    audit: AuditLog, registered: Register, judge: Judge, crown: Promote
) -> None:
    version = registered("tree")
    verdict = judge(version)
    assert crown(version, verdict) == crown(version, verdict, at=NOON + timedelta(days=1))
    assert len(history(audit, "departure_risk")) == 1


def test_verdict_with_a_failed_gate_is_refused(
    registry: ModelRegistry, registered: Register, judge: Judge, crown: Promote
) -> None:
    version = registered("tree")
    with pytest.raises(PromotionRefused, match=r"found REJECT \(gates not passed: calibration\)"):
        crown(version, judge(version, FAILED))
    assert alias(registry, "champion") is None


def test_tampered_verdict_is_refused(registered: Register, judge: Judge, crown: Promote) -> None:
    version = registered("tree")
    path = judge(version, FAILED)
    verdict = json.loads(path.read_text())
    verdict["decision"] = "PROMOTE"
    verdict["gates"][0]["passed"] = True
    path.write_text(json.dumps(verdict))
    with pytest.raises(PromotionRefused, match=f"a verdict with the digest {path.stem[:12]}, found content"):
        crown(version, path)


def test_forged_verdict_that_the_log_does_not_know_is_refused(
    registered: Register, crown: Promote, tmp_path: Path
) -> None:
    version = registered("tree")
    forged = give_verdict(
        model="departure_risk",
        partition="2013-06",
        candidate=version.content_digest,
        champion=None,
        gates=[PASSED],
        evidence="e" * 64,
        at=NOON,
    )
    with pytest.raises(PromotionRefused, match="a verdict that the audit log knows"):
        crown(version, store(forged, tmp_path))


def test_verdict_about_another_version_is_refused(registered: Register, judge: Judge, crown: Promote) -> None:
    first, second = registered("tree"), registered("forest")
    with pytest.raises(PromotionRefused, match=f"a verdict about content {second.content_digest[:12]}"):
        crown(second, judge(first))


def test_verdict_against_a_champion_of_the_past_is_refused(registered: Register, judge: Judge, crown: Promote) -> None:
    first, second, third = registered("tree"), registered("forest"), registered("net")
    crown(first, judge(first))
    outdated = judge(third, champion=first)
    crown(second, judge(second, champion=first))
    with pytest.raises(PromotionRefused, match=f"found a comparison with {first.content_digest[:12]}"):
        crown(third, outdated)


def test_absent_verdict_is_refused(registered: Register, crown: Promote, tmp_path: Path) -> None:
    with pytest.raises(PromotionRefused, match=r"a readable verdict at '.*none.json', found FileNotFoundError"):
        crown(registered("tree"), tmp_path / "none.json")


def test_broken_audit_log_stops_every_promotion(
    audit: AuditLog, registered: Register, judge: Judge, crown: Promote
) -> None:
    version = registered("tree")
    verdict = judge(version)
    audit.path.write_text(audit.path.read_text().replace("evaluation", "somebody"))
    with pytest.raises(AuditError, match="record 1"):
        crown(version, verdict)


def test_manual_approval_waits_as_challenger_until_someone_approves(
    registry: ModelRegistry, audit: AuditLog, registered: Register, judge: Judge, crown: Promote
) -> None:
    version, manual = registered("tree"), ApprovalSettings(mode="manual")
    verdict = judge(version)
    with pytest.raises(ApprovalAwaited, match=r"found 0 of 1 approvals\. Approve or reject it: ml-platform approve"):
        crown(version, verdict, approval=manual)
    assert (alias(registry, "challenger"), alias(registry, "champion")) == (1, None)
    approve(audit, model="departure_risk", version=1, evidence="e" * 64, by="mara", reason="ok", at=NOON)
    assert crown(version, verdict, approval=manual).approved_by == ("mara",)
    assert (alias(registry, "challenger"), alias(registry, "champion")) == (None, 1)


def test_rollback_restores_the_previous_champion_and_forgets_the_way_back_to_the_bad_one(
    registry: ModelRegistry, audit: AuditLog, registered: Register, judge: Judge, crown: Promote
) -> None:
    first, second = registered("tree"), registered("forest")
    crown(first, judge(first))
    crown(second, judge(second, champion=first))
    back = roll_back(registry, audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)
    assert (back.version, back.action, back.decided_by) == (1, "roll_back", "mara")
    assert (alias(registry, "champion"), alias(registry, "previous")) == (1, None)


def test_rollback_to_a_version_that_never_was_champion_is_refused(
    registry: ModelRegistry, audit: AuditLog, registered: Register, judge: Judge, crown: Promote
) -> None:
    first = registered("tree")
    registered("forest")
    crown(first, judge(first))
    with pytest.raises(PromotionRefused, match=r"version 2 among earlier champions, found champions \[1\], now 1"):
        roll_back(registry, audit, "departure_risk", decided_by="mara", reason="x", at=NOON, to_version=2)


def test_history_answers_which_version_was_champion_then_on_which_data_by_whom(
    audit: AuditLog, registered: Register, judge: Judge, crown: Promote
) -> None:
    first, second = registered("tree"), registered("forest")
    crown(first, judge(first), at=NOON)
    crown(second, judge(second, champion=first), at=NOON + timedelta(days=30))
    then = champion_at(audit, "departure_risk", NOON + timedelta(days=29))
    assert then is not None
    assert (then.version, then.decided_by, then.manifest["tables"]) == (1, "champion", {"datasets/flights": 6})
    assert champion_at(audit, "departure_risk", NOON - timedelta(seconds=1)) is None


def test_crash_between_record_and_aliases_is_mended(
    registry: ModelRegistry, audit: AuditLog, registered: Register, judge: Judge, crown: Promote
) -> None:
    first, second = registered("tree"), registered("forest")
    crown(first, judge(first))
    crown(second, judge(second, champion=first))
    # As a process killed right after the record leaves it.
    registry.set_alias("departure_risk", "champion", 1)
    registry.drop_alias("departure_risk", "previous")
    assert reconcile(registry, audit, "departure_risk")
    assert (alias(registry, "champion"), alias(registry, "previous")) == (2, 1)
    assert not reconcile(registry, audit, "departure_risk")


def test_no_champion_before_the_first_promotion(audit: AuditLog) -> None:
    assert current(audit, "departure_risk") is None
