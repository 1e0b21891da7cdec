"""The changes that bring the stored columns of a dataset to its contract, and their application to rows.

Only changes that lose nothing are made by themselves. A rename cannot be guessed, and dropped values are gone from the
current version, so a person names both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ml_platform.data.contract import ColumnRule, Contract
from ml_platform.data.schema import stored_type
from ml_platform.data.text_values import parsed_or_null
from ml_platform.errors import PlatformError, did_you_mean, listed

WIDER_TYPES: Mapping[str, tuple[str, ...]] = {
    "boolean": ("integer", "string"),
    "integer": ("float", "decimal", "string"),
    "decimal": ("decimal",),
    "float": ("float",),
    "date": ("timestamp", "string"),
    "string": ("string",),
}
"""The declared types in which all values of a stored kind can be kept, if each is exact there."""


class EvolutionError(PlatformError):
    """Raised for a change of a dataset that would lose data, or that a person has to name."""


@dataclass(frozen=True)
class EvolutionRequest:
    """The names that a person gave: new names by old ones, texts of added values by column, and columns to drop."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()


@dataclass(frozen=True)
class ColumnChanges:
    """The changes of the columns of ``dataset``; ``added`` has a text or None (null) by column.

    ``widened`` has the type before by column, under its new name. The columns of ``columns`` are the stored ones
    afterwards.
    """

    dataset: str
    renamed: Mapping[str, str]
    added: Mapping[str, str | None]
    dropped: tuple[str, ...]
    widened: Mapping[str, pl.DataType]
    columns: Mapping[str, pl.DataType]

    def __bool__(self) -> bool:
        return bool(self.renamed or self.added or self.dropped or self.widened)

    def texts(self) -> list[str]:
        """Return each change in words."""
        return [
            *(f"rename column '{old}' to '{new}'" for old, new in self.renamed.items()),
            *(f"widen column '{name}' from {old} to {self.columns[name]}" for name, old in self.widened.items()),
            *(
                f"add column '{name}' with " + ("null" if text is None else f"the value {text!r}")
                for name, text in self.added.items()
            ),
            *(f"drop column '{name}'" for name in self.dropped),
        ]

    def apply(self, rows: pl.DataFrame, partition: str = "") -> pl.DataFrame:
        """Return ``rows`` with the declared columns, in declared order.

        Raises :class:`EvolutionError` for a value that the wider type cannot hold exactly.
        """
        kept = rows.drop(self.dropped).rename(dict(self.renamed))
        values = {
            name: _widened(kept[name], self.columns[name], self.dataset, partition)
            if name in self.widened
            else filled(name, self.added[name], self.columns[name], rows.height)
            if name in self.added
            else kept[name]
            for name in self.columns
        }
        return pl.DataFrame(values)


def column_changes(
    dataset: str, stored: Mapping[str, pl.DataType], contract: Contract, request: EvolutionRequest
) -> ColumnChanges:
    """Return the changes that bring the ``stored`` columns of ``dataset`` to ``contract``.

    Names of ``request`` whose change was made already are left out, so that a repeated command changes nothing. Raises
    :class:`EvolutionError` for a column that a person has to name, for a type that is not wider, and for names that do
    not fit the table and the contract.
    """
    declared = {rule.name: rule for rule in contract.columns}
    renamed = _renames(dataset, stored, declared, request)
    dropped = _drops(dataset, stored, declared, request, renamed)
    _require_all_named(dataset, stored, declared, {*renamed, *dropped})
    before = {renamed.get(name, name): dtype for name, dtype in stored.items() if name not in dropped}
    columns = {name: stored_type(rule) for name, rule in declared.items()}
    added = {name: request.fills.get(name) for name in columns if name not in before}
    _require_values(dataset, contract, added, request)
    widened = {name: dtype for name, dtype in before.items() if dtype != columns[name]}
    for name, dtype in widened.items():
        if not _is_wider(declared[name], dtype):
            raise EvolutionError(
                f"Dataset '{dataset}', column '{name}'",
                expected=f"a type that holds every {dtype}",
                found=f"{_type_text(declared[name])} in the contract, which may lose values",
                fix="Declare a wider type, or declare the column under a new name and drop the old one with "
                f"`--drop {name}`.",
            )
    return ColumnChanges(dataset, renamed, added, dropped, widened, columns)


def filled(name: str, text: str | None, dtype: pl.DataType, height: int) -> pl.Series:
    """Return ``height`` times the value that ``text`` is as ``dtype``; nulls for None or for text of another type.

    A vector of another length, and one whose components are not finite numbers of 32 bits, is of another type.
    """
    value = pl.Series(name, [text], pl.String)
    if text is None:
        return value.cast(dtype).new_from_index(0, height)
    typed = parsed_or_null(value, dtype)
    if isinstance(dtype, pl.Array):
        typed = typed.set(typed.list.len() != dtype.size, None)
        finite = typed.explode(empty_as_null=True).cast(pl.Float32, strict=False).is_finite().fill_null(False)
        typed = typed if finite.all() else typed.clear(1)
    elif isinstance(dtype, pl.List):
        typed = typed.set(typed.list.eval(pl.element().is_null()).list.any(), None)
    return typed.cast(dtype).new_from_index(0, height)


