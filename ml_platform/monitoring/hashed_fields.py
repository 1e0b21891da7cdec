"""Joins of logged requests by fields of which the log stores pseudonyms: the other side gets the pseudonyms too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ml_platform.data.pseudonyms import PseudonymKey, key_of_pseudonym
from ml_platform.errors import PlatformError


class HashedFieldError(PlatformError):
    """Raised when values have another type than their request field; the message shows none of them."""


@dataclass(frozen=True)
class HashedFields:
    """Request fields that are logged as pseudonyms, with their declared types, and the key."""

    key: PseudonymKey
    dtypes: Mapping[str, pl.DataType]

    def of_column(self, field: str, column: pl.Series) -> pl.Series:
        """Return the pseudonyms of ``column``, whose values are those of the request ``field`` in any type."""
        dtype = self.dtypes[field]
        try:
            values = column if column.dtype == dtype else column.cast(dtype)
        except pl.exceptions.PolarsError:
            raise HashedFieldError(
                f"Column '{column.name}'",
                expected=f"values of the request field '{field}': {dtype}",
                found=f"others in a column of {column.dtype}",
                fix="Give column and request field the same type.",
            ) from None
        return pl.Series(column.name, self.key.pseudonyms(field, values.to_list()), pl.String)

    def has_other_key(self, values: pl.Series) -> pl.Series:
        """Return for each logged value whether it is the pseudonym of another key, by which nothing joins any more."""
        keys = [key_of_pseudonym(value) for value in values]
        return pl.Series(values.name, [key is not None and key != self.key.id for key in keys], pl.Boolean)


def split_pseudonyms(values: Sequence[Any]) -> tuple[list[str | None], list[Any]]:
    """Return the pseudonyms among logged ``values``, and the other values; each list has null for the rest.

    Services of an earlier release, or of an earlier declaration, logged the values themselves.
    """
    are_pseudonyms = [key_of_pseudonym(value) is not None for value in values]
    return (
        [value if each else None for value, each in zip(values, are_pseudonyms, strict=True)],
        [None if each else value for value, each in zip(values, are_pseudonyms, strict=True)],
    )
