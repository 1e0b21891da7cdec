"""The demo of the aviation domain: its months, its model, and the flights that it sends to the endpoint."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from assets.aviation.datasets import loaders
from assets.aviation.departure_risk.examples import LATE_MINUTES, REQUEST_FIELDS
from assets.aviation.landing import land, land_until
from ml_platform.data.landing import Landing

FIRST_PARTITION, LAST_PARTITION = "2013-01", "2013-06"
MODEL = "departure_risk"
LIVE_PARTITION = "2013-07"
LIVE_AT = datetime(2013, 7, 25, 15, tzinfo=ZoneInfo("America/New_York"))
"""The month after the last whole one lands as it was at this hour."""

ARRIVAL_DELAY, ARRIVES_EVERY = timedelta(minutes=15), timedelta(hours=1)
PREDICTED_AHEAD = timedelta(hours=2)

ROW_NOUN = "flights"
LABELS = {True: "late", False: "on time"}


def land_live(landing: Landing) -> None:
    """Land the month that has not ended, as it was at :data:`LIVE_AT`."""
    land_until(landing, LIVE_AT)


def request_rows(scratch: Path) -> pl.DataFrame:
    """Return the flights that are predicted while the hour before `LIVE_AT` is the last one that has arrived.

    These are the request fields, then ``outcome_text`` and ``outcome``. The folder ``scratch`` receives the files of
    the whole month, because the platform has not landed their outcomes. ``outcome_text`` is the outcome for people.
    ``outcome`` is true for a late arrival and null for a flight that never arrived.
    """
    landing = Landing(scratch)
    land(landing, LIVE_PARTITION)
    airports = loaders.airports(landing.find("airports", None).path)
    flights = loaders.flights(landing.find("flights", LIVE_PARTITION).path, airports)
    first = (LIVE_AT + ARRIVAL_DELAY + PREDICTED_AHEAD).astimezone(UTC)
    outcome_text = (
        pl.when(pl.col("arr_delay").is_null())
        .then(pl.lit("never arrived"))
        .when(pl.col("arr_delay") > 0)
        .then(pl.format("{} min late", pl.col("arr_delay").cast(pl.Int64)))
        .otherwise(pl.format("{} min early", -pl.col("arr_delay").cast(pl.Int64)))
    )
    return (
        flights.filter(pl.col("scheduled_departure").is_between(first, first + ARRIVES_EVERY, closed="left"))
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
