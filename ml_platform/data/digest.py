"""The content hash of a table: tables with equal rows have equal hashes, whatever their files look like.

A hash of Parquet bytes would change with row groups, file counts, row order and library versions, although the content
stays the same.
"""

import hashlib
from typing import cast

import polars as pl

from ml_platform.data.json_values import Type
from ml_platform.errors import PlatformError


class DigestError(PlatformError):
    """Raised for a column whose values have no canonical bytes."""


def content_hash(frame: pl.DataFrame) -> str:
    """Return the SHA-256 (hex) of the rows of ``frame`` as a multiset: the order of rows and columns does not matter.

    Column names, types, nulls and every value matter. NaN equals NaN and differs from null; 0.0 equals -0.0. Categories
    and enums count as their text, vectors and lists as their items in order. Raises :class:`DigestError` for structs,
    lists of lists and objects.
    """
    flat = frame.select(_canonical(name, frame.schema[name]) for name in sorted(frame.columns))
    ordered = flat.sort(flat.columns, nulls_last=True) if flat.width else flat
    digest = hashlib.sha256(f"{ordered.height} rows".encode())
    for column in ordered.get_columns():
        # A vector and a list of the same items differ, although their canonical bytes are equal.
        dtype = frame.schema[column.name] if column.dtype.is_nested() else column.dtype
        digest.update(f"|{column.name}:{dtype}|".encode())
        digest.update(column.is_null().cast(pl.UInt8).to_numpy().tobytes())
        digest.update(_values(column))
    return digest.hexdigest()


def _canonical(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, (pl.Array, pl.List)) and not dtype.inner.is_nested() and dtype.inner != pl.Object:
        items = column.arr.to_list() if isinstance(dtype, pl.Array) else column
        return items.list.eval(_canonical_values(pl.element(), cast("Type", dtype.inner))).alias(name)
    if dtype.is_nested() or dtype == pl.Object:
        raise DigestError(
            f"Column '{name}'",
            expected="a scalar type, or a list of one",
            found=str(dtype),
            fix="Unnest the column before storing it.",
        )
    return _canonical_values(column, dtype).alias(name)


def _canonical_values(values: pl.Expr, dtype: Type) -> pl.Expr:
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return values.cast(pl.String)
    if dtype.is_float():
        # Adding zero turns -0.0 into 0.0; the literal gives every NaN the same bits.
        return pl.when(values.is_nan()).then(pl.lit(float("nan"), dtype)).otherwise(values + 0.0)
    return values


def _values(column: pl.Series) -> bytes:
    if column.dtype == pl.List:
        lengths = column.list.len().fill_null(0).cast(pl.UInt64)
        items = column.filter(lengths > 0).explode()
        return lengths.to_numpy().tobytes() + items.is_null().cast(pl.UInt8).to_numpy().tobytes() + _values(items)
    if column.dtype in (pl.String, pl.Binary):
        raw = column.cast(pl.Binary).fill_null(b"")
        return raw.bin.size("b").cast(pl.UInt64).to_numpy().tobytes() + b"".join(raw.to_list())
    if column.dtype == pl.Null:
        return b""
    if column.dtype.is_decimal():
        column = column.cast(pl.String)
        return _values(column)
    if column.dtype == pl.Boolean:
        return column.fill_null(False).cast(pl.UInt8).to_numpy().tobytes()
    return column.to_physical().fill_null(0).to_numpy().tobytes()
