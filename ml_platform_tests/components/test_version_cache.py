"""The kept versions of an asset's partitions: always those that the whole event log gives."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import sqlalchemy as sa
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

from ml_platform.components import materializations, version_cache
from ml_platform.components.materializations import latest_versions
from ml_platform.components.version_cache import VersionCache

KEY, OTHER = dg.AssetKey(["datasets", "readings"]), dg.AssetKey(["features", "level"])
CODE_VERSION = "dagster/code_version"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionCache:
    monkeypatch.setattr(materializations, "CACHED_FROM", 1)
    return VersionCache(tmp_path / "cache")


@pytest.fixture
def instance(tmp_path: Path) -> Any:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as found:
        yield found


def materialize(
    instance: dg.DagsterInstance, partition: str | None, version: str = "1", key: dg.AssetKey = KEY
) -> None:
    made = dg.AssetMaterialization(key, partition=partition, tags={CODE_VERSION: version})
    instance.report_runless_asset_event(made)


def both(instance: dg.DagsterInstance, cache: VersionCache, expected: str = "1") -> dict[str | None, Any]:
    """Return the versions by the cache, which must be those of the whole log."""
    found = latest_versions(instance, KEY, expected=expected, cache=cache)
    assert found == latest_versions(instance, KEY, expected=expected)
    return found


def delete_events(instance: dg.DagsterInstance, ids: list[int]) -> None:
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        connection.execute(sa.delete(SqlEventLogStorageTable).where(SqlEventLogStorageTable.c.id.in_(ids)))


def test_later_plan_reads_only_the_events_after_those_of_an_earlier_one(
    instance: dg.DagsterInstance, cache: VersionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(20):
        materialize(instance, f"{place:02}")
    read: list[int] = []
    versions_of = materializations._Events._versions

    def counted(self: Any, query: Any) -> Any:
        found = versions_of(self, query)
        read.append(len(found))
        return found

    monkeypatch.setattr(materializations._Events, "_versions", counted)
    latest_versions(instance, KEY, expected="1", cache=cache)
    latest_versions(instance, KEY, expected="1", cache=cache)
    materialize(instance, "03", "2")
    materialize(instance, "99")
    found = latest_versions(instance, KEY, expected="1", cache=cache)
    assert read == [20, 2]
    assert (len(found), found["03"].code_version, found["99"].code_version) == (21, "2", "1")


@pytest.mark.parametrize("damage", ["lost", "cut", "changed", "of another asset"])
def test_file_that_is_not_as_it_was_written_is_read_again_from_the_log(
    instance: dg.DagsterInstance, cache: VersionCache, damage: str
) -> None:
    materialize(instance, "01")
    both(instance, cache)
    (path,) = cache.folder.iterdir()
    data = path.read_bytes()
    if damage == "lost":
        path.unlink()
    elif damage == "of another asset":
        materialize(instance, "07", key=OTHER)
        latest_versions(instance, OTHER, cache=cache)
        (other,) = set(cache.folder.iterdir()) - {path}
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(data[:-40] if damage == "cut" else data[:-40] + bytes(40))
    assert both(instance, cache).keys() == {"01"}
    assert path.read_bytes() == data


def test_wiped_asset_has_no_version_until_it_is_materialized_again(
    instance: dg.DagsterInstance, cache: VersionCache
) -> None:
    materialize(instance, "01")
    materialize(instance, "02")
    assert both(instance, cache).keys() == {"01", "02"}
    instance.wipe_assets([KEY])
    assert both(instance, cache) == {}
    materialize(instance, "02")
    assert both(instance, cache).keys() == {"02"}


def test_code_version_that_was_cut_in_the_log_is_not_kept(instance: dg.DagsterInstance, cache: VersionCache) -> None:
    long = "x" * 300
    materialize(instance, "01", long)
    assert both(instance, cache, expected="1")["01"].code_version == long[: materializations._VERSION_LENGTH]
    assert both(instance, cache, expected=long)["01"].code_version == long


def test_text_of_metadata_is_not_taken_for_the_code_version(instance: dg.DagsterInstance, cache: VersionCache) -> None:
    made = dg.AssetMaterialization(
        KEY, partition="01", tags={CODE_VERSION: "1"}, metadata={"note": {CODE_VERSION: "2"}}
    )
    instance.report_runless_asset_event(made)
    assert both(instance, cache, expected="2")["01"].code_version == both(instance, cache)["01"].code_version


def test_every_sequence_of_events_gives_the_versions_of_the_whole_log(
    instance: dg.DagsterInstance, cache: VersionCache
) -> None:
    """Materializations, pruned events (the last ones too, whose ids are given again), wipes and lost files."""
    random, done = np.random.default_rng(11), dict.fromkeys(["pruned", "last", "wiped", "lost", "read"], 0)
    query = sa.select(SqlEventLogStorageTable.c.id).order_by(SqlEventLogStorageTable.c.id)
    for _ in range(80):
        for _ in range(int(random.integers(0, 4))):
            partition = None if random.random() < 0.05 else f"{random.integers(6):02}"
            materialize(instance, partition, str(random.choice(["1", "2"])), KEY if random.random() < 0.8 else OTHER)
        with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
            ids = list(connection.scalars(query))
        chance = random.random()
        if chance < 0.15 and ids:
            delete_events(instance, [int(each) for each in random.choice(ids, min(2, len(ids)), replace=False)])
            done["pruned"] += 1
        elif chance < 0.3 and ids:
            deleted = ids[-int(random.integers(1, 4)) :]
            delete_events(instance, deleted)
            for _ in deleted[: int(random.integers(0, 4))]:
                materialize(instance, f"{random.integers(6):02}")
            done["last"] += 1
        elif chance < 0.35:
            instance.wipe_assets([KEY])
            done["wiped"] += 1
        elif chance < 0.4:
            for path in cache.folder.glob("*"):
                path.unlink()
            done["lost"] += 1
        if random.random() < 0.7:
            done["read"] += bool(both(instance, cache, expected=str(random.choice(["1", "2"]))))
    assert min(done.values()) > 1, done


def test_number_of_files_is_limited(
    instance: dg.DagsterInstance, cache: VersionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_cache, "ASSETS_CACHED", 3)
    for place in range(5):
        key = dg.AssetKey(["datasets", f"d{place}"])
        materialize(instance, "01", key=key)
        latest_versions(instance, key, cache=cache)
    assert len(list(cache.folder.iterdir())) == 3
    assert cache.read(dg.AssetKey(["datasets", "d4"])) is not None
    assert cache.read(dg.AssetKey(["datasets", "d0"])) is None


def test_small_asset_is_not_kept(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    materialize(instance, "01")
    assert both(instance, VersionCache(tmp_path / "none")).keys() == {"01"}
    assert not (tmp_path / "none").exists()
