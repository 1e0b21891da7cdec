"""Decimals, durations, vectors and lists: read from text exactly, checked by row, stored and read back as they were."""

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.data.contract import ColumnRule, Contract, ContractSubject, Violation
from ml_platform.data.durations import iso_text, microseconds
from ml_platform.data.expectations import check_expectations
from ml_platform.data.lake import Lake, LakeError
from ml_platform.data.reading import read_csv
from ml_platform.data.schema import LONGEST_EXAMPLE, check_schema, conform, stored_type
from ml_platform.data.settings import Settings
from ml_platform.data.sources.tabular_files import FileFormat

SUBJECT = ContractSubject("items", "2026-01", {"x": "defs.yaml:9"})
COLUMNS: list[dict[str, Any]] = [
    {"name": "id", "type": "integer"},
    {"name": "price", "type": "decimal", "scale": 2, "minimum": 0},
    {"name": "code", "type": "decimal", "scale": 0},
    {"name": "wait", "type": "duration", "minimum": 0, "maximum": 7200},
    {"name": "embedding", "type": "vector", "size": 3, "nullable": True},
    {"name": "tags", "type": "list", "items": "string"},
    {"name": "days", "type": "list", "items": "date"},
    {"name": "text", "type": "string"},
]
CONTRACT = Contract(columns=[ColumnRule(description="…", **column) for column in COLUMNS])
LONG_TEXT = "é" * 100_000
LARGE = "9223372036854775807;12345678901234567890123.45;99999999999999999999"
CSV = f"""id;price;code;wait;embedding;tags;days;text
{LARGE};PT1H30M;[1, 2.5, -3e-2];["a","b"];["2026-01-31"];{LONG_TEXT}
-9223372036854775808;0.10;99999999999999999998;90.5;;[];[];short
"""


def landed(tmp_path: Path, text: str = CSV) -> pl.DataFrame:
    path = tmp_path / "items.csv"
    # CSV doubles the quotes within a quoted field.
    rows = [line.split(";") for line in text.strip().splitlines()]
    fields = [[f'"{field.replace(chr(34), chr(34) * 2)}"' if '"' in field else field for field in row] for row in rows]
    path.write_text("\n".join(";".join(row) for row in fields))
    return read_csv(path, {rule.name: stored_type(rule) for rule in CONTRACT.columns}, separator=";")


def one(values: pl.Series | list[Any], **rule: Any) -> list[Violation]:
    contract = Contract(columns=[ColumnRule(name="x", description="…", nullable=True, **rule)])
    return list(check_schema(pl.DataFrame({"x": values}), contract, SUBJECT).violations)


def test_every_type_is_read_from_csv_checked_and_read_back_from_the_lake_as_it_was(tmp_path: Path) -> None:
    frame = landed(tmp_path)
    assert check_schema(frame, CONTRACT, SUBJECT).violations == ()
    stored = conform(frame, CONTRACT)
    lake = Lake.standalone(tmp_path / "lake")
    lake.write("datasets/items", stored, "2026-01")
    lake.append("datasets/items", stored.head(1), "2026-01")
    read = lake.scan("datasets/items").drop("partition").collect()

    assert read.schema == stored.schema
    assert read.head(2).equals(stored)
    assert read.row(0) == (
        2**63 - 1,
        Decimal("12345678901234567890123.45"),
        Decimal("99999999999999999999"),
        timedelta(minutes=90),
        [1.0, 2.5, pytest.approx(-0.03)],
        ["a", "b"],
        [date(2026, 1, 31)],
        LONG_TEXT,
    )
    assert read.row(1)[3:7] == (timedelta(seconds=90.5), None, [], [])


def test_other_tools_read_a_duration_as_microseconds_and_a_vector_as_a_list(tmp_path: Path) -> None:
    lake = Lake.standalone(tmp_path / "lake")
    lake.write("datasets/items", conform(landed(tmp_path), CONTRACT), "2026-01")

    import deltalake

    read = pl.DataFrame(deltalake.DeltaTable(lake.delta_address("datasets/items")).to_pyarrow_table())
    assert read["wait"].to_list() == [5_400_000_000, 90_500_000]
    assert read["embedding"].to_list()[1] is None
    assert len(read["embedding"][0]) == 3
    assert read["price"].to_list() == [Decimal("12345678901234567890123.45"), Decimal("0.10")]


