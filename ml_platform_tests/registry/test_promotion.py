"""A version becomes champion only on a verified verdict and a valid approval, and the log records each decision."""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from ml_platform.components.champion_aliases import followed_aliases
from ml_platform.data.canonical import canonical_json
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.verdict import Verdict, build_verdict, parse_verdict
from ml_platform.registry.approvals import ApprovalError, ApprovalSettings, approve
from ml_platform.registry.audit import AuditError, AuditLog
from ml_platform.registry.champion_history import ChampionRecord, champion_at, champion_history, current_champion
from ml_platform.registry.following_aliases import set_pending_aliases
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import (
    ApprovalPendingError,
    VersionRejectedError,
    append_champion_record,
    promote,
    reconcile,
    reject_version,
)
from ml_platform.registry.rollback import roll_back
from ml_platform.registry.verdict_record import (
    PromotionError,
    import_verdict_files,
    latest_evidence_digest,
    latest_verdict_of,
    latest_verdict_on,
    record_verdict,
    stored_verdict,
    verdict_metrics,
)
from ml_platform.state.schema import verdicts
from ml_platform.state.store import StateStore

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
PASSED = GateResult(name="metric_limit_auc", passed=True, numbers={"value": 0.77}, reason="auc 0.77")
METRICS = {"auc": 0.77, "rows": 1200.0}
FAILED = GateResult(name="calibration", passed=False, numbers={"ece": 0.2}, reason="ECE 0.2")

Register = Callable[[str], ModelVersion]
RecordedVerdict = Callable[..., str]
PromoteVersion = Callable[..., ChampionRecord]


@pytest.fixture
def audit(state_store: StateStore) -> AuditLog:
    return AuditLog(state_store)


@pytest.fixture
def recorded_verdict(audit: AuditLog) -> RecordedVerdict:
    """A function that records a verdict on a version and returns its digest."""

    def record(version: ModelVersion, gate: GateResult = PASSED, champion: ModelVersion | None = None) -> str:
        verdict = build_verdict(
            model=version.name,
            partition=version.partition,
            candidate=version.content_digest,
            champion=champion.content_digest if champion else None,
            gates=[gate],
            evidence="e" * 64,
            at=NOON,
        )
        record_verdict(audit, verdict.model_dump(), METRICS, actor="evaluation", at=NOON)
        return verdict.digest

    return record


