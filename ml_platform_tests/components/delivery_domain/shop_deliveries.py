"""Examples and features of the test domain, as a team would write them under assets/. A bento carries this file."""

import polars as pl


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one row per delivery, labelled 1 if it came late."""
    return sources["deliveries"].select(
        pl.col("delivery").alias("example_id"),
        "shop",
        "distance",
        "ordered_at",
        pl.col("late").alias("label"),
        pl.col("came_at").alias("label_known_at"),
    )


def minutes_late(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the same examples, labelled with the delay in minutes."""
    minutes = sources["deliveries"].select(pl.col("delivery").alias("example_id"), pl.col("minutes").alias("label"))
    return examples(sources).drop("label").join(minutes, on="example_id")


def speed(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the same examples, labelled with a class of speed."""
    minutes = pl.col("minutes")
    named = pl.when(minutes > 8).then(pl.lit("slow")).when(minutes < -3).then(pl.lit("fast")).otherwise(pl.lit("usual"))
    classes = sources["deliveries"].select(pl.col("delivery").alias("example_id"), named.alias("label"))
    return examples(sources).drop("label").join(classes, on="example_id")


def lateness(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per delivery of a shop: whether it came late, known when it came."""
    return sources["deliveries"].select(
        "shop", pl.col("came_at").alias("known_at"), pl.col("late").cast(pl.Float32).alias("last_late")
    )


def order_distance(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("distance").cast(pl.Float32))


def order_hour(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("ordered_at").dt.hour().cast(pl.Float32).alias("hour"))


def table_of_examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the same examples without any time, with the day of each order."""
    return examples(sources).select("example_id", "shop", "distance", "label", order_day=pl.col("ordered_at").dt.date())


def order_second(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a feature of the time of the request, which a model without time must not have."""
    return rows.select(pl.col("predict_at").dt.second().cast(pl.Float32).alias("second"))