def test_earlier_version_of_a_whole_table_keeps_its_size_of_vectors(tmp_path: Path) -> None:
    lake = Lake.standalone(tmp_path / "lake")
    tables = [pl.DataFrame({"v": pl.Series([[0.5] * size, None], dtype=pl.Array(pl.Float32, size))}) for size in (2, 3)]
    versions = [lake.write("datasets/v", table, None).version for table in tables]

    for version, table in zip(versions, tables, strict=True):
        assert lake.scan("datasets/v", version).collect().equals(table)


def test_equal_rows_are_not_written_again(tmp_path: Path) -> None:
    lake, stored = Lake.standalone(tmp_path / "lake"), conform(landed(tmp_path), CONTRACT)
    first = lake.write("datasets/items", stored, "2026-01")

    assert lake.write("datasets/items", stored.reverse(), "2026-01") == first


def test_whole_numbers_beyond_64_bits_are_refused_by_name(tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": pl.Series([2**63], dtype=pl.UInt64)})

    with pytest.raises(LakeError, match=r"whole numbers of 64 bits with a sign, found larger ones in 'n'"):
        Lake.standalone(tmp_path / "lake").write("datasets/items", frame, None)
    (of_text,) = one(["9223372036854775808", "1"], type="integer")
    assert "found whole numbers beyond 64 bits in 1 rows (first: row 1, '9223372036854775808')" in of_text.message
    (of_numbers,) = one(pl.Series([2**63], dtype=pl.UInt64), type="integer")
    assert "should have values that integer can hold" in of_numbers.message


@pytest.mark.parametrize(
    ("rows", "kind", "found"),
    [
        ([[1.0, 2.0], [1.0]], "size", "should have 2 components, found others in 1 rows (first: row 2, 1 components)"),
        ([None, [1.0, float("nan")]], "finite", "found others in 1 rows (first: row 2, component 1: nan)"),
        ([[None, 1.0]], "finite", "(first: row 1, component 0: None)"),
        ([[1.0, 1e300]], "finite", "should have finite components of 32 bits"),
        ([["a", "b"]], "type vector", "should be vector of 2 components, found List(String) in 1 rows"),
        (["[1, 2]", "[1"], "type vector", "found string in 1 rows (first: row 2, '[1')"),
    ],
)
def test_wrong_vector_is_reported_with_row_and_length_or_component(rows: list[Any], kind: str, found: str) -> None:
    (violation,) = one(rows, type="vector", size=2)

    assert violation.rule == kind
    assert found in violation.message


def test_vectors_in_csv_keep_wrong_lengths_and_nan_for_the_report(tmp_path: Path) -> None:
    text = CSV.replace("[1, 2.5, -3e-2]", "[1, 2.5]").replace("90.5;;", "90.5;[1, NaN, 1e999];")
    violations = check_schema(landed(tmp_path, text), CONTRACT, SUBJECT).violations

    assert [(each.rule, each.examples[0]["row"]) for each in violations] == [("size", 1), ("finite", 2)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", "1.50"),
        ("-0.100", "-0.10"),
        ("1.005", None),
        ("1e2", None),
        ("1234567890123456789012345678901234567.00", None),
        (" 1", None),
        ("NaN", None),
    ],
)
def test_decimal_is_exact_or_refused(tmp_path: Path, text: str, value: str | None) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"x\n{text}\n")
    found = read_csv(path, {"x": pl.Decimal(38, 2)})["x"]

    assert found.to_list() == [text if value is None else Decimal(value)]
    assert bool(one(found, type="decimal", scale=2)) == (value is None)


