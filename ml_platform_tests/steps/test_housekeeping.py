"""Housekeeping on a home with everything in it: each kind of content goes by its age, and protected content stays."""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import optuna
import polars as pl
import pytest
import sqlalchemy as sa

from ml_platform.components.platform_assets import housekeeping
from ml_platform.components.stores import open_home_stores
from ml_platform.data.contract_record import record_passed
from ml_platform.data.lake import LakeError
from ml_platform.data.landing import Landing, LandingError
from ml_platform.data.landing_index import LandingIndex
from ml_platform.evaluation.gate_result import GateResult
from ml_platform.evaluation.verdict import build_verdict
from ml_platform.monitoring.cost_records import StepCost, Used, asset_days, days_before, record_step
from ml_platform.monitoring.estimates import ESTIMATORS
from ml_platform.registry.approvals import approve, reject
from ml_platform.registry.champion_history import CHAMPION_KIND, champion_history
from ml_platform.registry.manifest import CodeInfo, HardwareInfo, Manifest
from ml_platform.registry.models import CHALLENGER, ModelRegistry, ModelVersion
from ml_platform.registry.promotion import reconcile
from ml_platform.registry.tracking import Tracking
from ml_platform.registry.verdict_record import record_verdict
from ml_platform.serving.bento_build import BentoVerification, BuiltBento
from ml_platform.serving.desired_state import DesiredState, ServedVersion, swap_desired_state
from ml_platform.serving.verified_bentos import record_verified_bento, verified_bento_of
from ml_platform.state.cursors import cursors_below, write_cursor
from ml_platform.state.schema import desired_states, step_costs
from ml_platform.state.sqlite_file import StateLockedError
from ml_platform.state.store import StateStore
from ml_platform.steps.backup import CLEANING_LOCK
from ml_platform.steps.housekeeping import HOUSEKEEPING_KIND, CleaningReport, clean
from ml_platform.steps.pins import pin_holder, pin_registered_versions
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.retention import ModelPolicy, RetentionPolicies, RetentionSettings
from resources.dagster_home import HomeResource
from resources.home import Home
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource
from resources.state import open_state

MODEL = "late"
TRAINING_SET = "models/late/training_set/ab"
NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=100)
CHAMPION_SINCE = {1: NOW - timedelta(days=900), 2: NOW - timedelta(days=300), 3: NOW - timedelta(days=200)}
"""Time at which a version became champion; the first was replaced 400 days before the cleaning."""

OLD = {1, 6, 7}
"""A former champion of long ago, a rejected version, and one that was never promoted; all others are protected."""

RETENTION = RetentionSettings(
    raw_files_days=30, table_versions_days=30, predictions_days=60, prediction_pii_days=30, outcomes_days=60
)
POLICIES = RetentionPolicies(RETENTION, models={MODEL: ModelPolicy(RETENTION, {"email"}, ("order",))})


@dataclass(frozen=True)
class FullHome:
    """A home with nine versions of one model, and with content of every kind."""

    home: Home
    stores: PlatformStores

    @property
    def registry(self) -> ModelRegistry:
        return self.stores.registry

    def clean(self, now: datetime = LATER, *, dry_run: bool = False) -> CleaningReport:
        return clean(self.stores, POLICIES, now=now, by="ada", dry_run=dry_run)

    def versions(self) -> set[int]:
        return {each.version for each in self.registry.versions(MODEL)}

    def content(self, number: int) -> str:
        return next(each.content_digest for each in self.registry.versions(MODEL) if each.version == number)


def manifest(number: int, table_version: int) -> Manifest:
    return Manifest(
        model=MODEL,
        partition="2013-06",
        trainer="lightgbm",
        tables={TRAINING_SET: table_version},
        training_set=f"{number:064d}",
        training_rows=3,
        code=CodeInfo(commit="c0ffee", dirty=False, sha256="b" * 64),
        lock=None,
        parameters={},
        seeds={},
        hardware=HardwareInfo(machine="x86_64 Linux", cpu_count=2, device="cpu"),
        data_clock="2013-07-01T04:00:00+00:00",
        dagster_run_id="run-1",
        created_at="2026-11-21T08:00:00+00:00",
    )


def register(stores: PlatformStores, scratch: Path, number: int) -> ModelVersion:
    written = stores.lake.write(TRAINING_SET, pl.DataFrame({"label": [number]}), "2013-06")
    directory = scratch / f"model{number}"
    directory.mkdir()
    (directory / "model.json").write_text(
        json.dumps({"format": "ml_platform/1", "trainer": "lightgbm", "feature_names": ["distance"]})
    )
    (directory / "weights.txt").write_text(f"weights of {number}")
    (directory / "manifest.json").write_text(manifest(number, written.version).model_dump_json())
    with stores.registry.tracking.run(MODEL, f"fit {number}", {}) as run:
        run.log_metrics({"auc": 0.7})
        return stores.registry.register(
            MODEL, directory, run_id=run.run_id, input_example=pl.DataFrame({"distance": [1.0]})
        )


