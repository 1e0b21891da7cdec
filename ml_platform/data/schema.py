"""The first half of a contract check: all declared columns exist, no others do, and each has values of its type.

The expectations run afterwards, because they need a table with the declared columns and types.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from ml_platform.data.contract import (
    EXAMPLES_SHOWN,
    ColumnRule,
    Contract,
    ContractReport,
    ContractSubject,
    Violation,
)
from ml_platform.data.pii import shown_rows
from ml_platform.data.text_values import parsed_or_null
from ml_platform.errors import did_you_mean

STORED_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
}
"""The Polars type in which each declared type is stored."""

FIRST_INSTANT = datetime.min.replace(tzinfo=UTC)
LAST_INSTANT = datetime.max.replace(tzinfo=UTC)


def check_schema(
    frame: pl.DataFrame, contract: Contract, subject: ContractSubject, keys: Sequence[str] = ()
) -> ContractReport:
    """Return a report of absent, undeclared and mistyped columns; example rows show the columns ``keys`` too.

    A column of the declared kind but another width (Int32 for integer, an integer for float) is accepted if the
    declared type holds each of its values exactly; ``conform`` stores it in that type. A column without values has
    every type. NaN and infinity are violations: Polars orders NaN above all numbers, so it would exceed every limit.
    """
    rules = {rule.name: rule for rule in contract.columns}
    undeclared = [name for name in frame.columns if name not in rules]
    violations = missing_columns([name for name in rules if name not in frame.columns], undeclared, subject)
    violations += [_undeclared(name, frame, contract, subject) for name in undeclared]
    for rule in contract.columns:
        if rule.name in frame.columns:
            acceptable = _acceptable(frame[rule.name], rule)
            check = _unstorable if acceptable else _wrong_type
            violations += check(frame, rule, contract, subject, keys)
    return ContractReport(subject, "schema", frame.height, len(rules) * 3, tuple(violations))


def missing_columns(missing: Sequence[str], candidates: Sequence[str], subject: ContractSubject) -> list[Violation]:
    """Return one violation per column of ``missing``; each offers the closest of the undeclared ``candidates``."""
    return [
        Violation(
            name,
            "present",
            1,
            (),
            f"{subject}: column '{name}' should be there, found no such column.{did_you_mean(name, candidates)} "
            f"Fix the landed file or the contract in {subject.line(name)}.",
        )
        for name in missing
    ]


def conform(frame: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """Return the declared columns of a frame that passed ``check_schema``, in declared order, as ``STORED_TYPES``."""
    return pl.DataFrame([_stored(frame[rule.name], rule) for rule in contract.columns])


def example_rows(
    frame: pl.DataFrame, positions: Sequence[int], columns: Sequence[str], hidden: Sequence[str]
) -> tuple[dict[str, object], ...]:
    """Return the first five rows of ``frame`` at ``positions`` (from 0) as ``{"row": position + 1, column: value}``.

    Values of ``hidden`` columns are masked.
    """
    shown_columns = list(dict.fromkeys(name for name in columns if name in frame.columns))
    shown_positions = list(positions[:EXAMPLES_SHOWN])
    values = [frame[name].gather(shown_positions) for name in shown_columns]
    # Python has no dates outside its years: such a value is shown as the stored number.
    rows = pl.DataFrame([each.to_physical() if _outside_years(each).any() else each for each in values])
    return tuple(
        {"row": position + 1} | row for position, row in zip(shown_positions, shown_rows(rows, hidden), strict=True)
    )


def _acceptable(values: pl.Series, rule: ColumnRule) -> bool:
    found = values.dtype
    if found == STORED_TYPES[rule.type] or values.null_count() == len(values):
        return True
    if rule.type == "integer":
        return found.is_integer()
    if rule.type == "float":
        return found.is_numeric() and not found.is_decimal()
    if rule.type == "string":
        return isinstance(found, (pl.Categorical, pl.Enum))
    if rule.type == "timestamp":
        return isinstance(found, pl.Datetime) and found.time_zone == "UTC"
    return False


def _stored(values: pl.Series, rule: ColumnRule) -> pl.Series:
    stored = STORED_TYPES[rule.type]
    if values.null_count() == len(values):
        return pl.Series(values.name, [None] * len(values), stored)
    return values.cast(stored)


def _unstorable(
    frame: pl.DataFrame, rule: ColumnRule, contract: Contract, subject: ContractSubject, keys: Sequence[str]
) -> list[Violation]:
    """Return a violation for numbers that are not finite, and for values that the declared type cannot hold."""
    values, stored = frame[rule.name], STORED_TYPES[rule.type]
    if values.null_count() == len(values):
        return []
    if values.dtype.is_float():
        wrong, kind = ~values.is_finite(), "finite"
        expected, fix = "finite numbers", "Write null for a missing value, in the file or in the loader"
    else:
        wrong, kind = _changed_by_cast(values, stored) | _outside_years(values), "exact"
        expected, fix = f"values that {rule.type} can hold", "Convert them in the loader"
    positions = (wrong & values.is_not_null()).arg_true().to_list()
    if not positions:
        return []
    examples = example_rows(frame, positions, [*keys, rule.name], contract.pii_columns)
    message = (
        f"{subject}: column '{rule.name}' should have {expected}, found others in {len(positions)} rows "
        f"(first: row {examples[0]['row']}, {examples[0][rule.name]!r}). "
        f"{fix}, or change the type in {subject.line(rule.name)}."
    )
    return [Violation(rule.name, kind, len(positions), examples, message)]


def _changed_by_cast(values: pl.Series, stored: pl.DataType) -> pl.Series:
    if values.dtype == stored or stored == pl.String:
        return pl.repeat(False, len(values), eager=True)
    cast = values.cast(stored, strict=False)
    return cast.is_null() | cast.cast(values.dtype, strict=False).ne_missing(values)


def _outside_years(values: pl.Series) -> pl.Series:
    """Return whether each date or timestamp lies outside the years 1 to 9999, which Python's own types can hold."""
    if isinstance(values.dtype, pl.Datetime):
        microseconds = values.cast(STORED_TYPES["timestamp"], strict=False)
        return values.is_not_null() & ~microseconds.is_between(FIRST_INSTANT, LAST_INSTANT).fill_null(False)
    if values.dtype == pl.Date:
        return values.is_not_null() & ~values.is_between(FIRST_INSTANT.date(), LAST_INSTANT.date())
    return pl.repeat(False, len(values), eager=True)


