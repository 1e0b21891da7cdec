"""The examples function of the tests of late labels, in a module of its own so that its code digest is short."""

import polars as pl


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the examples without labels."""
    return sources["deliveries"].select(pl.col("delivery").alias("example_id"), "shop", "distance", "ordered_at")