def test_decimals_never_come_from_floats_and_never_lose_digits() -> None:
    assert "found float in 1 rows" in one([0.1], type="decimal", scale=2)[0].message
    assert one([1, 2], type="decimal", scale=2) == []
    cut = one(pl.Series(["1.005"]).cast(pl.Decimal(38, 3)), type="decimal", scale=2)
    assert "should have values that decimal with scale 2 can hold" in cut[0].message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("-1.000001", -1_000_001),
        ("PT0.5S", 500_000),
        ("P1DT2H3M4S", 93_784_000_000),
        ("P2W", 1_209_600_000_000),
        ("+PT1M", 60_000_000),
        ("P1Y", None),
        ("P1M", None),
        ("P", None),
        ("PT", None),
        ("1.0000001", None),
        ("1:30", None),
        ("P99999999999999D", None),
        ("9" * 70, None),
        ("", None),
    ],
)
def test_duration_is_seconds_or_iso_8601(text: str, expected: int | None) -> None:
    assert microseconds(text) == expected
    if expected is not None:
        assert microseconds(iso_text(timedelta(microseconds=expected))) == expected


def test_lists_refuse_null_items_and_items_of_another_kind() -> None:
    assert one([["a", None]], type="list", items="string")[0].rule == "items"
    assert "found List(String)" in one([["a"]], type="list", items="integer")[0].message
    assert one([[1], []], type="list", items="float") == []
    assert "items that are finite numbers" in one([[1.0, float("inf")]], type="list", items="float")[0].message
    for text in ('["a", 1]', '["a", null]', "{}", "[", "[true]"):
        assert one([text], type="list", items="string")[0].rule == "type list"


def test_json_lines_keep_the_digits_of_decimals_and_the_items_of_lists(tmp_path: Path) -> None:
    class Format(FileFormat, Settings):
        pass

    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"price": 12345678901234567890.10, "embedding": [1, 2, 0.5], "wait": 1.5, "days": ["2026-01-31"]}\n'
        '{"price": "0.1", "embedding": null, "wait": "PT1S", "days": []}\n'
    )
    columns = {rule.name: stored_type(rule) for rule in CONTRACT.columns}
    frame = Format().read_files([path], {name: columns[name] for name in ("price", "embedding", "wait", "days")})

    assert frame["price"].to_list() == [Decimal("12345678901234567890.10"), Decimal("0.10")]
    assert frame["embedding"].to_list() == [[1.0, 2.0, 0.5], None]
    assert frame["wait"].to_list() == [timedelta(seconds=1.5), timedelta(seconds=1)]
    assert frame["days"].to_list() == [[date(2026, 1, 31)], []]


def test_expectations_compare_durations_in_seconds_and_decimals_as_numbers(tmp_path: Path) -> None:
    stored = conform(landed(tmp_path), CONTRACT)
    assert check_expectations(stored, CONTRACT, ["code"], SUBJECT).passed
    late = stored.with_columns(wait=pl.lit(timedelta(hours=3)), price=-pl.col("price"))

    report = check_expectations(late, CONTRACT, ["id"], SUBJECT)
    assert [(each.column, each.count) for each in report.violations] == [("price", 2), ("wait", 2)]


def test_examples_of_long_texts_are_shortened() -> None:
    (violation,) = one([LONG_TEXT], type="integer")

    assert violation.examples[0]["x"] == f"{LONG_TEXT[:LONGEST_EXAMPLE]}… (100000 characters)"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"type": "vector"}, "declare 'size'"),
        ({"type": "decimal"}, "declare 'scale'"),
        ({"type": "list"}, "declare 'items'"),
        ({"type": "string", "size": 3}, "remove 'size'"),
        ({"type": "vector", "size": 2, "minimum": 0}, "remove 'minimum' and 'maximum'"),
        ({"type": "decimal", "scale": 2, "allowed": [1]}, "remove 'allowed'"),
    ],
)
def test_incomplete_type_is_refused_at_load(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ColumnRule(name="x", description="…", **rule)


def test_contract_without_new_types_is_written_as_before() -> None:
    assert "size" not in ColumnRule(name="x", type="float", description="…").model_dump()
    assert ColumnRule(name="x", type="vector", size=2, description="…").model_dump()["size"] == 2
