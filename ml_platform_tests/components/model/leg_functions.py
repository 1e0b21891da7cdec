"""Views and examples of the model in `test_monitoring.py`.

Their code version depends on all code that their module imports, so this module imports nothing of the platform.
"""

import polars as pl


def clock(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(hour=pl.col("due").dt.hour().cast(pl.Int8))


def recent(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per leg: its delay, known at its departure."""
    legs = sources["legs"].with_columns(delay=(pl.col("left") - pl.col("due")).dt.total_minutes().cast(pl.Float32))
    return legs.select("place", known_at="left", delay="delay")


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    late = (pl.col("left") - pl.col("due")).dt.total_minutes() > 15
    known = {"label": late.cast(pl.Int8), "label_known_at": pl.col("left")}
    return sources["legs"].select("example_id", "place", "tail", "due", **known)


def examples_that_know_the_future(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    left = sources["legs"].select("example_id", minutes=pl.col("left").dt.minute().cast(pl.Int64))
    return examples(sources).join(left, on="example_id", maintain_order="left")
