"""Examples of `departure_risk`: scheduled flights with the label of a late arrival."""

import polars as pl

LATE_MINUTES = 15
REQUEST_FIELDS = ("carrier", "flight", "tailnum", "origin", "dest", "scheduled_departure", "scheduled_arrival")
"""The fields of a flight that an app sends in a request."""


def flights(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one row per scheduled flight: its id, its request fields, its label and when the label became known.

    The label is 1 for an arrival more than 15 minutes late, else 0. It is null for cancelled and diverted flights,
    because their arrival delay never became known.
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
