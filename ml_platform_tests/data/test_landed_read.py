"""A read of a source becomes a landed file with its fingerprint, or nothing lands."""

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.data import landed_read
from ml_platform.data.landed_read import FINGERPRINT, land_read
from ml_platform.data.landing import Landing
from ml_platform.data.read_attempts import FIRST_WAIT_SECONDS, RunState
from ml_platform.data.source_record import (
    changed_slices,
    record_broken_read,
    record_read,
    record_requests,
)
from ml_platform.data.sources.files import FilesSource
from ml_platform.data.sources.function import FunctionSource
from ml_platform.data.sources.source import Slice, SourceChangedError, SourceEmptyError
from ml_platform.state.store import StateStore

IDS = {"id": pl.Int64()}
JANUARY = Slice("2013-01")
prints: list[str] = []


def api(partition: str, start: datetime | None, end: datetime | None) -> pl.DataFrame:
    return pl.DataFrame({"id": [1, 2]})


def version(partition: str, start: datetime | None, end: datetime | None) -> str:
    return prints.pop(0)


API = FunctionSource(type="function", function=f"{__name__}:api", fingerprint_function=f"{__name__}:version")


def files(folder: Path, **settings: Any) -> FilesSource:
    return FilesSource(type="files", path=f"{folder}/{{partition}}.csv", **settings)


def test_read_is_landed_with_the_fingerprint_of_its_source_and_kept_when_the_next_one_replaces_it(
    tmp_path: Path,
) -> None:
    landing, source = Landing(tmp_path / "landing"), files(tmp_path)
    (tmp_path / "2013-01.csv").write_text("id\n1\n")
    first = land_read(source, "orders", JANUARY, landing, IDS)
    again = land_read(source, "orders", JANUARY, landing, IDS)
    (tmp_path / "2013-01.csv").write_text("id\n1\n22\n")
    second = land_read(source, "orders", JANUARY, landing, IDS)

    assert first == again
    assert landing.find("orders", "2013-01").sha256 == second.sha256
    assert pl.read_parquet_metadata(second.path)[FINGERPRINT] == source.fingerprint(JANUARY) == second.fingerprint
    kept = tmp_path / "landing" / "orders" / "reads" / "2013-01"
    assert pl.read_parquet(kept / f"{first.sha256}.parquet")["id"].to_list() == [1]
    assert pl.read_parquet(kept / f"{second.sha256}.parquet")["id"].to_list() == [1, 22]
    assert landing.partitions("orders") == ["2013-01"]


def test_only_the_latest_reads_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landed_read, "READS_KEPT", 2)
    for number in range(4):
        (tmp_path / "2013-01.csv").write_text("id\n" + "1\n" * number)
        last = land_read(files(tmp_path), "orders", JANUARY, Landing(tmp_path / "landing"), IDS)

    kept = list((tmp_path / "landing/orders/reads/2013-01").iterdir())
    assert len(kept) == 2
    assert f"{last.sha256}.parquet" in {each.name for each in kept}


def test_source_that_changed_during_one_read_is_read_again(tmp_path: Path) -> None:
    prints[:] = ["a", "b", "b", "b"]

    assert land_read(API, "orders", JANUARY, Landing(tmp_path), {}).fingerprint == "b"


def test_source_that_changes_during_every_read_is_refused_and_nothing_lands(tmp_path: Path) -> None:
    prints[:] = list("abcdef")

    with pytest.raises(SourceChangedError, match=r"Dataset 'orders', partition 2013-01: expected no change of"):
        land_read(API, "orders", JANUARY, Landing(tmp_path), {})
    assert list(tmp_path.iterdir()) == []


def test_source_without_the_partition_is_named_and_the_landed_file_stays(tmp_path: Path) -> None:
    landing = Landing(tmp_path / "landing")
    (tmp_path / "2013-01.csv").write_text("id\n1\n")
    landed = land_read(files(tmp_path), "orders", JANUARY, landing, IDS)
    (tmp_path / "2013-01.csv").unlink()

    with pytest.raises(SourceEmptyError, match=r"expected rows in the files .*, found none"):
        land_read(files(tmp_path), "orders", JANUARY, landing, IDS)
    assert landing.find("orders", "2013-01").sha256 == landed.sha256


def test_part_is_requested_until_published_as_it_is_now(tmp_path: Path, state_store: StateStore) -> None:
    source, parts = files(tmp_path), [JANUARY, Slice("2013-02")]

    def requested(now: float = 0.0, runs: RunState = "running") -> list[tuple[str | None, int]]:
        found = changed_slices(source, "orders", parts, state_store, "v1", now, lambda request: runs)
        record_requests(state_store, "orders", found.due, "request", now)
        return [(each.partition, each.attempt) for each in found.due]

    (tmp_path / "2013-01.csv").write_text("id\n1\n")
    assert requested() == [("2013-01", 1)]
    assert requested(FIRST_WAIT_SECONDS, "running") == []
    assert requested(FIRST_WAIT_SECONDS - 1, "ended") == []
    assert requested(FIRST_WAIT_SECONDS, "ended") == [("2013-01", 2)]
    record_read(state_store, "orders", "2013-01", source.fingerprint(JANUARY) or "")
    assert requested() == []
    (tmp_path / "2013-01.csv").write_text("id\n22\n")
    assert requested() == [("2013-01", 1)]


def test_part_that_broke_the_contract_is_requested_only_with_other_rows_or_code(
    tmp_path: Path, state_store: StateStore
) -> None:
    source = files(tmp_path)

    def changed(code_version: str) -> tuple[list[str | None], dict[str, str]]:
        found = changed_slices(source, "orders", [JANUARY], state_store, code_version, 1e9, lambda request: "ended")
        record_requests(state_store, "orders", found.due, "request", 0.0)
        return [each.partition for each in found.due], found.reasons

    (tmp_path / "2013-01.csv").write_text("id\n1\n")
    assert changed("v1") == (["2013-01"], {})
    record_broken_read(state_store, "orders", "2013-01", source.fingerprint(JANUARY) or "", "schema")
    assert changed("v1") == ([], {"2013-01": "check 'schema' failed"})
    assert changed("v2") == (["2013-01"], {})


def test_return_of_a_source_to_an_earlier_state_is_another_reason(tmp_path: Path, state_store: StateStore) -> None:
    reasons = []
    for state in ("a", "b", "a", "b"):
        prints[:] = [state]
        found = changed_slices(API, "orders", [JANUARY], state_store, "v1", 0.0, lambda request: "ended")
        reasons.append(found.due[0].reason)
        record_read(state_store, "orders", "2013-01", state)

    assert len(set(reasons)) == 4
