"""The expectations of a contract, run by the real Great Expectations: each rule passes once and fails once."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.data.contract import ColumnRule, Contract, ContractReport, ContractSubject, Expectation
from ml_platform.data.expectations import ExpectationError, Period, check_expectations, known_expectations
from ml_platform.data.pii import MASK

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


PEOPLE = pl.DataFrame(
    {
        "id": [1, 2, 3, 3],
        "email": ["alice@example.org", "bob@example.org", "carol@example.org", "carol@example.org"],
        "born": [1931, 1983, 1983, 1983],
        "height": [1.71, 9.91, 1.8, 1.8],
    }
)
PEOPLE_COLUMNS: list[dict[str, Any]] = [
    {"name": "id", "type": "integer"},
    {"name": "email", "type": "string", "pii": True, "allowed": ["dora@example.org"]},
    {"name": "born", "type": "integer", "pii": True, "minimum": 1940, "maximum": 2000},
    {"name": "height", "type": "float", "maximum": 3},
]
PEOPLE_EXPECTATIONS: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_values_to_match_regex", {"column": "email", "regex": "^x"}),
    ("expect_column_mean_to_be_between", {"column": "born", "max_value": 1900}),
    ("expect_column_min_to_be_between", {"column": "born", "min_value": 1940}),
    ("expect_column_distinct_values_to_be_in_set", {"column": "email", "value_set": ["x"]}),
    ("expect_column_most_common_value_to_be_in_set", {"column": "email", "value_set": ["x"]}),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "height", "column_B": "born"}),
    ("expect_column_pair_values_to_be_equal", {"column_A": "born", "column_B": "id"}),
    ("expect_compound_columns_to_be_unique", {"column_list": ["id", "email"]}),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["born", "id"], "sum_total": 1}),
]
HIDDEN = ("alice", "bob@", "carol", "1931", "1983", "1970")
"""Values of the PII columns, and the mean of one."""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[ContractReport, str]:
    """Check a table in which every rule on a PII column fails; return the report and the text of its Data Docs."""
    rules = Contract(
        columns=[ColumnRule(description="…", **column) for column in PEOPLE_COLUMNS],
        expectations=[Expectation(expectation=name, arguments=arguments) for name, arguments in PEOPLE_EXPECTATIONS],
    )
    docs = tmp_path_factory.mktemp("docs")
    report = check_expectations(PEOPLE, rules, ("id", "email"), SUBJECT, docs)
    return report, "".join(file.read_text() for file in docs.rglob("*") if file.suffix in (".html", ".json"))


def test_report_shows_no_value_of_a_pii_column(people: tuple[ContractReport, str]) -> None:
    broken = [violation.rule for violation in people[0].violations]
    text = repr(people[0])

    assert set(broken) >= {name for name, _ in PEOPLE_EXPECTATIONS}
    assert [hidden for hidden in HIDDEN if hidden in text] == []
    # Values of the other columns stay visible.
    assert "height 9.91" in text


def test_data_docs_show_no_value_of_a_pii_column(people: tuple[ContractReport, str]) -> None:
    pages = people[1]

    assert [hidden for hidden in HIDDEN if hidden in pages] == []
    assert MASK in pages
    assert "9.91" in pages


def test_error_of_an_expectation_on_a_pii_column_does_not_quote_values() -> None:
    total = Expectation(expectation="expect_column_sum_to_be_between", arguments={"column": "email", "max_value": 1})
    rules = Contract(columns=[ColumnRule(description="…", **PEOPLE_COLUMNS[1])], expectations=[total])

    with pytest.raises(ExpectationError, match="expect_column_sum_to_be_between") as error:
        check_expectations(PEOPLE.select("email"), rules, (), SUBJECT)
    assert "alice" not in str(error.value)
