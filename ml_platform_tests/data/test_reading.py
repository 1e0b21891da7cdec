"""Reading landed CSV: every value is read as it stands in the file, or the file is refused with row and line."""

import csv
import gzip
import io
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.data.landed_bytes import LandedFileError
from ml_platform.data.reading import ColumnsMissingError, read_csv
from ml_platform.data.text_values import Type

INSTANT = pl.Datetime("us", "UTC")

COLUMNS: dict[str, Type] = {"id": pl.Int64, "delay": pl.Float64, "at": pl.Datetime("us", "UTC"), "ok": pl.Boolean}


def written(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_declared_columns_are_read_in_their_order_and_types(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "extra,ok,at,delay,id\nx,true,2013-01-01T10:00:00Z,NA,1\ny,false,,2.5,2\n")

    assert read_csv(path, COLUMNS, ("", "NA")).rows() == [
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


PAIR: dict[str, Type] = {"id": pl.Int64, "name": pl.String}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("id,name\n1,a\n2\n3,c\n", r"1 rows with fewer or more, the first with 1: row 2 \(line 3\)"),
        ("id,name\n1,a\n2,b,c\n3\n", r"2 rows with fewer or more, the first with 3: row 2 \(line 3\)"),
        ('id,name\n1,"a\nb"\n2\n', r"the first with 1: row 2 \(line 4\)"),
        ("id,name\n1,a\n\n2,b\n", r"an empty line at row 2 \(line 3\)"),
        ("id,name\r\n1,a\r\n\r\n", r"an empty line at row 2 \(line 3\)"),
        ("\nid,name\n1,a\n", r"an empty line at the header \(line 1\)"),
        ('id,name\n1,a\n2,"b\n3,c\n', r"none for row 2 \(line 3\), field 2"),
        ('id,name\n1,"a"b\n2,c\n', r"another quote in row 1 \(line 2\), field 2"),
        ('id,name\n1,a\n2,5"\n3,"\n', r"another quote in row 2 \(line 3\), field 2"),
        ("id,name\n1,a\rb\n", r"a carriage return without one in row 1 \(line 2\), field 2"),
        ("id,name\n1,a\n2,\0\n", r"a zero byte in line 3"),
        ("id,name,id\n1,a,2\n", r"repeated columns 'id'"),
        ("id,name,\n1,a,2\n", r"none for column 3 of 3"),
        ("id,name, \n1,a,2\n", r"none for column 3 of 3"),
    ],
)
def test_file_without_the_form_of_csv_is_refused_with_the_place(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(LandedFileError, match=found) as error:
        read_csv(written(tmp_path / "x.csv", text), PAIR)
    assert "Land the file again" in str(error.value)


def test_other_encoding_than_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("id,name\n1,a\n2,Zürich\n".encode("latin-1"))

    with pytest.raises(LandedFileError, match=r"expected text in UTF-8, found other bytes in line 3"):
        read_csv(path, PAIR)


def test_row_that_was_cut_in_mid_file_is_refused_and_not_filled_with_nulls(tmp_path: Path) -> None:
    lines = ["id,delay,at,ok", "1,2.5,2013-01-01T10:00:00Z,true", "2,3", "3,4,,false"]

    with pytest.raises(LandedFileError, match=r"expected 4 fields in every row.*row 2 \(line 3\)"):
        read_csv(written(tmp_path / "x.csv", "\n".join(lines) + "\n"), COLUMNS)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\ufeffid,name\n1,a\n", [(1, "a")]),
        ("id,name\r\n1,a\r\n2,b", [(1, "a"), (2, "b")]),
        ('"id","name"\n"1","a,""b""\nc"\n', [(1, 'a,"b"\nc')]),
        ('id,name\n1,"a\r\nb"\n', [(1, "a\r\nb")]),
        ('id,name\n1,""\n2,\n', [(1, None), (2, None)]),
        ("id,name\n1, a \n", [(1, " a ")]),
        (
            "id,name\n1,NA\n2,nan\n3,NULL\n4,None\n5,N/A\n",
            [(n, w) for n, w in enumerate(["NA", "nan", "NULL", "None", "N/A"], 1)],
        ),
        ("id,name\n", []),
        ("id,name", []),
    ],
)
def test_file_is_read_as_it_stands(tmp_path: Path, text: str, rows: list[tuple[object, ...]]) -> None:
    assert read_csv(written(tmp_path / "x.csv", text), PAIR).rows() == rows


def test_quoted_and_plain_words_of_null_values_are_null_and_other_words_are_not(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", 'id,name\n-,NULL\n2,"NULL"\n3,null\n')

    assert read_csv(path, PAIR, ("-", "NULL")).rows() == [(None, None), (2, None), (3, "null")]


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "NULL", "None", "N/A", "inf", "-Infinity", "1e400"])
def test_undeclared_word_keeps_a_numeric_column_text(tmp_path: Path, word: str) -> None:
    read = read_csv(written(tmp_path / "x.csv", f"id,delay\n1,2.5\n2,{word}\n"), {"delay": pl.Float64})

    assert read["delay"].to_list() == ["2.5", word]