def package(home: Home, state: StateStore, version: ModelVersion) -> Path:
    folder = home.bentos / "bentos" / MODEL / f"{version.version}-aa"
    (folder / "src").mkdir(parents=True)
    (folder / "bento.yaml").write_text("name: late\n")
    built = BuiltBento(f"{MODEL}:{folder.name}", folder, "a" * 64, 11)
    record_verified_bento(
        state,
        home.bentos,
        built,
        BentoVerification(1, 1.0, 2.0),
        version=str(version.version),
        model_digest=version.content_digest,
    )
    return folder


def evaluate(stores: PlatformStores, version: ModelVersion) -> str:
    evidence = hashlib.sha256(version.content_digest.encode()).hexdigest()
    verdict = build_verdict(
        model=MODEL,
        partition=version.partition,
        candidate=version.content_digest,
        champion=None,
        gates=[GateResult(name="metric_limit_auc", passed=True, numbers={}, reason="auc")],
        evidence=evidence,
        at=NOW,
    )
    record_verdict(stores.audit, verdict.model_dump(), {"auc": 0.7}, actor="gates", at=NOW)
    stores.home.evidence.mkdir(parents=True, exist_ok=True)
    (stores.home.evidence / f"{evidence}.parquet").write_bytes(b"evidence")
    return evidence


def make_champion(stores: PlatformStores, version: ModelVersion) -> None:
    previous = version.version - 1 or None
    facts = {
        "model": MODEL,
        "version": version.version,
        "previous_version": previous,
        "action": "promote",
        "reason": "better",
        "content_digest": version.content_digest,
        "partition": version.partition,
        "manifest": {},
        "verdict": None,
        "approved_by": [],
    }
    stores.audit.append(CHAMPION_KIND, actor="gates", at=CHAMPION_SINCE[version.version], facts=facts)


def log_predictions(stores: PlatformStores) -> None:
    rows = pl.DataFrame(
        {
            "prediction_id": ["p1"],
            "request": ['{"order":1,"email":"a@example.org"}'],
            "features": ["{}"],
        }
    )
    for day in (NOW - timedelta(days=1), LATER - timedelta(days=50), LATER - timedelta(days=1)):
        stores.lake.append("models/late/predictions", rows, day.date().isoformat())


def land(stores: PlatformStores, month: str, text: str, *, published: bool) -> None:
    landing = Landing(stores.home.landing)
    landed = landing.land_bytes("orders", month, text.encode(), "csv")
    if published:
        record_passed(stores.state, "orders", month, content_digest="d", landed_sha256=landed.sha256)
    LandingIndex(landing, stores.state).refresh("orders", lambda name: name.startswith("2013-"))


