"""The functions of the small domain from which the fixture homes were made. A changed result breaks `reproduce`."""

from pathlib import Path

import polars as pl

from ml_platform.data.reading import read_csv

_COLUMNS = {
    "delivery": pl.String(),
    "shop": pl.String(),
    "distance": pl.Float64(),
    "ordered_at": pl.Datetime("us", "UTC"),
    "came_at": pl.Datetime("us", "UTC"),
    "late": pl.Int64(),
}


def load(file: Path) -> pl.DataFrame:
    return read_csv(file, _COLUMNS)


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one row per delivery, labelled 1 if it came late."""
    return sources["deliveries"].select(
        pl.col("delivery").alias("example_id"),
        "shop",
        "distance",
        "ordered_at",
        pl.col("late").cast(pl.Int8).alias("label"),
        pl.col("came_at").alias("label_known_at"),
    )


def lateness(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per delivery of a shop: whether it came late, known when it came."""
    return sources["deliveries"].select(
        "shop", pl.col("came_at").alias("known_at"), pl.col("late").cast(pl.Float32).alias("last_late")
    )


def order_distance(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("distance").cast(pl.Float32))


def order_hour(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("ordered_at").dt.hour().cast(pl.Float32).alias("hour"))
