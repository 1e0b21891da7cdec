"""What a team would put under assets/: the examples and features of the made-up domain. A bento carries this file."""

import polars as pl


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    return sources["deliveries"].select(
        pl.col("delivery").alias("example_id"),
        "shop",
        "distance",
        "ordered_at",
        pl.col("late").alias("label"),
        pl.col("came_at").alias("label_known_at"),
    )


def minutes_late(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the same examples with how late the delivery came, in minutes, for a label."""
    minutes = sources["deliveries"].select(pl.col("delivery").alias("example_id"), pl.col("minutes").alias("label"))
    return examples(sources).drop("label").join(minutes, on="example_id")


def lateness(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return, after each delivery of a shop, whether it came late."""
    return sources["deliveries"].select(
        "shop", pl.col("came_at").alias("known_at"), pl.col("late").cast(pl.Float32).alias("last_late")
    )


def asked(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("distance").cast(pl.Float32))


def nearness(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("ordered_at").dt.hour().cast(pl.Float32).alias("hour"))
