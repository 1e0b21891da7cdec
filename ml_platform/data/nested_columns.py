"""Finds the faults of a column of vectors or lists: wrong lengths, and wrong items, by row and place."""

from dataclasses import dataclass

import polars as pl

from ml_platform.data.contract import ColumnRule


@dataclass(frozen=True)
class Fault:
    """Rows (n booleans, never null) that break one rule of a type, and how the first of them breaks it."""

    kind: str
    rows: pl.Series
    expected: str
    first: str


def vector_faults(values: pl.Series, rule: ColumnRule) -> list[Fault]:
    """Return the faults of lists or arrays of numbers as vectors of ``rule.size`` 32-bit floats; null rows have none.

    The faults are another length, and a component that is null, NaN, infinite, or too large for 32 bits.
    """
    lists = as_lists(values)
    faults = []
    wrong_length = (lists.list.len() != rule.size).fill_null(False)
    if wrong_length.any():
        first = lists.filter(wrong_length)[0]
        faults.append(Fault("size", wrong_length, f"{rule.size} components", f"{len(first)} components"))
    components = items_with_rows(lists.set(wrong_length, None).cast(pl.List(pl.Float64)))
    finite = components["item"].cast(pl.Float32, strict=False).is_finite().fill_null(False)
    if not finite.all():
        wrong = components.filter(~finite)
        found = f"component {wrong['place'][0]}: {wrong['item'][0]}"
        faults.append(Fault("finite", rows_of(wrong, len(values)), "finite components of 32 bits", found))
    return faults


def null_items(values: pl.Series) -> Fault | None:
    """Return the fault of the lists that have a null item, or None."""
    items = items_with_rows(as_lists(values))
    wrong = items.filter(items["item"].is_null())
    if not wrong.height:
        return None
    return Fault("items", rows_of(wrong, len(values)), "no null among its items", f"null at place {wrong['place'][0]}")


def as_lists(values: pl.Series) -> pl.Series:
    """Return lists or arrays as lists."""
    return values.arr.to_list() if isinstance(values.dtype, pl.Array) else values


def items_with_rows(lists: pl.Series) -> pl.DataFrame:
    """Return one row per item of ``lists``: its row and its place in the list, both from 0, and the item."""
    lengths = lists.list.len().fill_null(0)
    filled = pl.DataFrame({"row": pl.int_range(len(lists), eager=True), "item": lists}).filter(lengths > 0)
    places = filled["item"].list.len().rename("length")
    table = filled.with_columns(place=pl.int_ranges(0, places, eager=True))
    return table.explode("item", "place").select("row", "place", "item")


def rows_of(items: pl.DataFrame, height: int) -> pl.Series:
    """Return, for each of ``height`` rows, whether ``items`` has one of its items."""
    found = pl.repeat(False, height, eager=True)
    return found.scatter(items["row"].unique(), True) if items.height else found
