"""Reading landed CSV: a column is typed when all its values parse, else text; damaged files are errors."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from ml_platform.data.reading import ColumnsMissingError, LandedFileError, Type, read_csv

COLUMNS: dict[str, Type] = {"id": pl.Int64, "delay": pl.Float64, "at": pl.Datetime("us", "UTC"), "ok": pl.Boolean}


def written(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_declared_columns_are_read_in_their_order_and_types(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "extra,ok,at,delay,id\nx,true,2013-01-01T10:00:00Z,NA,1\ny,false,,2.5,2\n")

    assert read_csv(path, COLUMNS).rows() == [
        (1, None, datetime(2013, 1, 1, 10, tzinfo=UTC), True),
        (2, 2.5, None, False),
    ]


def test_column_with_one_value_that_does_not_parse_stays_unchanged_text(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "id,delay,at,ok\n1,  12m,noon,maybe\n2,3,2013-01-01T10:00:00Z,true\n")
    read = read_csv(path, COLUMNS)

    assert read.schema == {"id": pl.Int64, "delay": pl.String, "at": pl.String, "ok": pl.String}
    assert read["delay"].to_list() == ["  12m", "3"]


def test_truncated_archive_is_rejected(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv.gz", "id,delay,at,ok\n" + "1,2,,true\n" * 5000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(LandedFileError, match=r"expected a whole gzip archive, found .* bytes that cannot be unpacked"):
        read_csv(path, COLUMNS)


def test_gz_file_that_is_not_an_archive_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(b"id,delay\n1,2\n")

    with pytest.raises(LandedFileError, match=r"expected a whole gzip archive"):
        read_csv(path, COLUMNS)


def test_empty_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(LandedFileError, match=r"found an empty file"):
        read_csv(written(tmp_path / "x.csv", ""), COLUMNS)


def test_error_names_absent_columns_and_the_present_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "id,delays,ok\n1,2,true\n")

    with pytest.raises(
        ColumnsMissingError, match=r"columns 'delay', 'at'.*not known here: 'delays'.*mean 'delays'"
    ) as error:
        read_csv(path, COLUMNS)
    assert error.value.missing == ("delay", "at")
    assert error.value.present == ("id", "delays", "ok")
