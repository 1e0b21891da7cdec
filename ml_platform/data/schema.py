"""The first half of a contract: the columns are there, no others are, and each has its type.

Apart from the expectations because these can only be asked of a table whose columns are there and typed.
"""

from collections.abc import Sequence

import polars as pl

from ml_platform.data.contract import EXAMPLES_SHOWN, ColumnRule, Contract, ContractReport, Subject, Violation
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
"""The one Polars type in which each declared type is stored."""


def check_schema(frame: pl.DataFrame, contract: Contract, subject: Subject, keys: Sequence[str] = ()) -> ContractReport:
    """Return which columns are absent, undeclared or of another type; ``keys`` are shown with the example rows.

    A column of the declared kind but another width (Int32 for integer, an integer for float) is accepted; ``conform``
    stores it in the declared one. Null rows never break a type.
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


def missing_columns(missing: Sequence[str], candidates: Sequence[str], subject: Subject) -> list[Violation]:
    """Return one violation per column of ``missing``, with the nearest of ``candidates``, which nobody asked for."""
    return [
        Violation(
            name,
            "present",
            1,
            (),
            f"{subject}: column '{name}' should be there, found no such column.{did_you_mean(name, candidates)} "
            f"Mend the landed file or the contract in {subject.line(name)}.",
        )
        for name in missing
    ]


def conform(frame: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """Return the declared columns of a frame that passed ``check_schema``, in declared order and stored types."""
    return frame.select(pl.col(rule.name).cast(STORED_TYPES[rule.type]) for rule in contract.columns)


def example_rows(
    frame: pl.DataFrame, positions: Sequence[int], columns: Sequence[str], hidden: Sequence[str]
) -> tuple[dict[str, object], ...]:
    """Return the first five rows of ``frame`` at ``positions`` (from 0) as ``{"row": position + 1, column: value}``.

    Values of ``hidden`` columns are replaced by ``•••``.
    """
    shown = list(dict.fromkeys(name for name in columns if name in frame.columns))
    few = list(positions[:EXAMPLES_SHOWN])
    rows = frame.select(shown)[few].to_dicts()
    return tuple(
        {"row": at + 1} | {name: "•••" if name in hidden else value for name, value in row.items()}
        for at, row in zip(few, rows, strict=True)
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


def _undeclared(name: str, frame: pl.DataFrame, contract: Contract, subject: Subject) -> Violation:
    return Violation(
        name,
        "declared",
        frame.height,
        (),
        f"{subject}: column '{name}' should be declared or left out, found {_words(frame.schema[name])} that the "
        f"contract does not know.{did_you_mean(name, contract.column_names)} "
        f"Declare it in {subject.line(None)} or drop it in the loader.",
    )


def _wrong_type(
    frame: pl.DataFrame, rule: ColumnRule, contract: Contract, subject: Subject, keys: Sequence[str]
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
        f"{subject}: column '{rule.name}' should be {rule.type}{unit}, found {_words(values.dtype)} in "
        f"{len(positions)} rows{first}. Mend the landed file or relax the contract in {subject.line(rule.name)}.",
    )


def _words(dtype: pl.DataType) -> str:
    known = [name for name, stored in STORED_TYPES.items() if stored == dtype]
    return known[0] if known else str(dtype)
