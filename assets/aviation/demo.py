"""The demo of the aviation domain: which months, which model, and which flights of the month after it asks about."""

from pathlib import Path

import polars as pl

from assets.aviation.datasets import loaders
from assets.aviation.departure_risk.examples import LATE_MINUTES, REQUEST_FIELDS
from assets.aviation.landing import land
from ml_platform.data.landing import Landing

FIRST_MONTH, LAST_MONTH = "2013-01", "2013-06"
MODEL = "departure_risk"
REQUEST_MONTH = "2013-07"

ROW_NOUN = "flights"
LABELS = {True: "late", False: "on time"}


def request_rows(scratch: Path) -> pl.DataFrame:
    """Return the flights of the first day of July: the fields of a request, and ``outcome_text`` and ``outcome``.

    July is unpacked into the folder ``scratch``: the platform has not landed it. ``outcome_text`` is what became of the
    flight, for people; ``outcome`` is whether it came late, null where it never arrived.
    """
    landing = Landing(scratch)
    land(landing, REQUEST_MONTH)
    airports = loaders.airports(landing.find("airports", None).path)
    flights = loaders.flights(landing.find("flights", REQUEST_MONTH).path, airports)
    outcome_text = (
        pl.when(pl.col("arr_delay").is_null())
        .then(pl.lit("never arrived"))
        .when(pl.col("arr_delay") > 0)
        .then(pl.format("{} min late", pl.col("arr_delay").cast(pl.Int64)))
        .otherwise(pl.format("{} min early", -pl.col("arr_delay").cast(pl.Int64)))
    )
    return (
        flights.filter(pl.col("flight_date") == pl.col("flight_date").min())
        .sort("scheduled_departure", "carrier", "flight")
        .select(
            *REQUEST_FIELDS, outcome_text.alias("outcome_text"), (pl.col("arr_delay") > LATE_MINUTES).alias("outcome")
        )
    )


def display_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what people read of each request: ``flight`` with its route, and when it ``departs``, local time."""
    departs = pl.col("scheduled_departure").dt.convert_time_zone("America/New_York")
    return rows.select(
        pl.format("{} {} {}→{}", "carrier", "flight", "origin", "dest").alias("flight"),
        departs.dt.strftime("%m-%d %H:%M %:z").alias("departs"),
    )