def _undeclared(name: str, frame: pl.DataFrame, contract: Contract, subject: ContractSubject) -> Violation:
    return Violation(
        name,
        "declared",
        frame.height,
        (),
        f"{subject}: column '{name}' should be declared or left out, found an undeclared column of type "
        f"{_type_name(frame.schema[name])}.{did_you_mean(name, contract.column_names)} "
        f"Declare it in {subject.line(None)} or drop it in the loader.",
    )


def _wrong_type(
    frame: pl.DataFrame, rule: ColumnRule, contract: Contract, subject: ContractSubject, keys: Sequence[str]
) -> list[Violation]:
    values = frame[rule.name]
    wrong = values.is_not_null()
    if values.dtype == pl.String:
        unparsed = parsed_or_null(values, STORED_TYPES[rule.type]).is_null() & wrong
        wrong = unparsed if unparsed.any() else wrong
    positions = wrong.arg_true().to_list()
    examples = example_rows(frame, positions, [*keys, rule.name], contract.pii_columns)
    first = f" (first: row {examples[0]['row']}, {examples[0][rule.name]!r})" if examples else ""
    unit = f" ({rule.unit})" if rule.unit else ""
    return [
        Violation(
            rule.name,
            f"type {rule.type}",
            len(positions),
            examples,
            f"{subject}: column '{rule.name}' should be {rule.type}{unit}, found {_type_name(values.dtype)} in "
            f"{len(positions)} rows{first}. Fix the landed file or relax the contract in {subject.line(rule.name)}.",
        )
    ]


def _type_name(dtype: pl.DataType) -> str:
    declared = [name for name, stored in STORED_TYPES.items() if stored == dtype]
    return declared[0] if declared else str(dtype)
