"""The first half of a contract check: all declared columns exist, no others do, and each has its type.

The expectations run afterwards, because they need a table with the declared columns and types.
"""

from collections.abc import Sequence

import polars as pl

from ml_platform.data.contract import EXAMPLES_SHOWN, ColumnRule, Contract, ContractReport, ContractSubject, Violation
from ml_platform.data.reading import parsed_or_null
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


def check_schema(
    frame: pl.DataFrame, contract: Contract, subject: ContractSubject, keys: Sequence[str] = ()
) -> ContractReport:
    """Return a report of absent, undeclared and mistyped columns; example rows show the columns ``keys`` too.

    A column of the declared kind but another width (Int32 for integer, an integer for float) is accepted; ``conform``
    stores it in the declared type. Nulls have every type.
    """
    rules = {rule.name: rule for rule in contract.columns}
    undeclared = [name for name in frame.columns if name not in rules]
    violations = missing_columns([name for name in rules if name not in frame.columns], undeclared, subject)
    violations += [_undeclared(name, frame, contract, subject) for name in undeclared]
    violations += [
        _wrong_type(frame, rule, contract, subject, keys)
        for rule in contract.columns
        if rule.name in frame.columns and not _acceptable(frame.schema[rule.name], rule)
    ]
    return ContractReport(subject, "schema", frame.height, len(rules) * 2, tuple(violations))


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
    return frame.select(pl.col(rule.name).cast(STORED_TYPES[rule.type]) for rule in contract.columns)


def example_rows(
    frame: pl.DataFrame, positions: Sequence[int], columns: Sequence[str], hidden: Sequence[str]
) -> tuple[dict[str, object], ...]:
    """Return the first five rows of ``frame`` at ``positions`` (from 0) as ``{"row": position + 1, column: value}``.

    Values of ``hidden`` columns read ``•••``.
    """
    shown_columns = list(dict.fromkeys(name for name in columns if name in frame.columns))
    shown_positions = list(positions[:EXAMPLES_SHOWN])
    rows = frame.select(shown_columns)[shown_positions].to_dicts()
    return tuple(
        {"row": position + 1} | {name: "•••" if name in hidden else value for name, value in row.items()}
        for position, row in zip(shown_positions, rows, strict=True)
    )


def _acceptable(found: pl.DataType, rule: ColumnRule) -> bool:
    if found == STORED_TYPES[rule.type]:
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
) -> Violation:
    values = frame[rule.name]
    wrong = values.is_not_null()
    if values.dtype == pl.String:
        unparsed = parsed_or_null(values, STORED_TYPES[rule.type]).is_null() & wrong
        wrong = unparsed if unparsed.any() else wrong
    positions = wrong.arg_true().to_list()
    examples = example_rows(frame, positions, [*keys, rule.name], contract.pii_columns)
    first = f" (first: row {examples[0]['row']}, {examples[0][rule.name]!r})" if examples else ""
    unit = f" ({rule.unit})" if rule.unit else ""
    return Violation(
        rule.name,
        f"type {rule.type}",
        len(positions),
        examples,
        f"{subject}: column '{rule.name}' should be {rule.type}{unit}, found {_type_name(values.dtype)} in "
        f"{len(positions)} rows{first}. Fix the landed file or relax the contract in {subject.line(rule.name)}.",
    )


def _type_name(dtype: pl.DataType) -> str:
    declared = [name for name, stored in STORED_TYPES.items() if stored == dtype]
    return declared[0] if declared else str(dtype)
