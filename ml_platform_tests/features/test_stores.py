"""The address of the online store selects its kind, and one setting overrides the home's folder."""

from pathlib import Path

import pytest

from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.stores import OnlineAddressError, open_store
from ml_platform.features.valkey_store import ValkeyStore
from resources.home import Home
from resources.online_store import OnlineStoreResource


def test_folder_opens_a_store_of_snapshot_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("online")
    assert isinstance(store, SnapshotStore)
    assert (store.location, store.remote) == (str(tmp_path / "online"), False)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_address_of_a_server_opens_a_store_on_it(scheme: str) -> None:
    store = open_store(f"{scheme}://host:6379/0")
    assert isinstance(store, ValkeyStore)
    assert (store.location, store.remote) == (f"{scheme}://host:6379/0", True)


@pytest.mark.parametrize("location", ["", "http://host:80"])
def test_other_address_is_rejected_with_the_setting_to_correct(location: str) -> None:
    with pytest.raises(OnlineAddressError, match=r"'redis://'.*Correct ML_PLATFORM_ONLINE"):
        open_store(location)


def test_store_is_the_homes_folder_unless_the_setting_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    monkeypatch.delenv("ML_PLATFORM_ONLINE", raising=False)
    assert OnlineStoreResource.for_home(home).location == str(tmp_path / "online")
    monkeypatch.setenv("ML_PLATFORM_ONLINE", str(tmp_path / "shared"))
    assert OnlineStoreResource.for_home(home).location == str(tmp_path / "shared")
    monkeypatch.setenv("ML_PLATFORM_ONLINE", "redis://host:6379/0")
    assert OnlineStoreResource.for_home(home).location == "redis://host:6379/0"


def test_kind_selects_the_address_of_the_resource(tmp_path: Path) -> None:
    both = {"root": str(tmp_path), "url": "redis://host:6379/0"}
    assert OnlineStoreResource(kind="snapshot", **both).location == str(tmp_path)
    assert OnlineStoreResource(kind="valkey", **both).location == "redis://host:6379/0"
