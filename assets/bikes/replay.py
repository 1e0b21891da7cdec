"""The replay of the bikes: how the days of a week arrive, and the hours that are forecast in it."""

from pathlib import Path

import polars as pl

from assets.bikes.demand import REQUEST_FIELDS, hours
from assets.bikes.landing import DAYS, land
from ml_platform.data.landing import Landing
from ml_platform.data.partitions import PartitionScheme

MODEL = "bike_demand"
ROW_NOUN = "hours"
WEEKS = PartitionScheme(cadence="week", start="2011-01-02", end="2011-12-25", time_zone=DAYS.time_zone)


def land_before(landing: Landing, window: str) -> None:
    """Land all days before the week ``window``."""
    land(landing, DAYS.shift(_days(window)[0], -1))


def land_arriving(landing: Landing, window: str) -> None:
    """Land all days of the week but the last, whose counts arrive after all forecasts of the week were made."""
    land(landing, _days(window)[-2])


def land_closed(landing: Landing, window: str) -> None:
    """Land the week as a whole."""
    land(landing, _days(window)[-1])


def request_rows(scratch: Path, window: str) -> pl.DataFrame:
    """Return the request fields of all hours with riders of the week."""
    days = _days(window)
    landed = land(Landing(scratch), days[-1])
    rows = [hours(file.path) for file in landed if file.partition in days]
    return pl.concat(rows).select(REQUEST_FIELDS)


def _days(window: str) -> list[str]:
    return DAYS.covering(*WEEKS.bounds(window))
