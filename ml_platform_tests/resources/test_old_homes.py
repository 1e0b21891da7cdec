"""Homes of earlier releases, made with their code (`old_homes/make_home.py`): nothing is lost or made again.

Each archive was made in a folder that is gone, so every absolute path in it leads nowhere.
"""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
import yaml

import assets
from ml_platform.components.dataset.component import Dataset
from ml_platform.components.dataset.landed_adoption import adopt_published_files
from ml_platform.components.dataset.landing_sensor import landing_sensor
from ml_platform.components.model import training
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_home_stores
from ml_platform.data.contract_record import broken_contracts
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import PARTITION
from ml_platform.features.materialize import materialize
from ml_platform.features.view import FeatureView
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.verdict_record import VERDICT_KIND, stored_verdict, verdict_metrics
from ml_platform.serving.desired_state import read_desired_state
from ml_platform.serving.verified_bentos import verified_served_version
from ml_platform.state.schema import contract_results, metadata
from ml_platform.steps.candidates import build_training_sets
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.reproduction import reproduce_version
from ml_platform_tests.conftest import COMMAND
from resources import home_version
from resources.home import Home
from resources.home_lake import open_lake
from resources.home_version import HOME_VERSION, HomeVersionError, prepare_home, stored_version, upgrade_home
from resources.lake import LakeResource
from resources.profiles import resources_of_profile
from resources.state import open_state
from resources.upgrade_trial import try_upgrade

FOLDER = Path(__file__).parent / "old_homes"
RELEASES = {"release_0_1": 1, "release_0_2": 2}
MONTHS = ("2013-01", "2013-02", "2013-03", "2013-04")
CONVERTED = ("models/late/predictions", "models/late/outcomes")
"""Tables that the migration splits into days."""

TIMES = ("written_at", "replaced_at", "cleaned_at", "passed_at", "changed_at", "recorded_at")
"""Columns with the time of the migration."""


@dataclass(frozen=True)
class OldHome:
    """A migrated home, and the description and the files of the home before."""

    home: Home
    version: int
    before: dict[str, Any]
    files: dict[str, str]
    """Digests of the files before the migration, by path."""

    @property
    def stores(self) -> PlatformStores:
        return open_home_stores(self.home)


def extracted(release: str, folder: Path) -> Home:
    """Extract the home of ``release`` into ``folder``."""
    with tarfile.open(FOLDER / f"{release}.tar.xz") as archive:
        # Python before 3.11.4 has no filters; the archives are files of this repository.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    return Home(folder / "home")


