"""What one example of `departure_risk` is: a scheduled flight, and whether it came late."""

import polars as pl

LATE_MINUTES = 15
REQUEST_FIELDS = ("carrier", "flight", "tailnum", "origin", "dest", "scheduled_departure", "scheduled_arrival")
"""What an app knows of a flight when it asks."""


def flights(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one row per scheduled flight: its request fields, and whether it came late.

    The label is null for cancelled and diverted flights: their arrival delay was never known.
    """
    return sources["flights"].select(
        pl.concat_str(
            pl.col("scheduled_departure").dt.strftime("%Y%m%dT%H%MZ"),
            "carrier",
            "flight",
            "origin",
            "dest",
            separator="-",
        ).alias("example_id"),
        *REQUEST_FIELDS,
        (pl.col("arr_delay") > LATE_MINUTES).cast(pl.Int8).alias("label"),
        pl.when(pl.col("arr_delay").is_not_null()).then("arrived_at").alias("label_known_at"),
    )