def _renames(
    dataset: str, stored: Mapping[str, pl.DataType], declared: Mapping[str, ColumnRule], request: EvolutionRequest
) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for old, new in request.renamed.items():
        if old not in stored and new in stored and new in declared:
            continue
        problems = [
            *([] if old in stored else [f"no stored column '{old}'{did_you_mean(old, stored)}".rstrip("?.")]),
            *([f"'{old}' still in the contract"] if old in declared else []),
            *([] if new in declared else [f"no declared column '{new}'{did_you_mean(new, declared)}".rstrip("?.")]),
            *([f"a stored column '{new}'"] if new in stored else []),
            *([f"two columns renamed to '{new}'"] if new in renamed.values() else []),
        ]
        if problems:
            raise EvolutionError(
                f"Dataset '{dataset}', --rename {old}={new}",
                expected="a stored column that the contract lacks, and a declared column that the table lacks",
                found=listed(problems),
                fix="Correct the names, or the contract in defs.yaml.",
            )
        renamed[old] = new
    return renamed


def _drops(
    dataset: str,
    stored: Mapping[str, pl.DataType],
    declared: Mapping[str, ColumnRule],
    request: EvolutionRequest,
    renamed: Mapping[str, str],
) -> tuple[str, ...]:
    wrong = [name for name in request.dropped if name in declared or name in renamed]
    if wrong:
        raise EvolutionError(
            f"Dataset '{dataset}', --drop {wrong[0]}",
            expected="a column that the contract lacks",
            found="a declared column" if wrong[0] in declared else "a column that --rename keeps",
            fix=f"Remove '{wrong[0]}' from the contract in defs.yaml first, or leave out --drop.",
        )
    return tuple(name for name in request.dropped if name in stored)


def _require_all_named(
    dataset: str, stored: Mapping[str, pl.DataType], declared: Mapping[str, ColumnRule], named: set[str]
) -> None:
    unnamed = [name for name in stored if name not in declared and name not in named]
    if unnamed:
        absent = [name for name in declared if name not in stored]
        guess = next(iter(absent), "NEW")
        raise EvolutionError(
            f"Dataset '{dataset}'",
            expected="a name or an end for each stored column that the contract lacks",
            found=f"{listed(unnamed)} without; new in the contract: {listed(absent) or 'none'}",
            fix=f"Add `--rename {unnamed[0]}={guess}` to keep the values under a new name, or `--drop {unnamed[0]}` "
            "to leave them out of the current version.",
        )


def _require_values(
    dataset: str, contract: Contract, added: Mapping[str, str | None], request: EvolutionRequest
) -> None:
    rules = {rule.name: rule for rule in contract.columns}
    unknown = [name for name in request.fills if name not in rules]
    if unknown:
        raise EvolutionError(
            f"Dataset '{dataset}', --fill {unknown[0]}=…",
            expected="a column that the contract adds",
            found=f"no declared column of this name.{did_you_mean(unknown[0], rules)}".rstrip("."),
            fix="Correct the name, or leave out --fill.",
        )
    empty = [name for name, text in added.items() if text is None and not rules[name].nullable]
    if empty:
        raise EvolutionError(
            f"Dataset '{dataset}', column '{empty[0]}'",
            expected="a value for the rows that exist",
            found=f"{len(empty)} added columns without one that may not be null: {listed(empty)}",
            fix=f"Add `--fill {empty[0]}=VALUE`, or declare `nullable: true`.",
        )
    for name, text in added.items():
        if text is not None and filled(name, text, stored_type(rules[name]), 1).null_count():
            raise EvolutionError(
                f"Dataset '{dataset}', --fill {name}={text}",
                expected=f"a value of type {_type_text(rules[name])}",
                found="text that does not parse as one",
                fix="Write the value as in a landed CSV file.",
            )


def _widened(values: pl.Series, dtype: pl.DataType, dataset: str, partition: str) -> pl.Series:
    wider = values.cast(dtype, strict=False)
    if _items(dtype) == pl.String:
        return wider  # each value has a text of its own
    changed = wider.cast(values.dtype, strict=False).ne_missing(values)
    if changed.any():
        raise EvolutionError(
            f"Dataset '{dataset}'" + (f", partition {partition}" if partition else "") + f", column '{values.name}'",
            expected=f"values of {values.dtype} that {dtype} holds exactly",
            found=f"{changed.sum()} rows that would change",
            fix="Declare a type that holds them. Nothing was changed.",
        )
    return wider


def _is_wider(rule: ColumnRule, dtype: pl.DataType) -> bool:
    """Return whether the declared type can hold values of the stored ``dtype``: also a list items, a list a vector."""
    if isinstance(dtype, pl.List):
        return rule.type == "list" and rule.items in WIDER_TYPES.get(_kind(_items(dtype)), ())
    if isinstance(dtype, pl.Array):
        return rule.type == "list" and rule.items == "float"
    return rule.type in WIDER_TYPES.get(_kind(dtype), ())


def _items(dtype: pl.DataType) -> pl.DataType:
    inner: Any = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return inner if isinstance(inner, pl.DataType) else inner()


def _type_text(rule: ColumnRule) -> str:
    if rule.type == "vector":
        return f"vector of {rule.size} components"
    return f"list of {rule.items}" if rule.type == "list" else rule.type


def _kind(dtype: pl.DataType) -> str:
    """Return the declared type that holds values like those of ``dtype``; empty for types that have no wider one."""
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    if dtype.is_decimal():
        return "decimal"
    return {pl.Boolean: "boolean", pl.Date: "date", pl.Datetime: "timestamp"}.get(dtype.base_type(), "")