@pytest.fixture
def promote_version(registry: ModelRegistry, audit: AuditLog) -> PromoteVersion:
    def promote_version(
        version: ModelVersion,
        verdict: str,
        at: datetime = NOON,
        approval: ApprovalSettings = ApprovalSettings(),  # noqa: B008 - frozen in these tests
    ) -> ChampionRecord:
        return promote(
            registry,
            audit,
            version,
            verdict_digest=verdict,
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
    audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    version = registered("tree")
    digest = recorded_verdict(version, FAILED)
    forged = dict(stored_verdict(audit.state, digest).content)
    forged["decision"] = "PROMOTE"
    forged["gates"][0]["passed"] = True
    with audit.state.write() as connection:
        connection.execute(verdicts.update().values(verdict=json.dumps(forged)))
    with pytest.raises(PromotionError, match=f"content with the digest {digest[:12]}, found digest"):
        promote_version(version, digest)


def test_forged_verdict_without_a_record_is_rejected(
    audit: AuditLog, registered: Register, promote_version: PromoteVersion
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
    record = audit.append("approval", actor="eve", at=NOON, facts={"model": "departure_risk", "digest": forged.digest})
    row = {
        **{name: getattr(forged, name) for name in ("digest", "model", "partition", "candidate", "evidence")},
        "sequence": record.sequence,
        "verdict": forged.model_dump_json(),
        "metrics": "{}",
        "recorded_at": NOON.isoformat(),
    }
    with audit.state.write() as connection:
        connection.execute(verdicts.insert().values(row))
    with pytest.raises(PromotionError, match="a verdict in the audit log, found record 1 of the kind 'approval'"):
        promote_version(version, forged.digest)


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


def test_missing_verdict_is_rejected(registered: Register, promote_version: PromoteVersion) -> None:
    with pytest.raises(PromotionError, match="Verdict ffffffffffff: expected a stored verdict, found none"):
        promote_version(registered("tree"), "f" * 64)


def test_broken_audit_log_stops_every_promotion(
    audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    version = registered("tree")
    verdict = recorded_verdict(version)
    with audit.state.write() as connection:
        connection.execute(sa.text("DROP TRIGGER audit_records_update"))
        connection.execute(sa.text("UPDATE audit_records SET actor = 'somebody'"))
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
    back = roll_back(audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)
    assert (back.version, back.action, back.decided_by) == (1, "roll_back", "mara")
    # It needs no MLflow, so it may have been killed here: the aliases follow.
    assert (alias(registry, "champion"), alias(registry, "previous")) == (2, 1)
    assert set_pending_aliases(registry, audit) == ["departure_risk"]
    assert set_pending_aliases(registry, audit) == []
    assert (alias(registry, "champion"), alias(registry, "previous")) == (1, None)


def test_sensor_sets_the_aliases_once_mlflow_answers_and_opens_it_only_then(
    registry: ModelRegistry,
    audit: AuditLog,
    registered: Register,
    recorded_verdict: RecordedVerdict,
    promote_version: PromoteVersion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = registered("tree"), registered("forest")
    promote_version(first, recorded_verdict(first))
    promote_version(second, recorded_verdict(second, champion=first))
    opened = []

    def look() -> str:
        found = followed_aliases(audit, lambda: opened.append(1) or registry)  # type: ignore[func-returns-value]
        return str(found.skip_message)

    assert look() == "MLflow's aliases are those of the audit log."
    assert opened == []
    roll_back(audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)

    def no_answer(*_: object) -> None:
        raise requests.exceptions.ConnectionError("refused")

    with monkeypatch.context() as down:
        down.setattr(registry, "by_alias", no_answer)
        assert "'departure_risk' must wait" in look()
    assert alias(registry, "champion") == 2
    assert look() == "The aliases of 'departure_risk' were set."
    assert alias(registry, "champion") == 1
    assert look() == "MLflow's aliases are those of the audit log."
    assert len(opened) == 2


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
        roll_back(audit, "departure_risk", decided_by="mara", reason="x", at=NOON, to_version=2)


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
        # Each promotion has its own store, like two processes.
        own = AuditLog(StateStore(path=audit.state.path))
        try:
            promote(
                registry,
                own,
                versions[number],
                verdict_digest=verdicts[number],
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
    roll_back(audit, "departure_risk", decided_by="mara", reason="errors", at=later)
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
        roll_back(audit, "departure_risk", decided_by=by, reason=reason, at=NOON)
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
        roll_back(audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)
    approve(audit, model="departure_risk", version=1, evidence="e" * 64, by="bob", reason="fair", at=NOON)
    assert roll_back(audit, "departure_risk", decided_by="mara", reason="errors", at=NOON).version == 1


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
    back = roll_back(audit, "departure_risk", decided_by="mara", reason="errors", at=NOON)
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


def verdict_at(version: ModelVersion, at: datetime, gate: GateResult = PASSED) -> Verdict:
    return build_verdict(
        model=version.name,
        partition=version.partition,
        candidate=version.content_digest,
        champion=None,
        gates=[gate],
        evidence=f"{at:%H}" * 32,
        at=at,
    )


def test_verdict_is_stored_with_its_metrics_and_recorded_once(audit: AuditLog, registered: Register) -> None:
    verdict = verdict_at(registered("tree"), NOON)
    first = record_verdict(audit, verdict.model_dump(), METRICS, actor="gates", at=NOON)
    again = record_verdict(audit, verdict.model_dump(), METRICS, actor="gates", at=NOON)
    stored = stored_verdict(audit.state, verdict.digest)
    assert first == again
    assert [record.sequence for record in audit.records("verdict")] == [1]
    assert parse_verdict(stored.content) == verdict
    assert (stored.metrics, verdict_metrics(audit.state, verdict.digest)) == (METRICS, METRICS)
    assert verdict_metrics(audit.state, None) == {}


def test_verdict_that_is_recorded_last_counts_also_when_the_clock_goes_back(
    audit: AuditLog, registered: Register
) -> None:
    version = registered("tree")
    for at in (NOON, NOON - timedelta(days=1)):
        record_verdict(audit, verdict_at(version, at).model_dump(), METRICS, actor="gates", at=at)
    last = verdict_at(version, NOON - timedelta(days=1))
    assert latest_verdict_on(audit, version).digest == last.digest
    found = latest_verdict_of(audit, "departure_risk", "2013-06")
    assert found is not None
    assert found.digest == last.digest
    assert latest_verdict_of(audit, "departure_risk", "2013-07") is None


def test_verdict_without_its_audit_record_is_not_stored(
    audit: AuditLog, registered: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = verdict_at(registered("tree"), NOON)
    monkeypatch.setattr(audit, "append", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        record_verdict(audit, verdict.model_dump(), METRICS, actor="gates", at=NOON)
    with pytest.raises(PromotionError, match="a stored verdict, found none"):
        stored_verdict(audit.state, verdict.digest)


def test_verdict_files_of_an_earlier_release_are_imported(
    audit: AuditLog, registered: Register, tmp_path: Path
) -> None:
    version, folder, numbers = registered("tree"), tmp_path / "verdicts", tmp_path / "metrics"
    kept, lost = verdict_at(version, NOON), verdict_at(version, NOON + timedelta(hours=1))
    for verdict in (kept, lost, kept):  # an earlier release recorded a repeated verdict again
        facts = {name: getattr(verdict, name) for name in ("model", "partition", "candidate", "decision", "evidence")}
        audit.append("verdict", actor="gates", at=NOON, facts={**facts, "digest": verdict.digest})
    folder.mkdir()
    numbers.mkdir()
    (folder / f"{kept.digest}.json").write_bytes(canonical_json(kept.model_dump()))
    (numbers / f"{kept.digest}.json").write_text('{"auc": 0.77, "rows": 1200.0}')

    missing = f"[Errno 2] No such file or directory: '{folder / lost.digest}.json'"
    assert import_verdict_files(audit, folder, numbers) == (1, [missing])
    assert import_verdict_files(audit, folder, numbers) == (0, [missing])

    assert latest_verdict_on(audit, version).sequence == 3
    assert verdict_metrics(audit.state, kept.digest) == METRICS


def test_changed_verdict_file_is_not_imported(audit: AuditLog, registered: Register, tmp_path: Path) -> None:
    verdict = verdict_at(registered("tree"), NOON, FAILED)
    facts = {name: getattr(verdict, name) for name in ("model", "partition", "candidate", "decision", "evidence")}
    audit.append("verdict", actor="gates", at=NOON, facts={**facts, "digest": verdict.digest})
    text = canonical_json(verdict.model_dump()).replace(b"REJECT", b"PROMOTE")
    (tmp_path / f"{verdict.digest}.json").write_bytes(text)
    added, (problem,) = import_verdict_files(audit, tmp_path, tmp_path / "metrics")
    assert added == 0
    assert f"expected content with the digest {verdict.digest[:12]}" in problem
    with pytest.raises(PromotionError, match="a stored verdict, found none"):
        stored_verdict(audit.state, verdict.digest)


PROMOTER = """
    import datetime, sys
    from pathlib import Path
    from ml_platform.registry.approvals import ApprovalSettings
    from ml_platform.registry.audit import AuditLog
    from ml_platform.registry.models import ModelRegistry
    from ml_platform.registry.promotion import promote
    from ml_platform.registry.tracking import Tracking
    from ml_platform.registry.verdict_record import PromotionError
    from ml_platform.state.store import StateStore
    root, number, digest = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    registry = ModelRegistry(Tracking(f"sqlite:///{root}/mlflow.db", root / "artifacts"))
    version = registry.version("departure_risk", number)
    audit = AuditLog(StateStore(path=root / "state.db"))
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        promote(registry, audit, version, verdict_digest=digest, approval=ApprovalSettings(), decided_by="champion",
                reason="gates", at=datetime.datetime(2013, 7, 1, tzinfo=datetime.UTC))
        print("promoted")
    except PromotionError as error:
        print(error)
"""


def test_one_of_two_promotions_in_two_processes_wins_and_the_other_says_so(
    audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict, registry: ModelRegistry, tmp_path: Path
) -> None:
    versions = [registered("tree"), registered("forest")]
    verdicts_of = [recorded_verdict(version) for version in versions]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROMOTER), str(tmp_path), str(version.version), digest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version, digest in zip(versions, verdicts_of, strict=True)
    ]
    for each in processes:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    printed = [each.communicate()[0] for each in processes]
    winner = printed.index("promoted\n")
    assert "expected a comparison with the current champion" in printed[1 - winner]
    (record,) = champion_history(audit, "departure_risk")
    assert record.version == versions[winner].version
    assert alias(registry, "champion") == record.version
    assert audit.verify() == 3


def test_champion_that_changed_since_it_was_read_is_not_replaced(
    audit: AuditLog, registered: Register, recorded_verdict: RecordedVerdict, promote_version: PromoteVersion
) -> None:
    version = registered("tree")
    promoted = promote_version(version, recorded_verdict(version))
    facts = dict(audit.records("champion")[0].facts)
    with pytest.raises(PromotionError, match="expected no champion, found version 1, by another decision"):
        append_champion_record(audit, facts, None, decided_by="mara", at=NOON)
    assert champion_history(audit, "departure_risk") == [promoted]
