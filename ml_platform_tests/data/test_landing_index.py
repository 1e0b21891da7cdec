"""The landing index reads a file once, and a folder only when its modification time or the clock says so."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ml_platform.data import landing_index
from ml_platform.data.canonical import file_digest
from ml_platform.data.contract_record import record_passed
from ml_platform.data.landing import Landing
from ml_platform.data.landing_index import FULL_COMPARISON_SECONDS, LandedState, LandingIndex
from ml_platform.data.landing_requests import record_request
from ml_platform.state.store import StateStore

START = 2_000_000_000.0


class LandingFixture:
    """A landing folder, its index, a clock, and the names of the files that were hashed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        self.hashed: list[str] = []
        self.landing = Landing(root / "landing")
        self.index = LandingIndex(self.landing, StateStore.in_folder(root), lambda: self.now)
        monkeypatch.setattr(landing_index, "file_digest", self._hash)

    def _hash(self, path: Path) -> str:
        self.hashed.append(path.name)
        return file_digest(path)

    def land(self, partition: str, text: str, *, at: float) -> None:
        """Write a file in place, with its own and the folder's time set to ``at``."""
        folder = self.landing.root / "orders"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{partition}.csv").write_text(text)
        os.utime(folder / f"{partition}.csv", (at, at))
        os.utime(folder, (at, at))

    def refresh(self, confirmed_tick: int | None = None) -> LandedState:
        return self.index.refresh("orders", lambda name: name.startswith("2024"), confirmed_tick=confirmed_tick)

    def due(self, confirmed_tick: int | None = None) -> list[str | None]:
        return [each.partition for each in self.refresh(confirmed_tick).due]


@pytest.fixture
def landed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LandingFixture:
    made = LandingFixture(tmp_path, monkeypatch)
    made.land("2024-01", "a", at=START - 100)
    made.land("2024-02", "b", at=START - 90)
    return made


