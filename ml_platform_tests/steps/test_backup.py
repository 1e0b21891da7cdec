"""A backup is consistent and incremental, and a restored home has the same content under another path."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.answer_counts import AnswerCounter
from ml_platform.data.landing_index import LandingIndex
from ml_platform.registry.audit import AuditLog
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.desired_state import DesiredState, ServedVersion, read_desired_state, swap_desired_state
from ml_platform.steps import backup as backup_step
from ml_platform.steps.backup import CLEANING_LOCK, back_up, restore
from ml_platform.steps.backup_target import BackupError, BackupTarget
from ml_platform_tests.object_store import ObjectStore, running_object_store
from resources.home import Home
from resources.home_lake import open_lake
from resources.lake import LakeResource
from resources.state import open_state

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
TABLE = "datasets/orders"


def rows(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": list(values)}, schema={"value": pl.Int64})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with two partitions in two versions, a landed file, decisions and a bento."""
    made = Home(tmp_path / "home")
    lake = open_lake(made)
    lake.write(TABLE, rows(1, 2), "2024-01")
    lake.write(TABLE, rows(3), "2024-02")
    lake.write(TABLE, rows(9), "2024-01")
    (made.landing / "orders").mkdir(parents=True)
    (made.landing / "orders" / "2024-01.csv").write_text("value\n9\n")
    landing_index(made).refresh("orders", lambda name: name == "2024-01")
    AuditLog(lake.state).append("approval", actor="ada", at=NOW, facts={"model": "late", "version": 1})
    (made.bentos / "late" / "1").mkdir(parents=True)
    (made.bentos / "late" / "1" / "bento.yaml").write_text("name: late")
    served = ServedVersion(version="1", bento="late/1")
    swap_desired_state(lake.state, "late", DesiredState(stable=served, weights={"stable": 100}), 0)
    return made


def landing_index(home: Home) -> LandingIndex:
    return LakeResource.for_home(home).landing_index()


def assert_equal_homes(restored: Home, original: Home) -> None:
    lake, before = open_lake(restored), open_lake(original)
    assert lake.digests(TABLE) == before.digests(TABLE)
    assert lake.scan(TABLE).collect().sort("value").equals(before.scan(TABLE).collect().sort("value"))
    assert lake.scan(TABLE, 1).collect().sort("value").equals(before.scan(TABLE, 1).collect().sort("value"))
    assert list(AuditLog(lake.state).export()) == list(AuditLog(before.state).export())
    assert AuditLog(lake.state).verify() == 1
    assert read_desired_state(lake.state, "late") == read_desired_state(before.state, "late")
    assert (restored.bentos / "late" / "1" / "bento.yaml").read_text() == "name: late"
    assert lake.shows_current_version(TABLE)


def test_restored_home_is_equal_and_does_not_use_the_original(home: Home, tmp_path: Path) -> None:
    target = BackupTarget(str(tmp_path / "backups"))
    back_up(home, target, now=NOW)
    restored = Home(tmp_path / "elsewhere" / "ö home")
    report = restore(target, restored)

    assert_equal_homes(restored, home)
    assert report.files == len(target.index().files)
    landed = landing_index(restored).refresh("orders", lambda name: name == "2024-01")
    assert landed == landing_index(home).refresh("orders", lambda name: name == "2024-01")
    shutil.rmtree(home.root)
    assert open_lake(restored).scan(TABLE, 1).collect().height == 3
    texts = [path.read_bytes() for path in restored.root.rglob("*") if path.is_file() and "locks" not in path.parts]
    assert not any(str(home.root).encode() in text for text in texts)


def test_backup_has_the_public_keys_of_the_bentos_and_no_private_key(home: Home, tmp_path: Path) -> None:
    keys = SigningKeys(home.signing_keys)
    key = keys.sign(home.bentos / "late" / "1")
    target = BackupTarget(str(tmp_path / "backups"))
    back_up(home, target, now=NOW)
    assert [path for path in target.index().files if path.startswith("signing/")] == [f"signing/trusted/{key[:16]}.pem"]
    restored = Home(tmp_path / "restored")
    restore(target, restored)
    again = SigningKeys(restored.signing_keys)
    assert again.verify(restored.bentos / "late" / "1") == key
    # The restored home signs with a key of its own, and still trusts the former one.
    (restored.bentos / "late" / "2").mkdir()
    assert again.sign(restored.bentos / "late" / "2") != key
    assert again.verify(restored.bentos / "late" / "1") == key


def test_counts_of_a_running_service_are_left_out(home: Home, tmp_path: Path) -> None:
    logs = home.prediction_logs / "late"
    logs.mkdir(parents=True)
    counter = AnswerCounter(logs / "1-a.counts")
    (logs / "1-a.jsonl").write_text("{}\n")
    target = BackupTarget(str(tmp_path / "backups"))
    back_up(home, target, now=NOW)
    counter.close()
    relative = logs.relative_to(home.root).as_posix()
    assert [path for path in target.index().files if path.startswith(relative)] == [f"{relative}/1-a.jsonl"]


