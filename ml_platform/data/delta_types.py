"""The types of Delta that stand for types it lacks: a list for a vector, and whole microseconds for a duration.

The catalog of the lake keeps the types in which the platform reads the rows.
"""

from collections.abc import Mapping

import polars as pl


def delta_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` in the types that the Delta log declares."""
    durations = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Duration)]
    return vectors_as_lists(frame).with_columns(pl.col(durations).cast(pl.Int64))


def vectors_as_lists(frame: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` with lists in place of vectors: other readers of Parquet fail on a vector that is null."""
    vectors = {name: dtype for name, dtype in frame.schema.items() if isinstance(dtype, pl.Array)}
    return frame.with_columns(pl.col(name).cast(pl.List(dtype.inner)) for name, dtype in vectors.items())


def lists_as_vectors(rows: pl.LazyFrame, schema: Mapping[str, pl.DataType], *, is_current: bool) -> pl.LazyFrame:
    """Return ``rows`` of files with the vectors that ``schema`` declares.

    Rows of an earlier version of a table may have vectors of another size, or other columns; their size is read.
    """
    vectors = {name: dtype for name, dtype in schema.items() if isinstance(dtype, pl.Array)}
    if not is_current:
        vectors = _earlier_vectors(rows, vectors)
    if not vectors:
        return rows
    return rows.with_columns(pl.col(name).cast(dtype) for name, dtype in vectors.items())


def _earlier_vectors(rows: pl.LazyFrame, current: Mapping[str, pl.Array]) -> dict[str, pl.Array]:
    # No list has items of 32 bits, so these columns were vectors, also one that was dropped or renamed since.
    names = [name for name, dtype in rows.collect_schema().items() if dtype == pl.List(pl.Float32)]
    if not names:
        return {}
    sizes = rows.select(pl.col(name).list.len().max() for name in names).collect().row(0, named=True)
    known = {name: sizes[name] or (current[name].size if name in current else None) for name in names}
    return {name: pl.Array(pl.Float32, size) for name, size in known.items() if size is not None}
