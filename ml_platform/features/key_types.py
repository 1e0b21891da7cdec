"""The types of entity keys, and the one check that training, serving and requests apply to them.

A key matches a fact only if both have the same type. The text "1" and the number 1 are two keys in every read; a
mixture of them is an error, because it would find facts in one read and miss them in the other. The errors name types
and counts but no key, because a key may identify a person.
"""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal

import polars as pl

from ml_platform.errors import PlatformError, listed

KeyType = Literal["string", "int", "bool"]

KEY_DTYPES: Mapping[KeyType, pl.DataType] = {"string": pl.String(), "int": pl.Int64(), "bool": pl.Boolean()}
"""The column type in which keys of each type are compared."""

PYTHON_TYPES: Mapping[KeyType, frozenset[type]] = {
    "string": frozenset({str, NoneType}),
    "int": frozenset({int, NoneType}),
    "bool": frozenset({bool, NoneType}),
}
"""The Python types of the values of each key type; None is a missing key."""

MAX_KEY_BYTES = 1_024
"""Largest size of a text key in UTF-8; a longer one belongs to no entity."""


class KeyTypeError(PlatformError):
    """Raised when a key has another type than its entity, or a value that an online store cannot keep exactly."""


def key_type_of(dtype: pl.DataType) -> KeyType | None:
    """Return the key type of a column of ``dtype``, or None for a type that no key can have, such as a float."""
    if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
        return "string"
    if dtype.is_integer():
        return "int"
    return "bool" if dtype == pl.Boolean else None


def typed_key(column: pl.Series, expected: KeyType | None, subject: str) -> pl.Series:
    """Return the keys of ``column`` in the type of :data:`KEY_DTYPES`; a column without values fits every type.

    ``expected`` None accepts every key type. ``subject`` names the column in the error. Raises :class:`KeyTypeError`
    for keys of another type, and for whole numbers beyond 64 bits.
    """
    dtype = column.dtype
    if expected is not None and dtype == KEY_DTYPES[expected]:
        return column
    if dtype == pl.Null:
        return column if expected is None else column.cast(KEY_DTYPES[expected])
    found = key_type_of(dtype)
    if found is None or (expected is not None and found != expected):
        raise KeyTypeError(
            subject,
            expected=f"keys of type {expected}" if expected else "keys of type string, int or bool",
            found=str(dtype),
            fix="Give the key one type: in the dataset's contract, in the view's function and key_types, in the "
            "examples, and in the model's request.",
        )
    try:
        return column.cast(KEY_DTYPES[found])
    except pl.exceptions.InvalidOperationError as error:
        raise KeyTypeError(
            subject, expected="whole numbers of 64 bits", found="larger ones", fix="Use keys of type string."
        ) from error


def require_storable_keys(column: pl.Series, subject: str) -> None:
    """Raise :class:`KeyTypeError` for text keys that an online store cannot keep exactly.

    These are keys with a NUL character, and keys longer than :data:`MAX_KEY_BYTES`.
    """
    if column.dtype != pl.String:
        return
    wrong = column.str.contains("\0", literal=True) | (column.str.len_bytes() > MAX_KEY_BYTES)
    if wrong.any():
        raise KeyTypeError(
            subject,
            expected=f"text keys without NUL, of at most {MAX_KEY_BYTES} bytes",
            found=f"{wrong.sum()} others",
            fix="Clean the keys in the view's function and in the examples, or leave these rows out.",
        )


def require_python_types(values: Sequence[Any], types: frozenset[type], subject: str) -> None:
    """Raise :class:`KeyTypeError` for the first of ``values`` whose type is not among ``types``."""
    if set(map(type, values)) <= types:
        return
    wrong = next(value for value in values if type(value) not in types)
    names = [each.__name__ for each in sorted(types - {NoneType}, key=str)]
    raise KeyTypeError(
        subject,
        expected=f"a key of the published type {listed(names)}" if names else "views that agree on the type of the key",
        found=f"{type(wrong).__name__}",
        fix="Give the request field of the key the type that the feature view declares.",
    )