def write(path: Path, text: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that the tests copy."""
    root = tmp_path_factory.mktemp("full")
    home, scratch = Home(root / "home"), root / "scratch"
    scratch.mkdir()
    stores = open_home_stores(home)
    versions = [register(stores, scratch, number) for number in range(1, 10)]
    evidence = {each.version: evaluate(stores, each) for each in versions}
    folders = {each.version: package(home, stores.state, each) for each in versions}
    for each in versions:
        write(home.models / MODEL / str(each.version) / "model.json")
        if each.version in CHAMPION_SINCE:
            make_champion(stores, each)
    reconcile(stores.registry, stores.audit, MODEL)
    stores.registry.set_alias(MODEL, CHALLENGER, 4)
    decisions = {"model": MODEL, "by": "ada", "reason": "seen", "at": NOW}
    approve(stores.audit, version=5, evidence=evidence[5], **decisions)  # type: ignore[arg-type]
    reject(stores.audit, version=6, evidence=evidence[6], **decisions)  # type: ignore[arg-type]
    served = {
        role: ServedVersion(version=str(number), bento=folders[number].relative_to(home.bentos).as_posix())
        for role, number in (("stable", 3), ("shadow", 9))
    }
    desired = DesiredState(stable=served["stable"], shadow=served["shadow"], weights={"stable": 100})
    swap_desired_state(stores.state, MODEL, desired, 0)
    pin_registered_versions(stores)
    log_predictions(stores)
    land(stores, "2013-01", "published", published=True)
    land(stores, "2013-02", "not yet published", published=False)
    land(stores, "2013-03", "published in another form", published=True)
    land(stores, "2013-03", "landed again", published=False)
    for path in (
        home.reports / "data_docs" / "orders" / "2013-01" / "index.html",
        home.models / "checkpoints" / MODEL / "lightgbm" / "2013-01" / "state.json",
        home.records / "outbox" / "dead_letters" / "0001-ab" / "operations.jsonl",
        home.logs / "webserver.log",
        home.logs / "webserver.log.1",
        home.logs / "service.late-1-aa.log",
        home.logs / "service.late-3-aa.log",
    ):
        write(path)
    searches = home.models / "studies" / "late-lightgbm.db"
    searches.parent.mkdir()
    optuna.create_study(study_name="lightgbm/ab", storage=f"sqlite:///{searches}").ask()
    return root


@pytest.fixture
def full(made_home: Path, tmp_path: Path) -> Iterator[FullHome]:
    home = Home(tmp_path / "home")
    shutil.copytree(made_home / "home", home.root)
    stores = open_home_stores(home)
    repository = tmp_path / "repository"
    write(repository / "releases" / MODEL / "release.json", '{"name": "late", "version": 8}')
    yield FullHome(home, replace(stores, repository=repository))
    stores.state.close()


def tree(root: Path) -> dict[str, str]:
    """Return the digest of each file below ``root``; SQLite's companion files exist only while a database is open."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm", "-journal"))
    }


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_old_versions_go_with_all_that_belongs_to_them_and_protected_ones_stay(full: FullHome) -> None:
    contents = {number: full.content(number) for number in full.versions()}
    inputs = {each.version: each.inputs_digest for each in full.registry.versions(MODEL)}
    artifacts = {each.version: full.home.artifacts / MODEL / each.run_id for each in full.registry.versions(MODEL)}
    for number in contents:
        write_cursor(full.stores.state, f"{ESTIMATORS}{MODEL}/{number}", {"basis": "an evaluation"})
    report = full.clean()

    assert report.problems == []
    assert report.model_versions == ["late 1", "late 6", "late 7"]
    assert full.versions() == set(contents) - OLD
    assert set(map(int, cursors_below(full.stores.state, f"{ESTIMATORS}{MODEL}/"))) == set(contents) - OLD
    for number, content in contents.items():
        gone = number in OLD
        assert (full.registry.by_content(MODEL, content) is None) == gone
        assert (full.registry.by_inputs(MODEL, inputs[number]) is None) == gone
        assert (not files_below(artifacts[number])) == gone
        assert (not (full.home.bentos / "bentos" / MODEL / f"{number}-aa").exists()) == gone
        assert (verified_bento_of(full.stores.state, MODEL, str(number)) is None) == gone
        assert (pin_holder(MODEL, content) not in full.stores.lake.catalog.pins()) == gone
        assert (not (full.home.evidence / f"{hashlib.sha256(content.encode()).hexdigest()}.parquet").exists()) == gone
    assert not (full.home.models / MODEL / "1").exists()


def test_pinned_table_versions_stay_and_those_of_removed_versions_go(full: FullHome) -> None:
    full.clean()
    lake = full.stores.lake
    # Version n of the model was trained on version n - 1 of the table.
    readable = []
    for number in range(9):
        try:
            (label,) = lake.scan(TRAINING_SET, number).collect()["label"]
        except LakeError:
            continue
        assert label == number + 1
        readable.append(number + 1)
    assert set(readable) == set(range(1, 10)) - OLD


def test_cleaning_is_one_record_and_the_history_stays(full: FullHome) -> None:
    full.clean()
    (record,) = full.stores.audit.records(HOUSEKEEPING_KIND)
    assert record.actor == "ada"
    assert record.facts["model_versions"] == ["late 1", "late 6", "late 7"]
    assert record.facts["items"]["bentos"] == 3
    assert record.facts["bytes"]["bentos"] == 3 * len("name: late\n")
    assert [each.version for each in champion_history(full.stores.audit, MODEL)] == [1, 2, 3]
    assert full.stores.audit.verify() == record.sequence


def test_costs_of_old_steps_go_and_their_sums_stay_longer(full: FullHome) -> None:
    for number, days in enumerate((2000, 60, 1)):
        used = Used(cpu_seconds=1.0)
        ended = LATER - timedelta(days=days)
        record_step(full.stores.state, StepCost(str(number), "late/champion", 0, "", MODEL, False, ended, used))
    kinds = {each.kind: each.items for each in full.clean().kinds}
    assert (kinds["costs of steps"], kinds["costs of days"]) == (2, 1)
    kept = asset_days(full.stores.state, (LATER - timedelta(days=3000)).date(), LATER.date())
    assert [(LATER.date() - each.day).days for each in kept] == [60, 1]
    assert len(days_before(full.stores.state, step_costs, LATER.date())) == 1


