"""Feature views of past delays: the last flights of a route or flight number, and daily means over days and weeks.

These facts stay useful for weeks, so they also serve requests of a month that has not landed yet.
"""

from collections.abc import Mapping

import polars as pl

from assets.aviation.features.movements import DAY, NIGHT_UTC, instants, movements
from assets.aviation.features.sequences import TIES, Sequences
from assets.aviation.features.ticks import Ticks, ratio
from ml_platform.features.change_log import Window

ROUTE = ["origin", "dest"]
FLIGHT_NUMBER = ["carrier", "flight", "dest"]
ARRIVALS = {"arrival_delay": "arrival_delay", "arrivals_late": "arrival_late", "lost_in_air": "lost_in_air"}
DEPARTURES = {"departure_delay": "departure_delay", "departures_late": "departure_late"}
LAST_LANDED = instants(pl.col("landed")).alias("last_landed_at")


def route(sources: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return a row per landing on a route: mean arrival delays of the last flights between the two airports."""
    landings = _events(sources["flights"], ROUTE, "landed", ARRIVALS)
    counts = {f"arrivals_{days}d": landings.within(days * DAY) for days in (1, 7)}
    return landings.facts(landings.means(ARRIVALS, (2, 5, 20)) | counts, LAST_LANDED)


def route_departures(sources: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return a row per departure on a route: mean departure delays of the last flights between the two airports."""
    departures = _events(sources["flights"], ROUTE, "left", DEPARTURES)
    counts = {f"departures_{days}d": departures.within(days * DAY) for days in (1, 7)}
    return departures.facts(departures.means(DEPARTURES, (2, 5, 20)) | counts)


def flight_number(sources: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return a row per landing of a carrier's flight number at a destination: mean delays of its last arrivals."""
    landings = _events(sources["flights"], FLIGHT_NUMBER, "landed", ARRIVALS)
    columns = landings.means(ARRIVALS, (5, 20)) | {"arrivals_28d": landings.within(28 * DAY)}
    return landings.facts(columns, LAST_LANDED, pl.col("arrival_delay").alias("last_arrival_delay"))


def flight_number_departures(sources: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return a row per departure of a carrier's flight number to a destination: mean delays of its last departures."""
    departures = _events(sources["flights"], FLIGHT_NUMBER, "left", DEPARTURES)
    columns = departures.means(DEPARTURES, (5, 20)) | {"departures_28d": departures.within(28 * DAY)}
    return departures.facts(columns, pl.col("departure_delay").alias("last_departure_delay"))


def distance(sources: dict[str, pl.LazyFrame], window: Window) -> pl.LazyFrame:
    """Return a row per route of the window's flights: its length in miles, known from the start of ``window``."""
    routes = sources["flights"].group_by("origin", "dest").agg(miles=pl.col("distance").median())
    return routes.with_columns(known_at=pl.lit(window.start).cast(pl.Datetime("us", "UTC")))


def recent_days(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return a row per night: mean delays of all flights in the last 1 to 28 days."""
    means = {"arrivals_late": "arrival_late", "arrival_delay": "arrival_delay", "lost_in_air": "lost_in_air"}
    return _daily(sources["flights"], [], means, (1, 2, 7, 28), window)


def hour_of_day(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return a row per night and local departure hour of an airport: late arrivals in the last one and four weeks."""
    return _daily(sources["flights"], ["origin", "hour"], {"arrivals_late": "arrival_late"}, (7, 28), window)


def carrier_weeks(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return a row per night, airport and carrier: mean delays in the last one and four weeks."""
    means = {"arrivals_late": "arrival_late", "lost_in_air": "lost_in_air"}
    return _daily(sources["flights"], ["origin", "carrier"], means, (7, 28), window)


def route_weeks(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return a row per night, route and carrier: mean delays in the last one and four weeks."""
    means = {"arrivals_late": "arrival_late", "arrival_delay": "arrival_delay", "lost_in_air": "lost_in_air"}
    return _daily(sources["flights"], ["origin", "dest", "carrier"], means, (7, 28), window)


def destination_weeks(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return a row per night and destination: mean delays in the last two days and two weeks."""
    means = {"arrivals_late": "arrival_late", "lost_in_air": "lost_in_air"}
    return _daily(sources["flights"], ["dest"], means, (2, 14), window)


def _events(flights: pl.LazyFrame, entity: list[str], at: str, means: Mapping[str, str]) -> Sequences:
    """Return the events at ``at`` (departures or landings) of each entity, with the values to average."""
    rows = movements(flights).select(*dict.fromkeys([*entity, at, *TIES, *means.values()]))
    return Sequences(rows.filter(pl.col(at).is_not_null()).collect(), entity, at)


def _daily(
    flights: pl.LazyFrame, entity: list[str], means: Mapping[str, str], days: tuple[int, ...], window: Window
) -> pl.DataFrame:
    """Return a row per entity and night (08:00 UTC) with counts and means over the landings of the last days."""
    landings = movements(flights).select(*entity, "landed", *means.values())
    rows = landings.filter(pl.col("landed").is_not_null()).collect()
    nights = Ticks(rows, entity, window, step=DAY, reach=max(days) * DAY, offset=NIGHT_UTC)
    codes, at = nights.codes(rows), rows["landed"].to_numpy()
    count = nights.total(codes, at)
    columns = {f"arrivals_{span}d": nights.within(count, span * DAY) for span in days}
    for name, value in means.items():
        total = nights.total(codes, at, rows[value].to_numpy())
        for span in days:
            columns[f"{name}_{span}d"] = ratio(nights.within(total, span * DAY), columns[f"arrivals_{span}d"])
    return nights.facts(columns, columns[f"arrivals_{max(days)}d"] > 0)
