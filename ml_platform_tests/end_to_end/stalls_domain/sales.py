"""The functions of the stalls: the loader of a day, the examples of the model, and its feature."""

from pathlib import Path

import polars as pl

HOUR = pl.duration(hours=1)


def sales(path: Path) -> pl.DataFrame:
    """Return one row per stall and hour."""
    return pl.read_csv(path).with_columns(pl.col("sold_at").str.to_datetime(time_unit="us", time_zone="UTC"))


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one example per stall and hour, whose sales are known when the hour is over."""
    return sources["stall_sales"].select(
        "stall",
        "sold_at",
        example_id=pl.format("{} {}", "stall", pl.col("sold_at").dt.strftime("%Y%m%dT%H%M")),
        label="amount",
        label_known_at=pl.col("sold_at") + HOUR,
    )


def last_hour(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the sales of each hour, known when it is over."""
    return sources["stall_sales"].select(
        "stall", known_at=pl.col("sold_at") + HOUR, amount=pl.col("amount").cast(pl.Float64)
    )
