"""The replay of the stalls: a day arrives after it is over."""

from pathlib import Path

import polars as pl
from assets.stalls.landing import DAYS, day, land
from assets.stalls.sales import sales

from ml_platform.data.landing import Landing

MODEL = "stall_demand"
ROW_NOUN = "hours"
POLICY = {"new_data": {"every_windows": 2}}


def land_before(landing: Landing, window: str) -> None:
    """Land all days before ``window``."""
    land(landing, DAYS.shift(window, -1))


def land_arriving(landing: Landing, window: str) -> None:
    """Nothing of a day arrives before its end."""


def land_closed(landing: Landing, window: str) -> None:
    """Land ``window``."""
    land(landing, window)


def request_rows(scratch: Path, window: str) -> pl.DataFrame:
    """Return the request fields of all hours of ``window``."""
    file = scratch / "day.csv"
    day(window).write_csv(file)
    return sales(file).select("stall", "sold_at")