def file_digests(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def state_rows(home: Home) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of the state store without the times of the migration."""
    with open_state(home).read() as connection:
        return {
            table.name: sorted(
                (
                    {name: value for name, value in row.items() if name not in TIMES}
                    for row in connection.execute(sa.select(table)).mappings()
                ),
                key=repr,
            )
            for table in metadata.sorted_tables
        }


@pytest.fixture(scope="module", params=RELEASES)
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OldHome:
    """A home of each release after its migration. Tests do not change it."""
    home = extracted(request.param, tmp_path_factory.mktemp(request.param))
    before = json.loads((FOLDER / f"{request.param}.json").read_text())
    files = file_digests(home.root)
    assert stored_version(home) == RELEASES[request.param]
    prepare_home(home)
    return OldHome(home, RELEASES[request.param], before, files)


@pytest.fixture
def copy(migrated: OldHome, tmp_path: Path) -> OldHome:
    """A copy of a migrated home under another path, for a test that changes it."""
    open_state(migrated.home).close()
    shutil.copytree(migrated.home.root, tmp_path / "moved" / "home", symlinks=True)
    return OldHome(Home(tmp_path / "moved" / "home"), migrated.version, migrated.before, migrated.files)


@contextmanager
def domain_code() -> Iterator[list[dict[str, Any]]]:
    """Make the functions of the fixture domain importable, and yield its declarations."""
    before = assets.__path__
    assets.__path__ = [*before, str(FOLDER / "domain")]
    try:
        yield list(yaml.safe_load_all((FOLDER / "domain" / "defs.yaml").read_text()))
    finally:
        assets.__path__ = before
        # The next test that puts a folder on this path imports its own module.
        sys.modules.pop("assets.late_deliveries", None)
        vars(assets).pop("late_deliveries", None)


def declarations(declared: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each["attributes"] for each in declared if each["type"] == f"ml_platform.{kind}"]


def bound_model(declared: list[dict[str, Any]]) -> ModelAssets:
    views = [FeatureView.model_validate(each) for each in declarations(declared, "FeatureView")]
    (model,) = declarations(declared, "Model")
    return ModelAssets(Model.model_validate(model), views)


def dataset(declared: list[dict[str, Any]]) -> Dataset:
    (found,) = declarations(declared, "Dataset")
    return Dataset.model_validate(found)


def test_tables_have_the_digests_and_versions_of_before(migrated: OldHome) -> None:
    lake = open_lake(migrated.home)
    tables = migrated.before["tables"]
    assert {"datasets", "features", "models"} == {name.split("/")[0] for name in tables}
    assert {"datasets/deliveries", *CONVERTED} < set(tables)
    assert set(lake.catalog.tables()) == set(tables)
    for name, before in tables.items():
        if name not in CONVERTED:
            assert lake.version(name) == before["version"]
            assert {each or "": digest for each, digest in lake.digests(name).items()} == before["digests"], name


def test_every_old_version_is_read_with_its_old_content(migrated: OldHome) -> None:
    lake, read = open_lake(migrated.home), 0
    for name, before in migrated.before["tables"].items():
        for version, partitions in before["versions"].items() if name not in CONVERTED else ():
            found = {
                each: content_hash(
                    lake.scan(name, int(version), [each] if each else None).drop(PARTITION, strict=False).collect()
                )
                for each in partitions
            }
            assert found == partitions, (name, version)
            read += 1
    assert read >= 5


def test_no_file_of_the_lake_is_rewritten(migrated: OldHome) -> None:
    after = file_digests(migrated.home.root)
    parquet = [path for path in migrated.files if path.startswith("lake/") and path.endswith(".parquet")]
    assert len(parquet) > 10
    assert {path: after.get(path) for path in parquet} == {path: migrated.files[path] for path in parquet}
    kept = ("landing/", "online/", "bentos/", "records/evidence/", "mlflow/artifacts/", "serving/predictions/")
    assert {each: digest for each, digest in migrated.files.items() if each.startswith(kept)} == {
        each: digest for each, digest in after.items() if each.startswith(kept)
    }


def test_predictions_and_outcomes_are_all_there_by_day(migrated: OldHome, tmp_path: Path) -> None:
    lake, original = open_lake(migrated.home), extracted(f"release_0_{migrated.version}", tmp_path)
    for name in CONVERTED:
        old = pl.read_delta(str(original.lake / name))
        new = lake.scan(name).collect()
        shared = ["request_id", "row", "version", "role", "predict_at", "score"]
        known = old if name.endswith("predictions") else old.filter(pl.col("outcome").is_not_null())
        assert known.height > 0
        if name.endswith("predictions"):
            assert new.select(shared).sort(shared).equals(known.select(shared).sort(shared))
        else:
            assert new.height == known.height
            assert sorted(new["outcome"].to_list()) == sorted(known["outcome"].to_list())
        assert set(lake.partitions(name)) == {f"{at:%Y-%m-%d}" for at in known["logged_at"]}
    days = state_rows(migrated.home)["prediction_days"]
    assert sum(day["predictions"] for day in days) == 9


def test_log_files_are_not_read_again(copy: OldHome) -> None:
    from ml_platform.monitoring.prediction_log import ingest_log_files

    lake = open_lake(copy.home)
    before = lake.version(CONVERTED[0])
    found = ingest_log_files(lake, "late", copy.home.prediction_logs / "late")
    assert (found.lines, found.added, lake.version(CONVERTED[0])) == (0, 0, before)


def test_audit_log_is_complete_and_champions_are_those_of_before(migrated: OldHome) -> None:
    audit = AuditLog(open_state(migrated.home))
    old = (migrated.home.records / "audit.jsonl.imported").read_bytes()
    assert b"".join(audit.export()) == old
    assert audit.verify() == old.count(b"\n") >= 2
    champion = migrated.before["status"]["models"]["late"]["champion"]["version"]
    registered = migrated.stores.registry.by_alias("late", "champion")
    assert registered is not None
    assert registered.version == int(champion)


def test_metrics_of_each_verdict_are_those_of_its_file(migrated: OldHome) -> None:
    state = open_state(migrated.home)
    digests = {str(record.facts["digest"]) for record in AuditLog(state).records(VERDICT_KIND)}
    assert digests
    for digest in digests:
        records = migrated.home.records
        assert verdict_metrics(state, digest) == json.loads((records / f"metrics.imported/{digest}.json").read_text())
        verdict = json.loads((records / f"verdicts.imported/{digest}.json").read_text())
        assert stored_verdict(state, digest).digest == verdict["digest"]


def test_desired_state_has_its_generation_and_a_bento_of_this_home(migrated: OldHome) -> None:
    state = open_state(migrated.home)
    old = migrated.home.serving / "late" / "desired_state.json.imported"
    before, desired = json.loads(old.read_text()), read_desired_state(state, "late")
    assert desired.generation == before["generation"] > 0
    assert desired.stable is not None
    assert desired.stable.version == before["stable"]["version"]
    # The old folder is gone, and the path in the state is relative.
    assert before["stable"]["bento"].startswith(migrated.before["made_at"])
    assert (migrated.home.bentos / desired.stable.bento / "bento.yaml").exists()


def test_verified_bento_is_served_without_a_new_verification(migrated: OldHome) -> None:
    stores = migrated.stores
    champion = stores.registry.by_alias("late", "champion")
    assert champion is not None
    served = verified_served_version(
        stores.state,
        migrated.home.bentos,
        model="late",
        version=str(champion.version),
        model_digest=champion.content_digest,
    )
    assert (migrated.home.bentos / served.bento / "bento.yaml").exists()


def test_artifacts_of_every_version_are_found_in_this_home(migrated: OldHome, tmp_path: Path) -> None:
    registry = migrated.stores.registry
    versions = registry.versions("late")
    assert len(versions) >= 2
    for version in versions:
        # The download compares the digest of the directory with that of the version.
        registry.download(version, tmp_path / str(version.version))
        assert registry.manifest(version).tables["datasets/deliveries"] >= 0


def test_databases_have_no_path_of_the_old_home(migrated: OldHome) -> None:
    old = migrated.before["made_at"]
    for database in (migrated.home.state, migrated.home.mlflow / "mlflow.db"):
        with closing(sqlite3.connect(database)) as connection:
            assert [line for line in connection.iterdump() if old in line] == []


def test_mlflow_database_of_before_is_kept(migrated: OldHome, tmp_path: Path) -> None:
    original = extracted(f"release_0_{migrated.version}", tmp_path).mlflow / "mlflow.db"
    (copied,) = migrated.home.root.glob("upgrades/*/mlflow.db")
    with closing(sqlite3.connect(original)) as one, closing(sqlite3.connect(copied)) as other:
        assert list(one.iterdump()) == list(other.iterdump())


@pytest.mark.slow
def test_champion_is_reproduced_from_its_pinned_versions(migrated: OldHome) -> None:
    with domain_code() as declared:
        champion = migrated.before["status"]["models"]["late"]["champion"]["version"]
        found = reproduce_version(bound_model(declared), int(champion), migrated.stores)
    assert found.equal, found.lines()


@pytest.mark.slow
def test_candidate_of_unchanged_inputs_is_fitted_once_more_at_most(
    copy: OldHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(copy.home.root))
    before = len(copy.stores.registry.versions("late"))
    with domain_code() as declared:
        model, stores = bound_model(declared), copy.stores
        # Their code versions differ once from those of the old release, so they are made again.
        materialize(model.stored_views[0], stores.lake, stores.online_store, MONTHS, model.declared.partitions)
        build_training_sets(model, MONTHS, stores.lake)
        asset = training.candidate(model, "lightgbm")
        for _ in range(2):
            dg.materialize([asset], partition_key="2013-04", resources=resources_of_profile(copy.home))
    assert len(copy.stores.registry.versions("late")) in (before, before + 1)


def tick(home: Home, cursor: str | None, instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    with domain_code() as declared:
        sensor = landing_sensor(dataset(declared))
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"lake": LakeResource.for_home(home)}
        )
        found = sensor(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


@contextmanager
def instance_of(home: Home) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield instance


def old_cursor(instance: dg.DagsterInstance) -> str:
    (state,) = [each for each in instance.all_instigator_state() if each.instigator_name == "deliveries_landed"]
    cursor = getattr(state.instigator_data, "cursor", None)
    assert cursor is not None
    return str(cursor)


@pytest.mark.parametrize("has_cursor", [True, False])
def test_landing_sensor_requests_no_published_file(copy: OldHome, has_cursor: bool) -> None:
    with instance_of(copy.home) as instance:
        found = tick(copy.home, old_cursor(instance) if has_cursor else None, instance)
    assert isinstance(found, dg.SkipReason)
    assert found.skip_message == "Nothing new: 4 landed files of 'deliveries' are unchanged."


def test_landing_sensor_requests_a_file_that_changed_during_the_upgrade(copy: OldHome) -> None:
    file = copy.home.landing / "deliveries" / "2013-02.csv"
    file.write_text(file.read_text() + "2013-02-9999,s0,1.0,2013-02-28T10:00:00Z,2013-02-28T11:00:00Z,0\n")
    with instance_of(copy.home) as instance:
        found = tick(copy.home, old_cursor(instance), instance)
    assert isinstance(found, dg.SensorResult)
    (request,) = found.run_requests or []
    assert request.tags["dagster/asset_partition_range_start"] == "2013-02"
    assert request.tags["dagster/asset_partition_range_end"] == "2013-02"


def test_file_that_was_requested_and_broke_the_contract_is_not_requested_again(copy: OldHome) -> None:
    """Before the upgrade a broken file was requested, so that the cursor has its digest and Dagster no rows of it."""
    file = copy.home.landing / "deliveries" / "2013-02.csv"
    file.write_text("delivery\nbroken\n")
    with instance_of(copy.home) as instance:
        cursor = json.loads(old_cursor(instance)) | {"2013-02": hashlib.sha256(file.read_bytes()).hexdigest()}
        found = tick(copy.home, json.dumps(cursor), instance)
    assert isinstance(found, dg.SkipReason)


def test_rows_that_another_program_wrote_are_not_taken_for_those_of_the_landed_file(copy: OldHome) -> None:
    lake = open_lake(copy.home)
    with lake.state.write() as connection:
        connection.execute(
            sa.update(contract_results).where(contract_results.c.partition == "2013-02").values(passed_digest="0")
        )
    with instance_of(copy.home) as instance:
        assert adopt_published_files(lake, instance) == 3
        assert adopt_published_files(lake, instance) == 0
    assert broken_contracts(lake, ["deliveries"]) != []


def test_contract_gate_passes_after_the_upgrade(migrated: OldHome) -> None:
    assert broken_contracts(open_lake(migrated.home), ["deliveries"]) == []


def test_second_migration_changes_nothing(copy: OldHome) -> None:
    rows, files = state_rows(copy.home), file_digests(copy.home.root)
    prepare_home(copy.home)
    assert upgrade_home(copy.home).made == []
    assert state_rows(copy.home) == rows
    changed = {path for path, digest in file_digests(copy.home.root).items() if files.get(path) != digest}
    assert {path for path in changed if not path.startswith(("state.db", "locks/"))} == set()


def test_stamp_that_was_lost_changes_nothing(copy: OldHome) -> None:
    rows = state_rows(copy.home)
    (copy.home.root / "home.json").unlink()
    prepare_home(copy.home)
    assert stored_version(copy.home) == HOME_VERSION
    assert state_rows(copy.home) == rows


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_migration_killed_after_any_step_ends_alike(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = extracted(release, tmp_path / "undisturbed")
    prepare_home(undisturbed)
    home, kills = extracted(release, tmp_path / "killed"), 0
    steps = {start: home_version.MIGRATIONS[start] for start in home_version.MIGRATIONS}

    def dying(step: Any) -> Any:
        def run(home: Home) -> Any:
            step(home)
            raise KeyboardInterrupt

        return run

    for start in range(RELEASES[release], HOME_VERSION):
        for position in range(len(steps[start])):
            killed = [dying(step) if at == position else step for at, step in enumerate(steps[start])]
            monkeypatch.setattr(home_version, "MIGRATIONS", {**steps, start: killed})
            with pytest.raises(KeyboardInterrupt):
                prepare_home(home)
            assert stored_version(home) == start
            kills += 1
    monkeypatch.setattr(home_version, "MIGRATIONS", steps)
    prepare_home(home)
    assert kills >= len(steps[2])
    assert state_without_generated_names(home) == state_without_generated_names(undisturbed)
    # The kill came before the step was reported, so its texts are missing; nothing else is said, or left out.
    assert reported(home) <= reported(undisturbed)


def reported(home: Home) -> set[str]:
    """Return what the reports of all migrations of ``home`` say, without paths."""
    found: set[str] = set()
    for path in home.root.glob("upgrades/*/report.json"):
        report = json.loads(path.read_text())
        assert report["left_out"] == []
        found |= {text for text in report["made"] if "mlflow.db" not in text}
    return found


def state_without_generated_names(home: Home) -> dict[str, list[Any]]:
    """Return the state without ids and names of new files; outcomes have the time of the migration in their digest."""
    hidden = {"id", "segment_id", "path", "size_bytes", "sha256", "value"}
    return {
        table: sorted(
            (
                {
                    name: each
                    for name, each in row.items()
                    if name not in hidden and not (name == "digest" and row.get("table_name") == CONVERTED[1])
                }
                for row in rows
            ),
            key=repr,
        )
        for table, rows in state_rows(home).items()
    }


@pytest.mark.parametrize("release", RELEASES)
def test_trial_names_the_changes_and_changes_nothing(release: str, tmp_path: Path) -> None:
    home = extracted(release, tmp_path)
    before = file_digests(home.root)
    found = try_upgrade(home)
    assert (found.before, found.after, found.left_out) == (RELEASES[release], HOME_VERSION, [])
    assert file_digests(home.root) == before
    text = "\n".join(found.made)
    assert "tables of the lake to the catalog" in text
    assert "records of the audit log" in text
    assert "split the predictions and outcomes of 'late' into days" in text


def test_what_cannot_be_taken_over_is_named(tmp_path: Path) -> None:
    home = extracted("release_0_2", tmp_path)
    (verdict, *_) = sorted((home.records / "verdicts").glob("*.json"))
    verdict.write_text("{}")
    (lost, *_) = sorted((home.lake / "datasets" / "deliveries").rglob("*2013-01*/*.parquet"))
    lost.unlink()
    expected = try_upgrade(home).left_out
    done = upgrade_home(home)
    assert done.left_out == expected
    assert len(expected) == 2
    assert expected[0].startswith("table 'datasets/deliveries': ")
    assert lost.name in expected[0]
    assert f"verdict: Verdict {verdict.stem[:12]}" in expected[1]
    report = json.loads((home.upgrade(2, HOME_VERSION) / "report.json").read_text())
    assert report["left_out"] == expected


def test_command_migrates_and_says_what_it_did(tmp_path: Path) -> None:
    home = extracted("release_0_2", tmp_path)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [COMMAND, "upgrade", *arguments],
            env={"PATH": "/usr/bin:/bin", "ML_PLATFORM_HOME": str(home.root), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert "version 2 → version 3. A migration would do this; nothing was changed." in run("--dry-run")
    assert stored_version(home) == 2
    said = run()
    assert "version 2 → version 3. Migrated." in said
    assert "copied mlflow.db to upgrades/2-to-3/mlflow.db" in said
    assert "Nothing to do." in run()


def test_home_in_use_by_an_earlier_release_is_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    home = extracted("release_0_2", tmp_path)
    home.run.mkdir(exist_ok=True)
    before = file_digests(home.root)
    with FileLock(home.run / "up.lock"), pytest.raises(HomeVersionError, match="Stop it with Ctrl-C"):
        upgrade_home(home)
    after = file_digests(home.root)
    assert {path: after[path] for path in before} == before
