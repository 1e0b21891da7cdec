"""The replay of the aviation domain: how the data of a month arrive, and the flights that are predicted in it."""

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from assets.aviation.datasets import loaders
from assets.aviation.departure_risk.examples import REQUEST_FIELDS
from assets.aviation.landing import MONTHS, land, land_until
from ml_platform.data.landing import Landing

MODEL = "departure_risk"
ROW_NOUN = "flights"
POLICY = {"new_data": {"every_windows": 2}, "loss": {"tolerance": 0.02}}
"""Retraining policy of the replay, in place of the declared one."""

LAST_ARRIVAL = timedelta(hours=1)
"""Time before the end of a month until which its data have arrived while its flights are predicted."""


def land_before(landing: Landing, window: str) -> None:
    """Land all months before ``window``."""
    land(landing, MONTHS.shift(window, -1))


def land_arriving(landing: Landing, window: str) -> None:
    """Land ``window`` as it is shortly before its end: it is not closed, so no version is trained on it."""
    end = MONTHS.bounds(window)[1].astimezone(ZoneInfo(MONTHS.time_zone))
    land_until(landing, end - LAST_ARRIVAL)


def land_closed(landing: Landing, window: str) -> None:
    """Land ``window`` as a whole, with the outcomes of all its flights."""
    land(landing, window)


def request_rows(scratch: Path, window: str) -> pl.DataFrame:
    """Return the request fields of all flights of ``window``, cancelled ones included."""
    landing = Landing(scratch)
    land(landing, window)
    airports = loaders.airports(landing.find("airports", None).path)
    return loaders.flights(landing.find("flights", window).path, airports).select(REQUEST_FIELDS)