@pytest.fixture
def listings(landed: LandingFixture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    listing: Callable[..., object] = landed.landing.listing

    def counted(dataset: str, is_partition: Callable[[str], bool]) -> object:
        seen.append(dataset)
        return listing(dataset, is_partition)

    monkeypatch.setattr(landed.landing, "listing", counted)
    return seen


def test_unchanged_folder_is_not_read_again(landed: LandingFixture, listings: list[str]) -> None:
    assert landed.due() == ["2024-01", "2024-02"]
    landed.now += 60
    assert landed.due() == ["2024-01", "2024-02"]
    assert (listings, landed.hashed) == (["orders"], ["2024-01.csv", "2024-02.csv"])


def test_only_the_new_file_is_hashed(landed: LandingFixture, listings: list[str]) -> None:
    landed.refresh()
    landed.land("2024-03", "c", at=START + 10)
    landed.now += 60
    assert landed.due() == ["2024-01", "2024-02", "2024-03"]
    assert landed.hashed == ["2024-01.csv", "2024-02.csv", "2024-03.csv"]


def test_replaced_file_is_found_at_once(landed: LandingFixture) -> None:
    landed.refresh()
    folder = landed.landing.root / "orders"
    (folder / ".new").write_text("other")
    os.utime(folder / ".new", (START - 100, START - 100))
    (folder / ".new").replace(folder / "2024-01.csv")
    os.utime(folder, (START + 10, START + 10))
    landed.now += 60
    landed.refresh()
    assert landed.hashed == ["2024-01.csv", "2024-02.csv", "2024-01.csv"]


def test_file_overwritten_in_place_is_found_at_the_next_full_comparison(landed: LandingFixture) -> None:
    landed.refresh()
    folder = landed.landing.root / "orders"
    before = folder.stat().st_mtime_ns
    (folder / "2024-01.csv").write_text("other")
    os.utime(folder / "2024-01.csv", (START + 5, START + 5))
    assert folder.stat().st_mtime_ns == before
    landed.now += 60
    landed.refresh()
    assert landed.hashed == ["2024-01.csv", "2024-02.csv"]
    landed.now += FULL_COMPARISON_SECONDS
    landed.refresh()
    assert landed.hashed == ["2024-01.csv", "2024-02.csv", "2024-01.csv"]


def test_file_that_changed_within_the_resolution_of_its_time_is_hashed_again(landed: LandingFixture) -> None:
    landed.land("2024-03", "c", at=START - 0.5)
    landed.refresh()
    folder = landed.landing.root / "orders"
    (folder / "2024-03.csv").write_text("d")
    os.utime(folder / "2024-03.csv", (START - 0.5, START - 0.5))
    os.utime(folder, (START - 0.5, START - 0.5))
    landed.now += 60
    digests = {each.partition: each.sha256 for each in landed.refresh().due}
    assert digests["2024-03"] == file_digest(folder / "2024-03.csv")


def test_clock_that_goes_back_compares_everything_again(landed: LandingFixture, listings: list[str]) -> None:
    landed.refresh()
    landed.now -= 3600
    landed.refresh()
    assert listings == ["orders", "orders"]


def test_content_is_due_until_it_is_published_or_its_request_was_stored(landed: LandingFixture) -> None:
    first = landed.refresh(confirmed_tick=0)
    record_request(landed.index.state, "orders", dict.fromkeys(first.due, 1), 1, landed.now, "1")
    landed.index.mark_open("orders")
    assert landed.due(confirmed_tick=0) == ["2024-01", "2024-02"]
    assert landed.due(confirmed_tick=1) == []
    landed.land("2024-02", "changed", at=START + 10)
    landed.now += FULL_COMPARISON_SECONDS + 1
    changed = landed.refresh(confirmed_tick=1).due
    assert [each.partition for each in changed] == ["2024-02"]
    record_passed(landed.index.state, "orders", "2024-02", content_digest="0" * 64, landed_sha256=changed[0].sha256)
    assert landed.due(confirmed_tick=1) == []


def test_removed_file_is_forgotten(landed: LandingFixture) -> None:
    landed.refresh()
    (landed.landing.root / "orders" / "2024-01.csv").unlink()
    landed.now += 60
    found = landed.refresh()
    assert ([each.partition for each in found.due], found.files) == (["2024-02"], 1)


@pytest.mark.parametrize("compared", [0, 100])
def test_every_sequence_of_changes_is_seen_as_by_an_index_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: int
) -> None:
    """The index looks at new names and inodes only; a new index of the same folder looks at all."""
    monkeypatch.setattr(landing_index, "FILES_COMPARED", compared)
    random, now = np.random.default_rng(7), START
    landing, own = Landing(tmp_path / "landing"), StateStore.in_folder(tmp_path / "own")
    folder = landing.root / "orders"
    folder.mkdir(parents=True)
    ambiguous = strays = removed = 0

    def seen(state: StateStore) -> tuple[object, ...]:
        found = LandingIndex(landing, state, lambda: now).refresh("orders", lambda name: name.startswith("2024"))
        due = [(each.name, each.partition, each.sha256) for each in found.due]
        return due, found.files, found.ambiguous, found.strays

    for step in range(40):
        now += 60
        names = sorted(path.name for path in folder.iterdir())
        for _ in range(int(random.integers(1, 4))):
            year, suffix = random.choice(["2024", "2024", "1999"]), random.choice(["csv", "csv", "parquet"])
            name = f"{year}-0{random.integers(1, 6)}.{suffix}"
            if names and random.random() < 0.35:
                (folder / str(random.choice(names))).unlink(missing_ok=True)
                removed += 1
            else:
                (tmp_path / "new").write_text(f"{step} {name}")
                os.utime(tmp_path / "new", (now - 30, now - 30))
                if not compared:
                    (tmp_path / f"link{now}{name}{random.random()}").hardlink_to(
                        tmp_path / "new"
                    )  # so that no inode is used again
                (tmp_path / "new").rename(folder / name)
        os.utime(folder, (now - 20, now - 20))
        found = seen(own)
        assert found == seen(StateStore.in_folder(tmp_path / f"fresh{step}")), step
        ambiguous, strays = ambiguous + bool(found[2]), strays + bool(found[3])

    assert min(ambiguous, strays, removed) > 5
