"""The expectations of a contract, run by the real Great Expectations: each rule passes once and fails once."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.data.contract import ColumnRule, Contract, ContractReport, ContractSubject, Expectation
from ml_platform.data.expectations import ExpectationError, Period, check_expectations, known_expectations

GOOD = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "origin": ["JFK", "EWR", "JFK"],
        "hour": [0, 23, None],
        "at": [datetime(2013, 3, day, tzinfo=UTC) for day in (1, 2, 31)],
    }
)
COLUMNS: list[dict[str, Any]] = [
    {"name": "id", "type": "integer"},
    {"name": "origin", "type": "string", "allowed": ["EWR", "JFK"]},
    {"name": "hour", "type": "integer", "nullable": True, "minimum": 0, "maximum": 23, "unit": "h"},
    {"name": "at", "type": "timestamp"},
]
SUBJECT = ContractSubject("orders", "2013-03", {"hour": "assets/x/defs.yaml:9"}, "assets/x/defs.yaml:2")
MARCH = Period("at", datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC))


def contract(**extra: Any) -> Contract:
    return Contract(columns=[ColumnRule(description="…", **column) for column in COLUMNS], **extra)


def check(frame: pl.DataFrame, keys: tuple[str, ...] = ("id", "origin"), **extra: Any) -> ContractReport:
    return check_expectations(frame, contract(**extra), keys, SUBJECT, period=MARCH)


def test_good_table_passes_every_rule() -> None:
    report = check(GOOD)

    # One for the count of rows, three for nulls, one set, one range, one key, one period.
    assert (report.passed, report.checked_rules, report.violations) == (True, 8, ())


@pytest.mark.parametrize(
    ("column", "values", "rule", "rows"),
    [
        ("hour", [31, 0, -1], "expect_column_values_to_be_between", [1, 3]),
        ("origin", ["XXX", "EWR", "JFK"], "expect_column_values_to_be_in_set", [1]),
        ("origin", ["EWR", None, "JFK"], "expect_column_values_to_not_be_null", [2]),
        ("at", [MARCH.start, MARCH.start, MARCH.end], "expect_column_values_to_be_between", [3]),
    ],
)
def test_impossible_value_is_reported_with_its_rule_and_rows(
    column: str, values: list[Any], rule: str, rows: list[int]
) -> None:
    violation = check(GOOD.with_columns(pl.Series(column, values, dtype=GOOD.schema[column]))).violations[0]

    assert (violation.column, violation.rule, violation.count) == (column, rule, len(rows))
    assert [example["row"] for example in violation.examples] == rows
    assert violation.examples[0] == {
        "row": rows[0],
        "id": GOOD["id"][rows[0] - 1],
        "origin": values[rows[0] - 1] if column == "origin" else GOOD["origin"][rows[0] - 1],
        column: values[rows[0] - 1],
    }


def test_message_names_dataset_partition_column_rule_count_row_and_fix() -> None:
    violation = check(GOOD.with_columns(hour=pl.Series([31, 0, None]))).violations[0]

    assert violation.message == (
        "Dataset 'orders', partition 2013-03: column 'hour' should lie between 0 and 23 h, found 1 of 3 rows that "
        "break it (first: row 1, id 1, origin 'JFK', hour 31). "
        "Fix the landed file or relax the contract in assets/x/defs.yaml:9."
    )


def test_repeated_key_is_reported_with_both_rows() -> None:
    doubled = pl.concat([GOOD, GOOD[:1]])
    composed, single = check(doubled).violations[0], check(doubled, keys=("id",)).violations[0]

    assert (composed.rule, composed.count) == ("expect_compound_columns_to_be_unique", 2)
    assert (single.rule, single.count) == ("expect_column_values_to_be_unique", 2)
    assert [example["row"] for example in composed.examples] == [1, 4]


def test_too_few_rows_are_reported() -> None:
    violation = check(GOOD, minimum_rows=4).violations[0]

    assert "the table should have at least 4 rows, found 3" in violation.message


def test_declared_expectations_are_evaluated_and_a_warning_does_not_fail() -> None:
    mean = Expectation(expectation="expect_column_mean_to_be_between", arguments={"column": "hour", "max_value": 5})
    strict = check(GOOD, expectations=[mean])
    lenient = check(GOOD, expectations=[mean.model_copy(update={"severity": "warning"})])

    assert (strict.passed, strict.checked_rules) == (False, 9)
    assert "found 11.5" in strict.violations[0].message
    assert (lenient.passed, lenient.violations[0].severity) == (True, "warning")


@pytest.mark.parametrize(
    ("expectation", "arguments", "found"),
    [
        ("expect_column_mean_to_be_betwen", {"column": "hour"}, "Did you mean 'expect_column_mean_to_be_between'"),
        ("expect_column_mean_to_be_between", {"column": "hours", "max_value": 1}, 'column "hours".*does not exist'),
        ("expect_column_mean_to_be_between", {"column": "hour", "biggest": 1}, "biggest extra fields not permitted"),
    ],
)
def test_expectation_that_cannot_be_evaluated_is_an_error_and_not_a_failure(
    expectation: str, arguments: dict[str, Any], found: str
) -> None:
    with pytest.raises(ExpectationError, match=found):
        check(GOOD, expectations=[Expectation(expectation=expectation, arguments=arguments)])


def test_names_are_known_without_importing_great_expectations() -> None:
    assert "expect_column_values_to_match_regex" in known_expectations()
    assert len(known_expectations()) > 40


def test_data_docs_show_the_rules_of_the_last_check_only(tmp_path: Path) -> None:
    (tmp_path / "stale.html").write_text("old")
    check_expectations(GOOD, contract(), ("id",), SUBJECT, tmp_path)
    pages = "".join(page.read_text() for page in tmp_path.glob("validations/**/*.html"))

    assert (tmp_path / "index.html").exists()
    assert not (tmp_path / "stale.html").exists()
    assert "origin" in pages
    assert "100% success" in pages or "Succeeded" in pages
