"""A champion that was deleted in MLflow is named; it can be restored from its files, or retired."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.console.status import _deleted_in_mlflow
from ml_platform.data.canonical import directory_digest
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.verdict import build_verdict
from ml_platform.registry.approvals import ApprovalError, ApprovalSettings
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import champion_at, champion_history, current_champion
from ml_platform.registry.missing_champion import restore_champion, retire_champion
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import ChampionMissingError, promote, reconcile, require_champion
from ml_platform.registry.rollback import roll_back
from ml_platform.registry.verdict_record import PromotionError, record_verdict
from ml_platform.state.store import StateStore
from resources.home import Home

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
MODEL = "departure_risk"

Promote = Callable[[ModelVersion, ModelVersion | None], None]


@pytest.fixture
def audit(state_store: StateStore) -> AuditLog:
    return AuditLog(state_store)


@pytest.fixture
def promote_version(registry: ModelRegistry, audit: AuditLog) -> Promote:
    """A function that records a passed verdict on a version over a champion, and promotes the version."""

    def promote_version(version: ModelVersion, over: ModelVersion | None) -> None:
        verdict = build_verdict(
            model=MODEL,
            partition=version.partition,
            candidate=version.content_digest,
            champion=over.content_digest if over else None,
            gates=[GateResult(name="auc", passed=True, numbers={}, reason="kept")],
            evidence="e" * 64,
            at=NOON,
        )
        record_verdict(audit, verdict.model_dump(), {}, actor="gates", at=NOON)
        settings = {"approval": ApprovalSettings(), "decided_by": "champion", "reason": "gates", "at": NOON}
        promote(registry, audit, version, verdict_digest=verdict.digest, **settings)  # type: ignore[arg-type]

    return promote_version


@pytest.fixture
def champions(registered: Callable[[str], ModelVersion], promote_version: Promote) -> list[ModelVersion]:
    """Two versions; the second is champion."""
    first, second = registered("tree"), registered("forest")
    promote_version(first, None)
    promote_version(second, first)
    return [first, second]


def aliases(registry: ModelRegistry) -> tuple[int | None, int | None]:
    found = [registry.by_alias(MODEL, alias) for alias in ("champion", "previous")]
    return tuple(None if one is None else one.version for one in found)  # type: ignore[return-value]


def restored(registry: ModelRegistry, audit: AuditLog, directories: list[Path], example: pl.DataFrame) -> int:
    record = restore_champion(
        registry,
        audit,
        MODEL,
        directories,
        input_example=example,
        decided_by="mara",
        reason="deleted by mistake",
        at=NOON,
    )
    return record.version


def test_deleted_champion_is_named_with_both_ways_out(
    registry: ModelRegistry, audit: AuditLog, champions: list[ModelVersion]
) -> None:
    registry.tracking.client.delete_model_version(MODEL, "2")
    champion = current_champion(audit, MODEL)
    assert champion is not None
    named = r"Champion version 2 of 'departure_risk': .*deleted there.*restore-version departure_risk.*retire departure"
    with pytest.raises(ChampionMissingError, match=named):
        require_champion(registry, champion)
    with pytest.raises(ChampionMissingError, match=named):
        reconcile(registry, audit, MODEL)


def test_deleted_champion_is_restored_from_a_folder_with_its_content(
    registry: ModelRegistry,
    audit: AuditLog,
    champions: list[ModelVersion],
    model_directory: Callable[..., Path],
    example: pl.DataFrame,
    tmp_path: Path,
) -> None:
    registry.tracking.client.delete_model_version(MODEL, "2")
    other, same = model_directory("tree"), model_directory("forest")
    assert restored(registry, audit, [tmp_path / "absent", other, same], example) == 3
    assert aliases(registry) == (3, 1)
    version = registry.version(MODEL, 3)
    assert version.content_digest == champions[1].content_digest
    assert directory_digest(registry.download(version, tmp_path / "again")) == champions[1].directory_digest
    record = champion_history(audit, MODEL)[-1]
    assert (record.action, record.version, record.previous_version, record.decided_by) == ("restore", 3, 1, "mara")
    assert restored(registry, audit, [], example) == 3  # repeated: nothing changes
    assert len(champion_history(audit, MODEL)) == 3
    assert roll_back(audit, MODEL, decided_by="mara", reason="x", at=NOON).version == 1


def test_model_without_manifest_gets_that_of_the_audit_log(
    registry: ModelRegistry,
    audit: AuditLog,
    champions: list[ModelVersion],
    model_directory: Callable[..., Path],
    example: pl.DataFrame,
    tmp_path: Path,
) -> None:
    bento = shutil.copytree(model_directory("forest"), tmp_path / "bento" / "model")
    (bento / "manifest.json").unlink()
    registry.tracking.client.delete_model_version(MODEL, "2")
    number = restored(registry, audit, [bento], example)
    assert registry.manifest(registry.version(MODEL, number)).tables == {"datasets/flights": 6}
    assert not (bento / "manifest.json").exists()


def test_restored_version_never_gets_the_number_of_another_decision(
    registry: ModelRegistry,
    audit: AuditLog,
    champions: list[ModelVersion],
    model_directory: Callable[..., Path],
    example: pl.DataFrame,
) -> None:
    registry.tracking.client.delete_registered_model(MODEL)
    # MLflow counts from 1 again, and version 1 is another model in the audit log.
    assert restored(registry, audit, [model_directory("forest")], example) == 2
    assert aliases(registry) == (2, None)
    assert registry.version(MODEL, 2).content_digest == champions[1].content_digest


def test_folder_with_other_content_restores_nothing(
    registry: ModelRegistry,
    audit: AuditLog,
    champions: list[ModelVersion],
    model_directory: Callable[..., Path],
    example: pl.DataFrame,
) -> None:
    registry.tracking.client.delete_model_version(MODEL, "2")
    changed = model_directory("forest")
    (changed / "weights.txt").write_text("changed")
    with pytest.raises(PromotionError, match=r"expected a folder with its content .*dvc pull.*ml-platform retire"):
        restored(registry, audit, [changed], example)
    assert len(champion_history(audit, MODEL)) == 2


def test_retired_champion_has_no_successor_and_the_next_version_needs_none(
    registry: ModelRegistry,
    audit: AuditLog,
    champions: list[ModelVersion],
    registered: Callable[[str], ModelVersion],
    promote_version: Promote,
) -> None:
    registry.tracking.client.delete_model_version(MODEL, "2")
    retire_champion(registry, audit, MODEL, decided_by="mara", reason="not needed", at=NOON + timedelta(hours=1))
    assert current_champion(audit, MODEL) is None
    assert aliases(registry) == (None, None)
    before = champion_at(audit, MODEL, NOON)
    assert before is not None
    assert before.version == 2
    assert champion_at(audit, MODEL, NOON + timedelta(hours=2)) is None
    with pytest.raises(PromotionError, match="expected a champion, found none"):
        retire_champion(registry, audit, MODEL, decided_by="mara", reason="again", at=NOON)
    third = registered("net")
    promote_version(third, None)
    assert aliases(registry) == (third.version, None)


def test_rollback_after_a_retirement_restores_the_champion_before_it(
    registry: ModelRegistry, audit: AuditLog, champions: list[ModelVersion]
) -> None:
    retire_champion(registry, audit, MODEL, decided_by="mara", reason="not needed", at=NOON)
    assert roll_back(audit, MODEL, decided_by="mara", reason="x", at=NOON).version == 1
    assert reconcile(registry, audit, MODEL)
    assert aliases(registry) == (1, None)


def test_deleted_previous_champion_loses_its_alias_only(
    registry: ModelRegistry, audit: AuditLog, champions: list[ModelVersion]
) -> None:
    registry.tracking.client.delete_model_version(MODEL, "1")
    assert not reconcile(registry, audit, MODEL)
    assert aliases(registry) == (2, None)


def test_retirement_needs_a_name_and_a_reason(
    registry: ModelRegistry, audit: AuditLog, champions: list[ModelVersion]
) -> None:
    with pytest.raises(ApprovalError, match="a name and a reason"):
        retire_champion(registry, audit, MODEL, decided_by=" ", reason="x", at=NOON)
    assert aliases(registry) == (2, 1)


def test_status_names_a_deleted_champion(
    registry: ModelRegistry, champions: list[ModelVersion], tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    home.mlflow.mkdir(parents=True)
    # The test's database takes the place of the home's.
    (home.mlflow / "mlflow.db").symlink_to(tmp_path / "mlflow.db")
    assert _deleted_in_mlflow(home, {MODEL: 2}) == {}
    registry.tracking.client.delete_model_version(MODEL, "2")
    assert _deleted_in_mlflow(home, {MODEL: 2}) == {
        MODEL: "version 2 was deleted in MLflow: restore it with `ml-platform restore-version departure_risk`, "
        "or end it with `ml-platform retire departure_risk`"
    }
    assert _deleted_in_mlflow(home, {MODEL: 1}) == {}
    registry.tracking.client.delete_registered_model(MODEL)
    assert _deleted_in_mlflow(home, {MODEL: 1}).keys() == {MODEL}
