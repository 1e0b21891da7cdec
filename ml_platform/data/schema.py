"""The first half of a contract check: all declared columns exist, no others do, and each has values of its type.

The expectations run afterwards, because they need a table with the declared columns and types.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from ml_platform.data.contract import (
    EXAMPLES_SHOWN,
    MAX_DECIMAL_DIGITS,
    ColumnRule,
    Contract,
    ContractReport,
    ContractSubject,
    Violation,
)
from ml_platform.data.nested_columns import Fault, as_lists, items_with_rows, null_items, rows_of, vector_faults
from ml_platform.data.pii import shown_rows
from ml_platform.data.text_values import parsed_or_null
from ml_platform.errors import did_you_mean

SCALAR_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us", "UTC"),
    "duration": pl.Duration("us"),
}
"""The Polars type in which each declared type without an attribute of its own is stored."""

_WHOLE_NUMBER = "^[+-]?[0-9]+$"

FIRST_INSTANT = datetime.min.replace(tzinfo=UTC)
LAST_INSTANT = datetime.max.replace(tzinfo=UTC)

LONGEST_EXAMPLE = 200
"""Characters of a text that an example row shows."""

ITEMS_SHOWN = 8
"""Items of a vector or list that an example row shows."""


def stored_type(rule: ColumnRule) -> pl.DataType:
    """Return the Polars type in which the values of ``rule`` are stored."""
    if rule.type == "decimal":
        return pl.Decimal(MAX_DECIMAL_DIGITS, rule.scale or 0)
    if rule.type == "vector":
        return pl.Array(pl.Float32, rule.size or 1)
    if rule.type == "list":
        return pl.List(SCALAR_TYPES[rule.items or "string"])
    if rule.type == "binary":
        return pl.Binary()
    return SCALAR_TYPES[rule.type]


def check_schema(
    frame: pl.DataFrame, contract: Contract, subject: ContractSubject, keys: Sequence[str] = (), hint: str = ""
) -> ContractReport:
    """Return a report of absent, undeclared and mistyped columns; example rows show the columns ``keys`` too.

    ``hint`` is a sentence about absent columns, such as their earlier name.

    A column of the declared kind but another width (Int32 for integer, an integer for float) is accepted if the
    declared type holds each of its values exactly; ``conform`` stores it in that type. A column without values has
    every type. NaN and infinity are violations: Polars orders NaN above all numbers, so it would exceed every limit.
    The components of a vector are rounded to 32 bits. A decimal accepts whole numbers and decimals whose digits fit,
    and no float. Violations of vectors and lists name the length or the place of the first wrong item.
    """
    rules = {rule.name: rule for rule in contract.columns}
    undeclared = [name for name in frame.columns if name not in rules]
    violations = missing_columns([name for name in rules if name not in frame.columns], undeclared, subject, hint)
    violations += [_undeclared(name, frame, contract, subject) for name in undeclared]
    for rule in contract.columns:
        if rule.name in frame.columns:
            check = _unstorable if _acceptable(frame[rule.name], rule) else _wrong_type
            violations += check(frame, rule, contract, subject, keys)
    return ContractReport(subject, "schema", frame.height, len(rules) * 3, tuple(violations))


def missing_columns(
    missing: Sequence[str], candidates: Sequence[str], subject: ContractSubject, hint: str = ""
) -> list[Violation]:
    """Return one violation per column of ``missing``; each offers the closest of the undeclared ``candidates``.

    ``hint`` is a sentence that each message has, such as the earlier name of a column.
    """
    return [
        Violation(
            name,
            "present",
            1,
            (),
            f"{subject}: column '{name}' should be there, found no such column."
            f"{hint or did_you_mean(name, candidates)} Fix the landed file or the contract in {subject.line(name)}.",
        )
        for name in missing
    ]


def conform(frame: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """Return the declared columns of a frame that passed ``check_schema``, in declared order, as ``stored_type``."""
    return pl.DataFrame([_stored(frame[rule.name], rule) for rule in contract.columns])


def example_rows(
    frame: pl.DataFrame, positions: Sequence[int], columns: Sequence[str], hidden: Sequence[str]
) -> tuple[dict[str, object], ...]:
    """Return the first five rows of ``frame`` at ``positions`` (from 0) as ``{"row": position + 1, column: value}``.

    Values of ``hidden`` columns are masked. Long texts and vectors are shortened, and say how long they are.
    """
    shown_columns = list(dict.fromkeys(name for name in columns if name in frame.columns))
    shown_positions = list(positions[:EXAMPLES_SHOWN])
    values = [frame[name].gather(shown_positions) for name in shown_columns]
    # Python has no dates outside its years: such a value is shown as the stored number.
    rows = pl.DataFrame([each.to_physical() if _outside_years(each).any() else each for each in values])
    return tuple(
        {"row": position + 1} | {name: _shortened(value) for name, value in row.items()}
        for position, row in zip(shown_positions, shown_rows(rows, hidden), strict=True)
    )


def _shortened(value: object) -> object:
    if isinstance(value, str) and len(value) > LONGEST_EXAMPLE:
        return f"{value[:LONGEST_EXAMPLE]}… ({len(value)} characters)"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list) and len(value) > ITEMS_SHOWN:
        return [*value[:ITEMS_SHOWN], f"… ({len(value)} items)"]
    return value


def _acceptable(values: pl.Series, rule: ColumnRule) -> bool:
    found = values.dtype
    if found == stored_type(rule) or values.null_count() == len(values):
        return True
    if rule.type == "integer":
        return found.is_integer()
    if rule.type == "float":
        return found.is_numeric() and not found.is_decimal()
    if rule.type == "decimal":
        return found.is_decimal() or found.is_integer()
    if rule.type == "string":
        return isinstance(found, (pl.Categorical, pl.Enum))
    if rule.type == "timestamp":
        return isinstance(found, pl.Datetime) and found.time_zone == "UTC"
    if rule.type == "duration":
        return isinstance(found, pl.Duration)
    if rule.is_nested and isinstance(found, (pl.Array, pl.List)):
        items = items_with_rows(as_lists(values))["item"]
        return _acceptable(items, _item_rule(rule)) and not (rule.type == "vector" and items.dtype.is_decimal())
    return False


def _item_rule(rule: ColumnRule) -> ColumnRule:
    return ColumnRule(name=rule.name, type=rule.items or "float", description=rule.description)


def _stored(values: pl.Series, rule: ColumnRule) -> pl.Series:
    stored = stored_type(rule)
    if values.null_count() == len(values):
        return pl.Series(values.name, [None] * len(values), stored)
    return as_lists(values).cast(stored) if isinstance(stored, pl.List) else values.cast(stored)


def _unstorable(
    frame: pl.DataFrame, rule: ColumnRule, contract: Contract, subject: ContractSubject, keys: Sequence[str]
) -> list[Violation]:
    """Return a violation for each kind of values that the declared type cannot hold, like NaN and infinity."""
    violations = []
    for fault in _faults(frame[rule.name], rule):
        positions = fault.rows.arg_true().to_list()
        examples = example_rows(frame, positions, [*keys, rule.name], contract.pii_columns)
        hidden = rule.name in contract.pii_columns
        first = fault.first if fault.first and not hidden else repr(examples[0][rule.name])
        fix = "Write null for a missing value, in the file or in the loader"
        fix = fix if fault.kind == "finite" and not rule.is_nested else "Convert them in the loader"
        message = (
            f"{subject}: column '{rule.name}' should have {fault.expected}, found others in {len(positions)} rows "
            f"(first: row {examples[0]['row']}, {first}). "
            f"{fix}, or change the type in {subject.line(rule.name)}."
        )
        violations.append(Violation(rule.name, fault.kind, len(positions), examples, message))
    return violations


def _faults(values: pl.Series, rule: ColumnRule) -> list[Fault]:
    if values.null_count() == len(values):
        return []
    if rule.type == "vector":
        return vector_faults(values, rule)
    if rule.type == "list":
        incomplete = null_items(values)
        if incomplete is not None:
            return [incomplete]
        table = items_with_rows(as_lists(values))
        return [
            Fault(
                each.kind,
                rows_of(table.filter(each.rows), len(values)),
                f"items that are {each.expected}",
                f"place {table.filter(each.rows)['place'][0]}",
            )
            for each in _faults(table["item"], _item_rule(rule))
        ]
    if rule.type == "binary":
        wrong, kind, expected = values.bin.size() > rule.max_bytes, "size", f"at most {rule.max_bytes} bytes"
    elif values.dtype.is_float():
        wrong, kind, expected = ~values.is_finite(), "finite", "finite numbers"
    else:
        wrong = _changed_by_cast(values, stored_type(rule)) | _outside_years(values)
        kind, expected = "exact", f"values that {_described(rule)} can hold"
    wrong = wrong & values.is_not_null()
    return [Fault(kind, wrong, expected, "")] if wrong.any() else []


def _described(rule: ColumnRule) -> str:
    """Return the type with its attribute, as a person would say it."""
    if rule.type == "decimal":
        return f"decimal with scale {rule.scale}"
    if rule.type == "vector":
        return f"vector of {rule.size} components"
    if rule.type == "binary":
        return f"binary of at most {rule.max_bytes} bytes"
    return f"list of {rule.items}" if rule.type == "list" else rule.type


def _changed_by_cast(values: pl.Series, stored: pl.DataType) -> pl.Series:
    if values.dtype == stored or stored == pl.String:
        return pl.repeat(False, len(values), eager=True)
    cast = values.cast(stored, strict=False)
    return cast.is_null() | cast.cast(values.dtype, strict=False).ne_missing(values)


def _outside_years(values: pl.Series) -> pl.Series:
    """Return whether each date or timestamp lies outside the years 1 to 9999, which Python's own types can hold."""
    if isinstance(values.dtype, pl.Datetime):
        microseconds = values.cast(SCALAR_TYPES["timestamp"], strict=False)
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
        unparsed = parsed_or_null(values, stored_type(rule)).is_null() & wrong
        wrong = unparsed if unparsed.any() else wrong
    positions = wrong.arg_true().to_list()
    examples = example_rows(frame, positions, [*keys, rule.name], contract.pii_columns)
    first = f" (first: row {examples[0]['row']}, {examples[0][rule.name]!r})" if examples else ""
    unit = f" ({rule.unit})" if rule.unit else ""
    kind = _type_name(values.dtype)
    fix = "Fix the landed file or relax the contract in"
    if rule.type == "integer" and values.dtype == pl.String and values.filter(wrong).str.contains(_WHOLE_NUMBER).all():
        kind, fix = "whole numbers beyond 64 bits", "Declare decimal with scale 0, or string, in"
    return [
        Violation(
            rule.name,
            f"type {rule.type}",
            len(positions),
            examples,
            f"{subject}: column '{rule.name}' should be {_described(rule)}{unit}, found {kind} in "
            f"{len(positions)} rows{first}. {fix} {subject.line(rule.name)}.",
        )
    ]


def _type_name(dtype: pl.DataType) -> str:
    declared = [name for name, stored in SCALAR_TYPES.items() if stored == dtype]
    return declared[0] if declared else str(dtype)
