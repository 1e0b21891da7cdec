"""The landing zone stores each file once, finds it by partition, and explains a missing file."""

import hashlib
from pathlib import Path

import pytest

from ml_platform.data.landing import Landing, LandingError


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path / "landing")


def test_landed_file_is_found_with_its_digest_and_size(landing: Landing, tmp_path: Path) -> None:
    source = tmp_path / "export.csv"
    source.write_bytes(b"a\n1\n")
    landing.land("orders", "2013-01", source, ".csv")

    found = landing.find("orders", "2013-01")

    assert found.path == tmp_path / "landing/orders/2013-01.csv"
    assert found.path.read_bytes() == b"a\n1\n"
    assert (found.sha256, found.size_bytes) == (hashlib.sha256(b"a\n1\n").hexdigest(), 4)


def test_landing_equal_bytes_again_keeps_the_file(landing: Landing) -> None:
    first = landing.land_bytes("orders", "2013-01", b"a\n1\n", "csv").path.stat()
    again = landing.land_bytes("orders", "2013-01", b"a\n1\n", "csv").path.stat()

    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_later_delivery_replaces_the_file_even_with_another_suffix(landing: Landing) -> None:
    landing.land_bytes("orders", "2013-01", b"old", "csv")
    landing.land_bytes("orders", "2013-01", b"new", "csv.gz")

    assert landing.find("orders", "2013-01").path.name == "2013-01.csv.gz"
    assert landing.partitions("orders") == ["2013-01"]


def test_whole_files_have_no_partitions(landing: Landing) -> None:
    landing.land_bytes("shops", None, b"a\n1\n", "csv")

    assert landing.partitions("shops") == []
    assert landing.find("shops", None).partition is None
    assert landing.datasets() == ["shops"]


def test_unfinished_files_are_ignored(landing: Landing) -> None:
    landing.land_bytes("orders", "2013-01", b"a\n1\n", "csv")
    (landing.root / "orders" / ".2013-02.csv.x1").write_bytes(b"half")

    assert landing.partitions("orders") == ["2013-01"]


def test_error_of_a_missing_partition_names_the_landed_ones(landing: Landing) -> None:
    landing.land_bytes("orders", "2013-01", b"a\n1\n", "csv")

    with pytest.raises(LandingError, match=r"'orders', partition 2013-02: .* found 1 other partitions: '2013-01'"):
        landing.find("orders", "2013-02")


def test_error_of_a_misspelt_dataset_offers_the_closest_name(landing: Landing) -> None:
    landing.land_bytes("orders", "2013-01", b"a\n1\n", "csv")

    with pytest.raises(LandingError, match=r"Did you mean 'orders'"):
        landing.find("order", "2013-01")


def test_two_files_of_one_partition_are_rejected(landing: Landing) -> None:
    landing.land_bytes("orders", "2013-01", b"a\n1\n", "csv")
    (landing.root / "orders" / "2013-01.json").write_bytes(b"{}")

    with pytest.raises(LandingError, match=r"expected one file, found '2013-01.csv', '2013-01.json'"):
        landing.find("orders", "2013-01")