def test_second_cleaning_frees_nothing_and_records_nothing(full: FullHome) -> None:
    full.clean()
    after = tree(full.home.root)
    again = full.clean()
    assert (again.items, again.kinds, again.model_versions) == (0, [], [])
    assert len(full.stores.audit.records(HOUSEKEEPING_KIND)) == 1
    changed = {name for name, digest in tree(full.home.root).items() if after.get(name) != digest}
    assert changed <= {"locks/cleaning.holder"}


def test_young_content_stays(full: FullHome) -> None:
    before = full.versions()
    report = full.clean(datetime.now(UTC))
    assert report.items == 0
    assert full.versions() == before


def test_dry_run_changes_no_file_and_predicts_the_cleaning(full: FullHome) -> None:
    before = tree(full.home.root)
    planned = clean(open_home_stores(full.home, deliver=False), POLICIES, now=LATER, by="ada", dry_run=True)
    assert tree(full.home.root) == before
    assert planned.dry_run

    planned = full.clean(dry_run=True)
    assert tree(full.home.root) == before
    done = full.clean()
    # The pins of removed versions still cover their tables during the dry run.
    names = {"table versions"}
    assert [each for each in planned.kinds if each.kind not in names] == [
        each for each in done.kinds if each.kind not in names
    ]
    assert planned.items > 20


def test_raw_files_go_only_when_their_content_is_published(full: FullHome) -> None:
    full.clean()
    landing = Landing(full.home.landing)
    assert landing.partitions("orders") == ["2013-02", "2013-03"]
    with pytest.raises(LandingError, match="found 2 other partitions"):
        landing.find("orders", "2013-01")
    state = LandingIndex(landing, full.stores.state).refresh("orders", lambda name: name.startswith("2013-"))
    assert [each.partition for each in state.due] == ["2013-02", "2013-03"]


def test_predictions_lose_personal_values_first_and_go_later(full: FullHome) -> None:
    full.clean()
    lake, table = full.stores.lake, "models/late/predictions"
    requests = dict(lake.scan(table).select("partition", "request").collect().rows())
    assert requests == {
        (LATER - timedelta(days=50)).date().isoformat(): '{"order":1,"email":null}',
        (LATER - timedelta(days=1)).date().isoformat(): '{"order":1,"email":"a@example.org"}',
    }
    old = (LATER - timedelta(days=50)).date().isoformat()
    assert [path for path in _files_with(lake.root, "a@example.org", table) if old in str(path)] == []


def _files_with(root: str, text: str, table: str) -> list[Path]:
    found = (Path(root) / table).rglob("*.parquet")
    return [path for path in found if pl.read_parquet(path)["request"].str.contains(text, literal=True).any()]


def test_logs_of_running_processes_are_emptied_and_those_of_ended_services_deleted(full: FullHome) -> None:
    with (full.home.logs / "webserver.log").open("a") as writer:
        full.clean()
        writer.write("a line after the cleaning\n")
    assert {path.name: path.read_text() for path in full.home.logs.iterdir()} == {
        "webserver.log": "a line after the cleaning\n",
        "service.late-3-aa.log": "",
    }


def test_pages_checkpoints_searches_and_dead_letters_go(full: FullHome) -> None:
    full.clean(NOW + timedelta(days=400))
    left = [path for path in full.home.root.rglob("*") if path.name in {"index.html", "state.json", "operations.jsonl"}]
    assert left == []
    assert not (full.home.models / "studies" / "late-lightgbm.db").exists()


def test_old_search_goes_and_a_later_one_in_the_same_file_stays(full: FullHome) -> None:
    file = full.home.models / "studies" / "late-lightgbm.db"
    optuna.create_study(study_name="lightgbm/cd", storage=f"sqlite:///{file}").ask()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE trials SET datetime_start = '2020-01-01 00:00:00' WHERE study_id = 1")
    report = full.clean(datetime.now(UTC))
    assert [(each.kind, each.examples) for each in report.kinds] == [("searches", ("late-lightgbm lightgbm/ab",))]
    assert optuna.get_all_study_names(f"sqlite:///{file}") == ["lightgbm/cd"]

    file.write_text("garbage")
    (problem,) = full.clean(datetime.now(UTC)).problems
    assert "found file is not a database" in problem