def test_column_without_values_has_its_declared_type(tmp_path: Path) -> None:
    columns: dict[str, Type] = {**COLUMNS, "day": pl.Date, "name": pl.String}
    read = read_csv(written(tmp_path / "x.csv", "id,delay,at,ok,day,name\n,,,,,\n,,,,,\n"), columns)

    assert read.schema == {"id": pl.Int64, "delay": pl.Float64, "at": pl.Datetime("us", "UTC"), "ok": pl.Boolean} | {
        "day": pl.Date,
        "name": pl.String,
    }
    assert read.null_count().row(0) == (2,) * 6


def test_dates_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "day\n2024-02-29\n1969-12-31\n")

    assert read_csv(path, {"day": pl.Date})["day"].to_list() == [date(2024, 2, 29), date(1969, 12, 31)]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_times_that_polars_wrote_are_read_back(tmp_path: Path, zone: str) -> None:
    at = [datetime(2013, 6, 1, 8, 30, 0, 500_000, tzinfo=UTC), None, datetime(2013, 1, 1, tzinfo=UTC)]
    written = pl.DataFrame({"row": [1, 2, 3], "at": pl.Series(at, dtype=INSTANT)})
    path = tmp_path / "times.csv"
    written.with_columns(pl.col("at").dt.convert_time_zone(zone)).write_csv(path)

    assert read_csv(path, written.schema, [""]).equals(written)


def test_file_without_a_line_of_column_names_is_refused_without_showing_its_values(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "7,alice@example.org\n7,bob@example.org\n")

    with pytest.raises(ColumnsMissingError, match=r"a file without a line of column names") as error:
        read_csv(path, PAIR)
    assert "alice" not in str(error.value)


FIELDS = st.text(st.sampled_from('a,"\n\r é7'), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=8), quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
)
def test_what_a_csv_writer_wrote_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str]], quoting: Literal[0, 1]
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=quoting)
    writer.writerows([("a", "b"), *rows])
    read = read_csv(written(tmp_path / "x.csv", buffer.getvalue()), {"a": pl.String, "b": pl.String})

    assert read.rows() == [tuple(value or None for value in row) for row in rows]


def test_semicolons_and_decimal_commas_are_read_when_declared(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", 'id;delay;name\n1;2,5;"a;b\nc"\n2;-0,125;1,5\n')
    columns: dict[str, Type] = {"id": pl.Int64, "delay": pl.Float64, "name": pl.String}

    assert read_csv(path, columns, separator=";", decimal=",").rows() == [(1, 2.5, "a;b\nc"), (2, -0.125, "1,5")]


@pytest.mark.parametrize("value", ["2.5", "1.234,5", "1,234,5"])
def test_number_with_another_decimal_mark_than_the_declared_comma_stays_text(tmp_path: Path, value: str) -> None:
    path = written(tmp_path / "x.csv", f"id;delay\n1;{value}\n")

    assert read_csv(path, {"delay": pl.Float64}, separator=";", decimal=",")["delay"].to_list() == [value]


def test_undeclared_separator_is_named_even_where_decimal_commas_look_like_fields(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "id;name\n1;2,5\n")

    with pytest.raises(LandedFileError, match=r"separated by commas, found a first line with semicolons.*Declare"):
        read_csv(path, PAIR)


def test_declared_encoding_is_decoded_and_a_wrong_one_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("id,name\n1,Zürich €\n".encode("windows-1252"))

    assert read_csv(path, PAIR, encoding="windows-1252").rows() == [(1, "Zürich €")]
    with pytest.raises(LandedFileError, match=r"expected text in ASCII, found other bytes in line 2"):
        read_csv(path, PAIR, encoding="ascii")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_mark_tells_the_encoding_and_contradicts_another_one(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("id,name\n1,Zürich\n".encode(encoding))

    assert read_csv(path, PAIR).rows() == [(1, "Zürich")]
    assert read_csv(path, PAIR, encoding=encoding).rows() == [(1, "Zürich")]
    with pytest.raises(LandedFileError, match=r"declared encoding latin-1, found the byte order mark of UTF-"):
        read_csv(path, PAIR, encoding="latin-1")


@pytest.mark.parametrize("name", ["x.csv.zst", "x.csv"])
def test_zstd_is_unpacked_and_a_truncated_one_is_refused(tmp_path: Path, name: str) -> None:
    import pyarrow as pa

    path = tmp_path / name
    text = ("id,name\n" + "".join(f"{n},{n * n}\n" for n in range(5000))).encode()
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(text)

    assert read_csv(path, PAIR)["name"][4999] == str(4999 * 4999)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LandedFileError, match=r"expected a whole zstd archive"):
        read_csv(path, PAIR)


@pytest.mark.parametrize(
    ("start", "kind"), [(b"PK\x03\x04", "a zip archive"), (b"BZh9", "a bzip2 archive"), (b"PAR1", "a Parquet file")]
)
def test_other_archives_are_refused_by_name(tmp_path: Path, start: bytes, kind: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(start + b"rest")

    with pytest.raises(LandedFileError, match=f"found {kind}"):
        read_csv(path, PAIR)
