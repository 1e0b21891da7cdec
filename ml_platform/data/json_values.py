"""Vectors and lists that a landed file has as JSON text, like ``[0.5, -1]``: each value exact, or null.

JSON has no dates: they are texts, read by the rules of a column of that type.
"""

import json
from collections.abc import Callable
from typing import Any

import polars as pl

Type = pl.DataType | type[pl.DataType]

_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_NUMBERS = rf"^\s*\[\s*({_NUMBER}\s*(,\s*{_NUMBER}\s*)*)?\]\s*$"


class JsonNumber(str):
    """The text of a number in JSON, with all its digits."""


def written(value: Any) -> str:
    """Return ``value`` as JSON text, in which each :class:`JsonNumber` has the digits that were read."""
    if isinstance(value, list):
        return f"[{', '.join(written(each) for each in value)}]"
    return str(value) if isinstance(value, JsonNumber) else json.dumps(value)


def vectors(values: pl.Series) -> pl.Series:
    """Return JSON text as lists of float64; null for text that is no array of numbers.

    The length of an array, and NaN, infinity and null in it, stay as written: the check of the contract reports them.
    """
    plain = values.set(~values.str.contains(_NUMBERS), None)
    try:
        found = plain.str.json_decode(pl.List(pl.Float64))
    except pl.exceptions.ComputeError:
        # A number beyond float64, which Python reads as infinity.
        found, plain = pl.Series(values.name, [None] * len(values), pl.List(pl.Float64)), plain.clear(len(plain))
    others = (plain.is_null() & values.is_not_null()).arg_true().to_list()
    if not others:
        return found
    rows: list[list[float | None] | None] = found.to_list()
    for position in others:
        rows[position] = _numbers(values[position])
    return pl.Series(values.name, rows, pl.List(pl.Float64))


def lists(values: pl.Series, item: Type, parse: Callable[[pl.Series, Type], pl.Series]) -> pl.Series:
    """Return JSON text as lists of ``item``; null for text that is no array, or has an item that does not parse.

    ``parse`` turns text into ``item`` exactly, with null for what does not parse. A null item counts as one.
    """
    decoded = [_texts(text, item) for text in values.to_list()]
    lengths = [len(texts) for texts in decoded if texts is not None]
    flat = pl.Series(values.name, [text for texts in decoded if texts is not None for text in texts], pl.String)
    items = parse(flat, item)
    rows: list[list[Any] | None] = []
    start = 0
    ends = iter(lengths)
    missing = items.is_null().to_list()
    python_items = items.to_list()
    for texts in decoded:
        if texts is None:
            rows.append(None)
            continue
        end = start + next(ends)
        rows.append(None if any(missing[start:end]) else python_items[start:end])
        start = end
    return pl.Series(values.name, rows, pl.List(item))


def _numbers(text: str) -> list[float | None] | None:
    found = _decoded(text)
    if not isinstance(found, list) or not all(each is None or isinstance(each, (JsonNumber, float)) for each in found):
        return None
    return [None if each is None else float(each) for each in found]


def _texts(text: str | None, item: Type) -> list[str | None] | None:
    """Return the items of a JSON array as text, or None for another value or items of another kind than ``item``."""
    found = None if text is None else _decoded(text)
    if not isinstance(found, list):
        return None
    kind: type = JsonNumber if item.is_numeric() else bool if item == pl.Boolean else str
    if not all(type(each) is kind for each in found):
        return None
    return [str(each).lower() if kind is bool else str(each) for each in found]


def _decoded(text: str) -> Any:
    try:
        return json.loads(text, parse_float=JsonNumber, parse_int=JsonNumber)
    except (ValueError, RecursionError):
        return None
