"""Text becomes a typed value exactly, or stays text."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from ml_platform.data.text_values import Type, UnsupportedTypeError, parsed, parsed_or_null

INSTANT = pl.Datetime("us", "UTC")
SMALLEST = 5e-324


def read(text: str, dtype: Type) -> object:
    return parsed_or_null(pl.Series("x", [text]), dtype).item()


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("9223372036854775807", pl.Int64, 2**63 - 1),
        ("-9223372036854775808", pl.Int64, -(2**63)),
        ("+5", pl.Int64, 5),
        ("007", pl.Int64, 7),
        ("9007199254740992", pl.Float64, 2.0**53),
        ("0.10000000000000001", pl.Float64, 0.1),
        ("0.1000000000000000000000", pl.Float64, 0.1),
        ("64.430000000000007", pl.Float64, 64.43),
        ("1e23", pl.Float64, 1e23),
        ("5e-324", pl.Float64, SMALLEST),
        ("0e999", pl.Float64, 0.0),
        (".5", pl.Float64, 0.5),
        ("true", pl.Boolean, True),
        ("FALSE", pl.Boolean, False),
        ("2024-02-29", pl.Date, date(2024, 2, 29)),
        ("2013-01-01T10:00:00Z", INSTANT, datetime(2013, 1, 1, 10, tzinfo=UTC)),
        ("2013-01-01T10:00:00+02:00", INSTANT, datetime(2013, 1, 1, 8, tzinfo=UTC)),
        ("2013-01-01T10:00:00.5-0530", INSTANT, datetime(2013, 1, 1, 15, 30, 0, 500_000, tzinfo=UTC)),
        ("2013-01-01 10:00:00.000001-05:30", INSTANT, datetime(2013, 1, 1, 15, 30, 0, 1, tzinfo=UTC)),
    ],
)
def test_value_is_exact(text: str, dtype: Type, value: object) -> None:
    assert read(text, dtype) == value


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("9223372036854775808", pl.Int64),
        ("300", pl.Int8),
        ("5.0", pl.Int64),
        ("1e3", pl.Int64),
        (" 5", pl.Int64),
        ("1_000", pl.Int64),
        ("0x10", pl.Int64),
        ("nan", pl.Float64),
        ("-Infinity", pl.Float64),
        ("1e400", pl.Float64),
        ("1e-400", pl.Float64),
        ("9007199254740993", pl.Float64),
        ("3.14159265358979323846", pl.Float64),
        ("16777217", pl.Float32),
        ("5 ", pl.Float64),
        ("1,5", pl.Float64),
        ("yes", pl.Boolean),
        ("1", pl.Boolean),
        ("2013-02-29", pl.Date),
        ("2013-2-1", pl.Date),
        ("01/02/2013", pl.Date),
        ("0000-01-01", pl.Date),
        ("2013-01-01T00:00:00", pl.Date),
        ("2013-01-01T10:00:00", INSTANT),
        ("2013-01-01T10:00:00.1234567Z", INSTANT),
        ("2013-01-01T23:59:60Z", INSTANT),
        ("2013-01-01T24:00:00Z", INSTANT),
        ("9999-12-31T23:59:59-12:00", INSTANT),
    ],
)
def test_text_that_is_not_exactly_a_value_does_not_parse(text: str, dtype: Type) -> None:
    assert read(text, dtype) is None


def test_one_value_that_does_not_parse_keeps_the_column_text() -> None:
    texts = pl.Series("x", ["1", None, "9007199254740993", "2"])

    assert parsed(texts, pl.Float64).to_list() == texts.to_list()
    assert parsed_or_null(texts, pl.Float64).to_list() == [1.0, None, None, 2.0]
    assert parsed(texts, pl.Int64).to_list() == [1, None, 9007199254740993, 2]


@pytest.mark.parametrize("dtype", [pl.Datetime("us"), pl.Time])
def test_other_types_are_refused(dtype: Type) -> None:
    with pytest.raises(UnsupportedTypeError, match=r"'x'.*convert it in the loader"):
        read("1", dtype)
