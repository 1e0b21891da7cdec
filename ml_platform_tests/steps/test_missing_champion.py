"""A champion that was deleted in MLflow is restored from the places that still have its files, or retired by a verb."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from ml_platform.cli import app
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.verdict import build_verdict
from ml_platform.registry.approvals import ApprovalSettings
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.registry.manifest import MANIFEST_FILE, CodeInfo, HardwareInfo, Manifest
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.promotion import promote
from ml_platform.registry.verdict_record import PromotionError, record_verdict
from ml_platform.serving.bento_build import BentoVerification, BuiltBento
from ml_platform.serving.verified_bentos import record_verified_bento
from ml_platform.steps.missing_champion import restore_deleted_champion
from ml_platform.steps.packaging import model_directory
from ml_platform.steps.platform_stores import PlatformStores
from resources.home import HOME_VARIABLE, Home
from resources.home_lake import open_lake
from resources.mlflow import MlflowResource

MODEL, MONTH = "toy", "2013-06"
TRAINING_SET = f"models/{MODEL}/training_set/abc"
NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
ROWS = pl.DataFrame({"distance": [float(number) for number in range(8)], "label": [0, 1] * 4})


@pytest.fixture
def stores(tmp_path: Path) -> PlatformStores:
    """Stores in which version 1 of the model is champion, trained on a table of the lake."""
    home = Home(tmp_path / "home")
    home.mlflow.mkdir(parents=True)
    lake = open_lake(home)
    lake.write(TRAINING_SET, ROWS, MONTH)

    def no_online_store() -> None:
        raise AssertionError("this test needs no online store")

    opened = PlatformStores(home, tmp_path / "repository", lake, registry_of(home), no_online_store)  # type: ignore[arg-type]
    version = register(opened, tmp_path / "made")
    promote_version(opened, version)
    return opened


def registry_of(home: Home) -> Callable[[], ModelRegistry]:
    return lambda: MlflowResource.for_home(home).models


def register(stores: PlatformStores, directory: Path) -> ModelVersion:
    directory.mkdir()
    described = {"format": "ml_platform/1", "trainer": "lightgbm", "feature_names": ["distance"]}
    (directory / "model.json").write_text(json.dumps(described))
    (directory / "weights.txt").write_text("tree")
    manifest = Manifest(
        model=MODEL,
        partition=MONTH,
        trainer="lightgbm",
        tables={TRAINING_SET: 0},
        training_set="a" * 64,
        training_rows=8,
        code=CodeInfo(commit="c0ffee", dirty=False, sha256="b" * 64),
        lock=None,
        parameters={},
        seeds={},
        hardware=HardwareInfo(machine="x86_64 Linux", cpu_count=2, device="cpu"),
        data_clock=NOON.isoformat(),
        dagster_run_id="run",
        created_at=NOON.isoformat(),
    )
    (directory / MANIFEST_FILE).write_text(manifest.model_dump_json())
    with stores.registry.tracking.run(MODEL, "candidate", {}) as run:
        return stores.registry.register(MODEL, directory, run_id=run.run_id, input_example=ROWS.select("distance"))


def promote_version(stores: PlatformStores, version: ModelVersion) -> None:
    verdict = build_verdict(
        model=MODEL,
        partition=MONTH,
        candidate=version.content_digest,
        champion=None,
        gates=[GateResult(name="auc", passed=True, numbers={}, reason="kept")],
        evidence="e" * 64,
        at=NOON,
    )
    record_verdict(stores.audit, verdict.model_dump(), {}, actor="gates", at=NOON)
    promote(
        stores.registry,
        stores.audit,
        version,
        verdict_digest=verdict.digest,
        approval=ApprovalSettings(),
        decided_by="champion",
        reason="gates",
        at=NOON,
    )


def downloaded(stores: PlatformStores, version: ModelVersion) -> None:
    model_directory(version, stores)


def released(stores: PlatformStores, version: ModelVersion) -> None:
    stores.registry.download(version, stores.repository / "releases" / MODEL / "model")


def packaged(stores: PlatformStores, version: ModelVersion) -> None:
    """Record a verified bento, which contains the model without its manifest."""
    folder = stores.home.bentos / MODEL / "x"
    stores.registry.download(version, folder / "src" / "model")
    (folder / "src" / "model" / MANIFEST_FILE).unlink()
    record_verified_bento(
        stores.state,
        stores.home.bentos,
        BuiltBento(f"{MODEL}:x", folder, "c" * 64, 10),
        BentoVerification(8, 1.0, 2.0),
        version="1",
        model_digest=version.content_digest,
    )


def delete_in_mlflow(stores: PlatformStores) -> None:
    stores.registry.tracking.client.delete_model_version(MODEL, "1")


@pytest.mark.parametrize("keep", [downloaded, released, packaged])
def test_deleted_champion_is_restored_from_each_place_with_its_files(
    stores: PlatformStores, keep: Callable[[PlatformStores, ModelVersion], None]
) -> None:
    before = stores.registry.version(MODEL, 1)
    keep(stores, before)
    delete_in_mlflow(stores)
    record = restore_deleted_champion(MODEL, stores, by="mara", reason="deleted by mistake", now=NOON)
    again = stores.registry.by_alias(MODEL, "champion")
    assert again is not None
    assert (record.version, again.version, again.content_digest) == (2, 2, before.content_digest)
    assert stores.registry.manifest(again) == Manifest.model_validate(dict(record.manifest))


def test_input_example_of_a_restored_champion_comes_from_its_training_set(
    stores: PlatformStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded(stores, stores.registry.version(MODEL, 1))
    delete_in_mlflow(stores)
    examples: list[pl.DataFrame] = []
    register_again = ModelRegistry.register

    def recorded(*arguments: object, input_example: pl.DataFrame, **more: object) -> ModelVersion:
        examples.append(input_example)
        return register_again(*arguments, input_example=input_example, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRegistry, "register", recorded)
    restore_deleted_champion(MODEL, stores, by="mara", reason="deleted by mistake", now=NOON)
    assert examples[0].to_dict(as_series=False) == {"distance": [0.0, 1.0, 2.0, 3.0, 4.0]}


def test_model_without_a_champion_cannot_be_restored(stores: PlatformStores) -> None:
    with pytest.raises(PromotionError, match=r"'other': expected a champion, found none"):
        restore_deleted_champion("other", stores, by="mara", reason="x", now=NOON)


def test_champion_whose_files_are_lost_names_the_places_that_were_tried(stores: PlatformStores) -> None:
    delete_in_mlflow(stores)
    shutil.rmtree(stores.home.models, ignore_errors=True)
    with pytest.raises(PromotionError, match=r"a folder with its content .*releases/toy/model"):
        restore_deleted_champion(MODEL, stores, by="mara", reason="x", now=NOON)


# The verbs.


def decide(verb: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(HOME_VARIABLE, str(home.root))
    done = CliRunner().invoke(app, [verb, MODEL, "--by", "mara", "--reason", "deleted by mistake"])
    assert done.exit_code == 0, done.output
    return done.output


def test_verb_restores_a_deleted_champion_and_names_the_next_command(
    stores: PlatformStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded(stores, stores.registry.version(MODEL, 1))
    delete_in_mlflow(stores)
    output = decide("restore-version", stores.home, monkeypatch)
    assert "The champion of 'toy' is version 2 in MLflow." in output
    assert f"""'key:"toy/bento" or key:"toy/rollout"' --partitions {MONTH} --force""" in output
    champion = current_champion(AuditLog(stores.state), MODEL)
    assert champion is not None
    assert (champion.version, champion.decided_by, champion.action) == (2, "mara", "restore")


def test_verb_retires_a_deleted_champion(stores: PlatformStores, monkeypatch: pytest.MonkeyPatch) -> None:
    delete_in_mlflow(stores)
    output = decide("retire", stores.home, monkeypatch)
    assert "Version 1 is champion of 'toy' no longer" in output
    assert current_champion(AuditLog(stores.state), MODEL) is None
    assert AuditLog(stores.state).records("champion", MODEL)[-1].actor == "mara"
