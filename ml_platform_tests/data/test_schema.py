"""The schema check distinguishes absent, undeclared and mistyped columns."""

import polars as pl
import pytest

from ml_platform.data.contract import ColumnRule, Contract, ContractReport, ContractSubject
from ml_platform.data.pii import MASK
from ml_platform.data.schema import SCALAR_TYPES, check_schema, conform

CONTRACT = Contract(
    columns=[
        ColumnRule(name="id", type="integer", description="Number"),
        ColumnRule(name="delay", type="float", unit="minutes", nullable=True, description="Delay"),
        ColumnRule(name="email", type="string", pii=True, nullable=True, description="Who"),
    ]
)
SUBJECT = ContractSubject("orders", "2013-03", {"delay": "assets/x/defs.yaml:31"}, "assets/x/defs.yaml:20")


def test_table_as_declared_passes_all_rules() -> None:
    report = check_schema(pl.DataFrame({"id": [1], "delay": [0.5], "email": ["a@b"]}), CONTRACT, SUBJECT)

    assert report.passed
    assert report.checked_rules == 9


def test_text_among_numbers_is_reported_with_count_row_value_and_line_of_the_rule() -> None:
    delays = ["1.5", None, *["  12m"] * 3]
    report = check_schema(pl.DataFrame({"id": range(5), "delay": delays, "email": "x"}), CONTRACT, SUBJECT, ["id"])

    (violation,) = report.violations
    assert violation.message == (
        "Dataset 'orders', partition 2013-03: column 'delay' should be float (minutes), found string in 3 rows "
        "(first: row 3, '  12m'). Fix the landed file or relax the contract in assets/x/defs.yaml:31."
    )
    assert violation.count == 3
    assert violation.examples[0] == {"row": 3, "id": 2, "delay": "  12m"}


def test_at_most_five_rows_are_examples() -> None:
    report = check_schema(pl.DataFrame({"id": range(9), "delay": ["x"] * 9, "email": "x"}), CONTRACT, SUBJECT)

    assert report.violations[0].count == 9
    assert [example["row"] for example in report.violations[0].examples] == [1, 2, 3, 4, 5]


def test_renamed_column_is_missing_and_undeclared_and_each_message_offers_the_other() -> None:
    report = check_schema(pl.DataFrame({"id": [1], "delays": [0.5], "email": ["x"]}), CONTRACT, SUBJECT)

    assert {(violation.column, violation.rule) for violation in report.violations} == {
        ("delay", "present"),
        ("delays", "declared"),
    }
    assert "Did you mean 'delays'?" in report.violations[0].message
    assert "Did you mean 'delay'?" in report.violations[1].message


def test_values_of_pii_columns_are_hidden() -> None:
    report = check_schema(pl.DataFrame({"id": [1], "delay": [0.5], "email": [7]}), CONTRACT, SUBJECT)

    assert report.violations[0].examples == ({"row": 1, "email": "•••"},)
    assert "7" not in report.violations[0].message.replace("2013-03", "")


def test_numbers_of_another_width_are_accepted_and_stored_in_the_declared_type() -> None:
    frame = pl.DataFrame(
        {"email": [None], "delay": [3], "id": pl.Series([1], dtype=pl.Int16)}, schema_overrides={"email": pl.String}
    )

    assert check_schema(frame, CONTRACT, SUBJECT).passed
    assert conform(frame, CONTRACT).schema == {"id": pl.Int64, "delay": pl.Float64, "email": pl.String}


def test_fraction_is_not_an_integer_and_local_time_is_not_a_timestamp() -> None:
    contract = Contract(
        columns=[
            ColumnRule(name="id", type="integer", description="Number"),
            ColumnRule(name="at", type="timestamp", description="When"),
        ]
    )
    frame = pl.DataFrame({"id": [1.5], "at": ["2013-01-01"]}).with_columns(pl.col("at").str.to_datetime())

    assert [violation.rule for violation in check_schema(frame, contract, SUBJECT).violations] == [
        "type integer",
        "type timestamp",
    ]


def check_one(values: pl.Series, type_: str, **rule: object) -> ContractReport:
    column = ColumnRule.model_validate({"name": "x", "type": type_, "description": "…", "nullable": True, **rule})
    return check_schema(pl.DataFrame({"x": values}), Contract(columns=[column]), SUBJECT)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32])
def test_number_that_is_not_finite_is_a_violation_even_in_a_nullable_column(
    number: float, dtype: type[pl.DataType]
) -> None:
    (violation,) = check_one(pl.Series([1.5, None, number], dtype=dtype), "float").violations

    assert (violation.rule, violation.count, violation.examples[0]["row"]) == ("finite", 1, 3)
    assert "should have finite numbers, found others in 1 rows (first: row 3" in violation.message
    assert "Write null for a missing value" in violation.message


def test_text_in_a_date_column_is_a_violation_with_row_and_value() -> None:
    (violation,) = check_one(pl.Series(["2013-01-01", "soon", None]), "date").violations

    assert (violation.rule, violation.count) == ("type date", 1)
    assert "should be date, found string in 1 rows (first: row 2, 'soon')" in violation.message


@pytest.mark.parametrize("type_", ["string", "integer", "float", "boolean", "date", "timestamp"])
@pytest.mark.parametrize("dtype", [pl.Null, pl.String, pl.Float64, pl.List(pl.Int64)])
@pytest.mark.parametrize("rows", [0, 2])
def test_column_without_values_has_every_type(type_: str, dtype: pl.DataType, rows: int) -> None:
    values = pl.Series([None] * rows, dtype=dtype)
    contract = Contract(columns=[ColumnRule.model_validate({"name": "x", "type": type_, "description": "…"})])

    assert check_one(values, type_).passed
    conformed = conform(pl.DataFrame({"x": values}), contract)
    assert (conformed.schema["x"], conformed["x"].null_count()) == (SCALAR_TYPES[type_], rows)


@pytest.mark.parametrize(
    ("values", "type_", "row"),
    [
        (pl.Series([1, 2**53 + 1]), "float", 2),
        (pl.Series([2**63 - 1]), "float", 1),
        (pl.Series([1, 2**63], dtype=pl.UInt64), "integer", 2),
        (pl.Series([1001], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC")), "timestamp", 1),
        (pl.Series([2**62], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")), "timestamp", 1),
    ],
)
def test_value_that_the_stored_type_cannot_hold_is_a_violation(values: pl.Series, type_: str, row: int) -> None:
    (violation,) = check_one(values, type_).violations

    assert (violation.rule, violation.count) == ("exact", 1)
    assert f"values that {type_} can hold, found others in 1 rows (first: row {row}, " in violation.message


def test_values_that_the_stored_type_holds_pass() -> None:
    assert check_one(pl.Series([1, 2**53]), "float").passed
    assert check_one(pl.Series([0.1], dtype=pl.Float32), "float").passed
    assert check_one(pl.Series([5000], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC")), "timestamp").passed
    assert check_one(pl.Series(["a", None], dtype=pl.Categorical), "string").passed


def test_number_of_a_pii_column_that_is_not_finite_is_hidden() -> None:
    (violation,) = check_one(pl.Series([2**53 + 1]), "float", pii=True).violations

    assert violation.examples == ({"row": 1, "x": MASK},)
    assert str(2**53 + 1) not in violation.message
