"""A request view's function in a module that a bento can carry: it imports nothing of training."""

import polars as pl


def length(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the number of characters of `text`, and its root."""
    characters = pl.col("text").str.len_chars()
    return rows.select(characters=characters.cast(pl.Float32), root=characters.sqrt())
