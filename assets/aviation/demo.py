"""The demo of the aviation domain: its months, its model, and the flights that it sends to the endpoint."""

from pathlib import Path

import polars as pl

from assets.aviation.datasets import loaders
from assets.aviation.departure_risk.examples import LATE_MINUTES, REQUEST_FIELDS
from assets.aviation.landing import land
from ml_platform.data.landing import Landing

FIRST_PARTITION, LAST_PARTITION = "2013-01", "2013-06"
MODEL = "departure_risk"
REQUEST_MONTH = "2013-07"

ROW_NOUN = "flights"
LABELS = {True: "late", False: "on time"}


def request_rows(scratch: Path) -> pl.DataFrame:
    """Return the flights of 1 July 2013: the request fields, then ``outcome_text`` and ``outcome``.

    The folder ``scratch`` receives the files of July, because the platform has not landed them. ``outcome_text`` is the
    outcome for people. ``outcome`` is true for a late arrival and null for a flight that never arrived.
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
    """Return the columns that people read: ``flight`` with its route, and ``departs``, its local departure time."""
    departs = pl.col("scheduled_departure").dt.convert_time_zone("America/New_York")
    return rows.select(
        pl.format("{} {} {}→{}", "carrier", "flight", "origin", "dest").alias("flight"),
        departs.dt.strftime("%m-%d %H:%M %:z").alias("departs"),
    )