def test_second_backup_copies_only_what_has_changed(home: Home, tmp_path: Path) -> None:
    target = BackupTarget(str(tmp_path / "backups"))
    first = back_up(home, target, now=NOW)
    unchanged = back_up(home, target, now=NOW + timedelta(hours=1))
    open_lake(home).write(TABLE, rows(4), "2024-03")
    third = back_up(home, target, now=NOW + timedelta(hours=2))

    assert first.copied_files == first.files
    assert unchanged.copied_files == 0
    # The new Parquet file and the database.
    assert third.copied_files == 2
    assert third.files == first.files + 1


def test_earlier_backup_can_be_restored_and_old_ones_are_removed(home: Home, tmp_path: Path) -> None:
    target = BackupTarget(str(tmp_path / "backups"))
    first = back_up(home, target, now=NOW)
    open_lake(home).write(TABLE, rows(7), "2024-02")
    back_up(home, target, now=NOW + timedelta(hours=1))
    earlier = Home(tmp_path / "earlier")
    restore(target, earlier, first.id)
    back_up(home, target, now=NOW + timedelta(hours=2), keep=1)

    assert open_lake(earlier).scan(TABLE, partitions=["2024-02"]).collect()["value"].to_list() == [3]
    assert len(target.indexes()) == 1
    latest = Home(tmp_path / "latest")
    restore(target, latest)
    assert open_lake(latest).scan(TABLE, partitions=["2024-02"]).collect()["value"].to_list() == [7]
    with pytest.raises(BackupError, match=rf"expected a backup {first.id}, found '2024"):
        restore(target, Home(tmp_path / "gone"), first.id)


def test_write_during_a_backup_leaves_the_copy_consistent(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = BackupTarget(str(tmp_path / "backups"))
    copy_state = backup_step._copy_state

    def copy_then_write(*arguments: object) -> Path:
        copied = copy_state(*arguments)  # type: ignore[arg-type]
        open_lake(home).write(TABLE, rows(100), "2024-01")
        AuditLog(open_state(home)).append("approval", actor="bob", at=NOW, facts={"model": "late", "version": 2})
        return copied

    monkeypatch.setattr(backup_step, "_copy_state", copy_then_write)
    back_up(home, target, now=NOW)
    restored = Home(tmp_path / "restored")
    restore(target, restored)

    lake = open_lake(restored)
    assert lake.scan(TABLE, partitions=["2024-01"]).collect()["value"].to_list() == [9]
    assert AuditLog(lake.state).verify() == 1


def test_cleaning_waits_for_a_running_backup(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []

    def sources(*arguments: object) -> Iterator[tuple[str, Path]]:
        other = open_state(Home(home.root)).__class__(path=home.state)
        with pytest.raises(Exception, match=f"Lock '{CLEANING_LOCK}'"), other.lock(CLEANING_LOCK, seconds=0):
            pass
        locked.append(True)
        yield from original(*arguments)  # type: ignore[arg-type]

    original = backup_step._sources
    monkeypatch.setattr(backup_step, "_sources", sources)
    back_up(home, BackupTarget(str(tmp_path / "backups")), now=NOW)
    assert locked == [True]


def test_damaged_or_missing_object_is_named_and_nothing_is_restored(home: Home, tmp_path: Path) -> None:
    target = BackupTarget(str(tmp_path / "backups"))
    back_up(home, target, now=NOW)
    file = target.index().files["landing/orders/2024-01.csv"]
    stored = tmp_path / "backups" / "objects" / file.sha256[:2] / file.sha256
    stored.write_bytes(b"value\n8\n")
    restored = Home(tmp_path / "restored")

    with pytest.raises(BackupError, match=rf"expected the object {file.sha256[:12]} as it was written, found bytes"):
        restore(target, restored)
    assert not restored.root.exists()
    stored.write_bytes(b"value\n9\n")
    restore(target, restored)
    assert_equal_homes(restored, home)


def test_home_with_content_is_not_overwritten(home: Home, tmp_path: Path) -> None:
    target = BackupTarget(str(tmp_path / "backups"))
    back_up(home, target, now=NOW)
    with pytest.raises(BackupError, match="expected no folder, or an empty one, found a home with content"):
        restore(target, home)
    with pytest.raises(BackupError, match="expected at least one backup, found none"):
        restore(BackupTarget(str(tmp_path / "nothing")), Home(tmp_path / "new"))


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("s3")) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.lake_options.items():
            if name != "AWS_ENDPOINT_URL":
                patch.setenv(name, value)
        yield store


@pytest.mark.slow
def test_backup_to_s3_is_restored(home: Home, tmp_path: Path, object_store: ObjectStore) -> None:
    target = BackupTarget(object_store.address("backups"))
    back_up(home, target, now=NOW)
    assert back_up(home, target, now=NOW + timedelta(hours=1), keep=1).copied_files == 0
    restored = Home(tmp_path / "restored")
    restore(target, restored)
    assert_equal_homes(restored, home)
