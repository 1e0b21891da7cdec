"""Loaders of the landed aviation files: they type the columns and convert local clock times to instants in UTC.

A value that does not parse stays text, so that the contract can name its row. A value derived from it is null.
"""

from pathlib import Path

import polars as pl

from ml_platform.data.reading import read_csv
from ml_platform.data.text_values import Type

NEW_YORK = "America/New_York"

ZONES_OF_UNLISTED_AIRPORTS = dict.fromkeys(["BQN", "PSE", "SJU", "STT"], "America/Puerto_Rico")
"""Destinations that the table of airports lacks: Puerto Rico and the Virgin Islands, four hours behind UTC all year."""

FAULTY_WIND_MPH = 1048.36058
"""Wind speed that the anemometer of Newark reported for 2013-02-12 08:00 UTC; the hours around had 13 to 25 mph."""

MISSING = ("", "NA")
"""How the files write a missing value."""

_TIMESTAMP = pl.Datetime("us", "UTC")

_FLIGHTS: dict[str, Type] = {
    "year": pl.Int64,
    "month": pl.Int64,
    "day": pl.Int64,
    "carrier": pl.String,
    "flight": pl.Int64,
    "tailnum": pl.String,
    "origin": pl.String,
    "dest": pl.String,
    "hour": pl.Int64,
    "minute": pl.Int64,
    "time_hour": _TIMESTAMP,
    "sched_dep_time": pl.Int64,
    "sched_arr_time": pl.Int64,
    "dep_time": pl.Int64,
    "arr_time": pl.Int64,
    "dep_delay": pl.Float64,
    "arr_delay": pl.Float64,
    "air_time": pl.Float64,
    "distance": pl.Float64,
}
_WEATHER: dict[str, Type] = {
    "origin": pl.String,
    "time_hour": _TIMESTAMP,
    "temp": pl.Float64,
    "dewp": pl.Float64,
    "humid": pl.Float64,
    "wind_dir": pl.Float64,
    "wind_speed": pl.Float64,
    "wind_gust": pl.Float64,
    "precip": pl.Float64,
    "pressure": pl.Float64,
    "visib": pl.Float64,
}
_PLANES: dict[str, Type] = {
    "tailnum": pl.String,
    "year": pl.Int64,
    "type": pl.String,
    "manufacturer": pl.String,
    "model": pl.String,
    "engines": pl.Int64,
    "seats": pl.Int64,
    "speed": pl.Float64,
    "engine": pl.String,
}
_AIRPORTS: dict[str, Type] = {
    "faa": pl.String,
    "name": pl.String,
    "lat": pl.Float64,
    "lon": pl.Float64,
    "alt": pl.Float64,
    "tz": pl.Int64,
    "dst": pl.String,
    "tzone": pl.String,
}


def flights(path: Path, airports: pl.DataFrame) -> pl.DataFrame:
    """Return one row per scheduled flight of the month, with its four instants in UTC, null for missing ones.

    ``time_hour`` is the UTC hour of the *scheduled* departure. Departure and arrival are the schedule plus the delay.
    The clock times ``dep_time`` and ``arr_time`` are not used, because they have no date. Of all 327,346 arrivals of
    2013 that have both, one disagrees: 02:03 in the night in which that hour does not exist. A cancelled flight has no
    ``departed_at``. A diverted flight has no ``arrived_at``, even with a clock time: it landed elsewhere first.
    """
    raw = read_csv(path, _FLIGHTS, MISSING)
    zoned = raw.join(_zones(airports), left_on="dest", right_on="faa", how="left", maintain_order="left")
    midnight = pl.concat_str(["year", "month", "day"], separator="-").str.to_datetime("%Y-%m-%d", strict=False)
    return (
        zoned.with_columns(
            flight_date=midnight.dt.date(), scheduled_departure=_instant("time_hour") + _minutes("minute")
        )
        .with_columns(scheduled_arrival=_scheduled_arrival(midnight, zoned["tzone"].drop_nulls().unique().to_list()))
        .with_columns(
            departed_at=pl.col("scheduled_departure") + _minutes("dep_delay"),
            arrived_at=pl.col("scheduled_arrival") + _minutes("arr_delay"),
            cancelled=pl.col("dep_time").is_null(),
            diverted=pl.col("dep_time").is_not_null() & pl.col("arr_delay").is_null(),
        )
        .drop("tzone", "time_hour", "year", "month", "day")
    )


def weather(path: Path) -> pl.DataFrame:
    """Return one row per airport and observed hour.

    The instant is ``observed_at`` in UTC. The local hour of the file is dropped, because one occurs twice in autumn.
    The known fault of the source becomes null. Any other impossible value stays, so that the contract finds it.
    """
    faulty = (pl.col("wind_speed") == FAULTY_WIND_MPH) & (pl.col("origin") == "EWR")
    return (
        read_csv(path, _WEATHER, MISSING)
        .with_columns(wind_speed=pl.when(~faulty.fill_null(False)).then("wind_speed"))
        .rename({"time_hour": "observed_at"})
    )


def planes(path: Path) -> pl.DataFrame:
    """Return one row per aircraft, identified by its tail number; ``year`` is renamed to ``built_in``."""
    return read_csv(path, _PLANES, MISSING).rename({"year": "built_in"})


def airports(path: Path) -> pl.DataFrame:
    """Return one row per airport, identified by its FAA code."""
    return read_csv(path, _AIRPORTS, MISSING)


def _zones(airports: pl.DataFrame) -> pl.DataFrame:
    known = airports.select("faa", "tzone").filter(~pl.col("faa").is_in(list(ZONES_OF_UNLISTED_AIRPORTS)))
    unlisted = pl.DataFrame(list(ZONES_OF_UNLISTED_AIRPORTS.items()), schema=["faa", "tzone"], orient="row")
    return pl.concat([known, unlisted])


def _scheduled_arrival(midnight: pl.Expr, zones: list[str]) -> pl.Expr:
    """Return the first instant after departure at which clocks at the destination show ``sched_arr_time``.

    The data has no arrival day: a flight that leaves late in the evening arrives on the next day. No flight takes a
    whole day, so the first such instant is the scheduled arrival.
    """
    clock = pl.col("sched_arr_time").cast(pl.Int64, strict=False)
    same_day = midnight + pl.duration(hours=clock // 100, minutes=clock % 100)
    next_day = same_day + pl.duration(days=1)
    candidate = _in_utc(same_day, zones)
    return pl.when(candidate > pl.col("scheduled_departure")).then(candidate).otherwise(_in_utc(next_day, zones))


def _in_utc(local: pl.Expr, zones: list[str]) -> pl.Expr:
    # Polars takes the zone as a parameter, not as a column, so each zone that occurs has a branch: eight in a month.
    instants = [
        pl.when(pl.col("tzone") == zone).then(
            local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
        )
        for zone in zones
    ]
    return pl.coalesce(*instants, pl.lit(None, _TIMESTAMP))


def _instant(column: str) -> pl.Expr:
    return pl.col(column).cast(_TIMESTAMP, strict=False)


def _minutes(column: str) -> pl.Expr:
    return pl.duration(minutes=pl.col(column).cast(pl.Float64, strict=False))