def test_nothing_of_a_model_with_an_unreadable_desired_state_goes(full: FullHome) -> None:
    before = full.versions()
    with full.stores.state.write() as connection:
        connection.execute(sa.update(desired_states).values(state="garbage"))
    full.clean()
    assert full.versions() == before
    assert len(list((full.home.bentos / "bentos" / MODEL).iterdir())) == 9


def test_version_that_a_person_marked_since_the_search_stays(full: FullHome, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = ModelRegistry.delete

    def mark_another(registry: ModelRegistry, deleted: ModelVersion) -> None:
        registry.set_alias(MODEL, "kept_by_ada", 6)
        delete(registry, deleted)

    # The latest version is removed first, so 6 is marked while 7 is removed.
    monkeypatch.setattr(ModelRegistry, "delete", mark_another)
    report = full.clean()
    assert report.model_versions == ["late 1", "late 7"]
    assert next(each.items for each in report.kinds if each.kind == "model versions") == 2
    assert 6 in full.versions()


@pytest.mark.parametrize("method", ["delete", "delete_artifacts"])
def test_cleaning_that_was_killed_is_finished_by_the_next_one(
    full: FullHome, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    artifacts = {each.version: full.home.artifacts / MODEL / each.run_id for each in full.registry.versions(MODEL)}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ModelRegistry, method, killed)
        with pytest.raises(KeyboardInterrupt):
            full.clean()
    report = full.clean()
    assert report.model_versions == ["late 1", "late 6", "late 7"]
    assert [number for number in OLD if files_below(artifacts[number])] == []
    assert len(full.stores.audit.records(HOUSEKEEPING_KIND)) == 1


def test_pins_that_are_missing_are_set_before_tables_are_cleaned(full: FullHome) -> None:
    for holder in full.stores.lake.catalog.pins():
        full.stores.lake.catalog.unpin(holder)
    full.clean()
    assert len(full.stores.lake.catalog.pins()) == 6
    assert full.stores.lake.scan(TRAINING_SET, 1).collect()["label"].to_list() == [2]


def test_pins_of_a_version_that_a_person_deleted_in_mlflow_are_released(full: FullHome) -> None:
    content = full.content(7)
    full.registry.delete(full.registry.version(MODEL, 7))
    full.clean(datetime.now(UTC))
    assert pin_holder(MODEL, content) not in full.stores.lake.catalog.pins()
    assert len(full.stores.lake.catalog.pins()) == 8


def test_tables_stay_while_the_registry_cannot_be_reached(full: FullHome) -> None:
    unreachable = ModelRegistry(Tracking("http://127.0.0.1:9", None))
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    for holder in full.stores.lake.catalog.pins():
        full.stores.lake.catalog.unpin(holder)
    report = clean(replace(full.stores, open_registry=lambda: unreachable), POLICIES, now=LATER, by="ada")
    assert "Table versions were kept" in report.problems[0]
    assert full.stores.lake.scan(TRAINING_SET, 1).collect()["label"].to_list() == [2]
    assert "raw files" in [each.kind for each in report.kinds]


def test_second_cleaner_says_who_cleans_and_ends(full: FullHome) -> None:
    other = StateStore(path=full.stores.state.path)
    with other.lock(CLEANING_LOCK), pytest.raises(StateLockedError, match=f"'cleaning'.*process .*/{os.getpid()}/"):
        full.clean()


def test_asset_lists_what_it_freed_and_a_second_one_gives_the_reason(full: FullHome) -> None:
    resources = {
        "home": HomeResource(root=str(full.home.root), repository=str(full.stores.repository)),
        "lake": LakeResource.for_home(full.home),
        "mlflow": MlflowResource.for_home(full.home),
        "online_store": OnlineStoreResource.for_home(full.home),
    }
    policies = RetentionPolicies(RETENTION.model_copy(update={"raw_files_days": None}))
    write(full.home.records / "outbox" / "dead_letters" / "0002-ab" / "operations.jsonl")
    old = (NOW - timedelta(days=200)).timestamp()
    os.utime(full.home.records / "outbox" / "dead_letters" / "0002-ab" / "operations.jsonl", (old, old))

    def metadata() -> dict[str, Any]:
        with dg.DagsterInstance.ephemeral() as instance:
            done = dg.materialize([housekeeping(lambda: policies)], resources=resources, instance=instance)
        (event,) = done.get_asset_materialization_events()
        return dict(event.materialization.metadata)

    freed = metadata()
    assert (freed["items"].value, freed["freed_bytes"].value) == (1, len("text"))
    assert [each.data["kind"] for each in freed["kinds"].records] == ["dead letters"]
    with StateStore(path=open_state(full.home).path).lock(CLEANING_LOCK):
        assert "Lock 'cleaning'" in metadata()["reason"].value
