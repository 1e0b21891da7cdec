"""Binary columns: read from files exactly, bounded by their contract, stored as they were, and never printed."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.data.contract import ColumnRule, Contract, ContractSubject, Expectation, Violation
from ml_platform.data.digest import content_hash
from ml_platform.data.evolution import EvolutionRequest, column_changes
from ml_platform.data.expectations import check_expectations
from ml_platform.data.lake import Lake
from ml_platform.data.reading import read_csv
from ml_platform.data.schema import check_schema, conform
from ml_platform.data.sources.tabular_files import FileFormat

SUBJECT = ContractSubject("photos")
PHOTO = ColumnRule(name="photo", type="binary", max_bytes=6, nullable=True, description="…")
CONTRACT = Contract(columns=[ColumnRule(name="id", type="integer", description="…"), PHOTO])
ROWS = pl.DataFrame({"id": [1, 2, 3], "photo": [b"\x89PNG\r\n", b"\x00", None]})


def violations(photos: list[Any] | pl.Series) -> list[Violation]:
    return list(check_schema(pl.DataFrame({"id": range(len(photos)), "photo": photos}), CONTRACT, SUBJECT).violations)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_bytes_of_a_file_are_those_of_the_lake_and_of_other_tools(tmp_path: Path, suffix: str) -> None:
    texts = ROWS.with_columns(pl.col("photo").bin.encode("base64"))
    path = tmp_path / f"photos.{suffix}"
    if suffix == "parquet":
        ROWS.write_parquet(path)
    elif suffix == "csv":
        texts.write_csv(path)
    else:
        texts.write_ndjson(path)
    read = FileFormat().read_files([path], {"id": pl.Int64(), "photo": pl.Binary()})

    assert check_schema(read, CONTRACT, SUBJECT).violations == ()
    lake = Lake.standalone(tmp_path / "lake")
    lake.write("datasets/photos", conform(read, CONTRACT), None)
    assert lake.scan("datasets/photos").collect().equals(ROWS)

    import deltalake

    table = deltalake.DeltaTable(lake.delta_address("datasets/photos")).to_pyarrow_table()
    assert table["photo"].to_pylist() == ROWS["photo"].to_list()


def test_larger_value_is_reported_by_its_row_and_size_and_never_printed() -> None:
    (violation,) = violations([b"ok", b"1234567"])

    assert violation.rule == "size"
    assert "should have at most 6 bytes, found others in 1 rows (first: row 2, '7 bytes')" in violation.message
    assert violation.examples == ({"row": 2, "photo": "7 bytes"},)


def test_text_that_is_no_base64_is_reported_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "photos.csv"
    path.write_text("photo\nAAEC\nno base64\n")
    (violation,) = violations(read_csv(path, {"photo": pl.Binary()})["photo"])

    assert violation.rule == "type binary"
    assert (
        "should be binary of at most 6 bytes, found string in 1 rows (first: row 2, 'no base64')" in violation.message
    )


def test_expectations_see_the_size_of_a_value() -> None:
    limited = Contract(
        columns=CONTRACT.columns,
        expectations=[
            Expectation(expectation="expect_column_values_to_be_between", arguments={"column": "photo", "min_value": 2})
        ],
    )
    (violation,) = check_expectations(ROWS, limited, ["id"], SUBJECT).violations

    assert (violation.column, violation.count) == ("photo", 1)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "declare 'max_bytes'"),
        ({"max_bytes": 5, "size": 5}, "remove 'size'"),
        ({"max_bytes": 5, "minimum": 1}, "remove 'minimum' and 'maximum'"),
        ({"max_bytes": 5, "allowed": ["a"]}, "remove 'allowed'"),
    ],
)
def test_incomplete_rule_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ColumnRule.model_validate({"name": "photo", "type": "binary", "description": "…", **rule})


def test_digest_follows_the_bytes() -> None:
    other = ROWS.with_columns(photo=pl.Series([b"\x89PNG\r\t", b"\x00", None]))
    assert content_hash(ROWS) == content_hash(ROWS.reverse())
    assert content_hash(ROWS) != content_hash(other)
    assert content_hash(ROWS) != content_hash(ROWS.with_columns(photo=pl.Series([b"\x89PNG\r\n", None, None])))


def test_binary_column_is_added_to_a_stored_table() -> None:
    stored = ROWS.select("id")
    changes = column_changes("photos", stored.schema, CONTRACT, EvolutionRequest(fills={"photo": "AAEC"}))

    assert changes.apply(stored, "whole")["photo"].to_list() == [b"\x00\x01\x02"] * 3
