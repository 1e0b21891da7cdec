"""The demo of the bikes: its days and weeks, its model, and the hours that it sends to the endpoint."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from assets.bikes.demand import REQUEST_FIELDS, ZONE, hours
from assets.bikes.landing import DAYS, land
from ml_platform.data.landing import Landing

FIRST_PARTITION, LAST_PARTITION = "2011-01-01", "2011-06-04"
MODEL = "bike_demand"
ARRIVAL_DELAY, HORIZON = timedelta(hours=1), timedelta(hours=24)
ROW_NOUN = "hours"
LABELS: dict[Any, str] = {}


def request_rows(scratch: Path) -> pl.DataFrame:
    """Return the 24 hours that are predicted between the arrivals of the last landed day and of the next one."""
    first = DAYS.bounds(LAST_PARTITION)[1] + ARRIVAL_DELAY + HORIZON
    landed = land(Landing(scratch), DAYS.shift(LAST_PARTITION, 3))
    rows = pl.concat(hours(file.path) for file in landed[-2:])
    requests = rows.filter(pl.col("starts_at").is_between(first, first + timedelta(days=1), closed="left"))
    return requests.select(*REQUEST_FIELDS, outcome_text=pl.format("{} riders", "bikers"), outcome="bikers")


def display_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the column that people read: the hour on the local clock."""
    return rows.select(pl.col("starts_at").dt.convert_time_zone(ZONE).dt.strftime("%a %m-%d %H:%M").alias("hour"))
