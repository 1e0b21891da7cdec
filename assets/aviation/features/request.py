"""What a request says by itself, and what it says about the facts read for it: one code for training and serving."""

from functools import lru_cache

import numpy as np
import polars as pl

NEW_YORK = "America/New_York"
HOLIDAY_HORIZON_DAYS = 8
DAYS_OF_YEAR = 366
"""Rounded up: years come out right or one too early, and the years beside them are looked up too."""

TURNAROUND_MINUTES = 40
SAME_DAY_MINUTES = 20 * 60


def schedule(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the schedule of each row: local clock and calendar, holidays, duration, keys of other views."""
    local = pl.col("scheduled_departure").dt.convert_time_zone(NEW_YORK)
    arrival = pl.col("scheduled_arrival").dt.convert_time_zone(NEW_YORK)
    day = local.dt.date()
    found = rows.select(
        "origin",
        "dest",
        "carrier",
        hour=local.dt.hour().cast(pl.Int64),
        minute_of_day=_minute_of_day(local),
        minute=local.dt.minute().cast(pl.Int64),
        arrival_minute_of_day=_minute_of_day(arrival),
        weekday=day.dt.weekday(),
        day_of_year=day.dt.ordinal_day(),
        block=_minutes(pl.col("scheduled_arrival") - pl.col("scheduled_departure")),
        departure_hour=pl.col("scheduled_departure").dt.epoch("s") // 3600,
        day=day.cast(pl.Int32),
    )
    # Plain arrays from here: for a single row, each call of the query engine would cost more than all of this.
    days = found["day"].to_numpy()
    return pl.DataFrame([*found.drop("day").get_columns(), *_beside_holidays(days)])


def outlook(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what the facts read mean for this very flight: slack of its aircraft, ages, likely duration."""
    due, block = pl.col("scheduled_departure"), _minutes(pl.col("scheduled_arrival") - pl.col("scheduled_departure"))
    gap = _minutes(due - pl.col("aircraft_leg__scheduled_departure"))
    same_day = gap < SAME_DAY_MINUTES
    plan = gap - 2 * pl.col("aircraft_leg__block") - TURNAROUND_MINUTES
    delay = pl.col("aircraft_leg__delay")
    return rows.select(
        aircraft_gap=gap,
        aircraft_planned_slack=pl.when(same_day).then(plan),
        aircraft_slack=pl.when(same_day).then(plan - delay.clip(0, None)),
        aircraft_delay_today=pl.when(same_day).then(delay),
        aircraft_idle=_minutes(pl.col("as_of") - pl.col("aircraft_history__last_left_at")),
        aircraft_age=due.dt.year() - pl.col("fleet__built_in"),
        route_idle=_minutes(pl.col("as_of") - pl.col("route__last_landed_at")),
        flight_number_idle=_minutes(pl.col("as_of") - pl.col("flight_number__last_landed_at")),
        likely_duration=block + pl.col("flight_number__lost_in_air_last_5"),
        speed=pl.col("distance__miles") / block,
    )


def _minute_of_day(local: pl.Expr) -> pl.Expr:
    return local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute()


def _minutes(duration: pl.Expr) -> pl.Expr:
    return duration.dt.total_minutes()


def _beside_holidays(days: np.ndarray) -> list[pl.Series]:
    """Return days to the next holiday and since the last one: 0 on the day itself, at most eight."""
    years = days[~np.isnan(days)] if days.dtype.kind == "f" else days
    if not len(years):
        return [pl.Series(name, [None] * len(days), pl.Int64) for name in ("days_to_holiday", "days_since_holiday")]
    known = _holidays(int(years.min()) // DAYS_OF_YEAR + 1970, int(years.max()) // DAYS_OF_YEAR + 1970)
    ahead = known[np.searchsorted(known, days, side="left")] - days
    since = days - known[np.searchsorted(known, days, side="right") - 1]
    return [
        pl.Series(name, np.minimum(distance, HOLIDAY_HORIZON_DAYS), nan_to_null=True)
        for name, distance in (("days_to_holiday", ahead), ("days_since_holiday", since))
    ]


@lru_cache(maxsize=32)
def _holidays(first: int, last: int) -> np.ndarray:
    """Return the federal holidays of the years from ``first`` to ``last`` and those beside them: days since 1970."""
    import holidays

    found = holidays.country_holidays("US", years=range(first - 1, last + 2))
    return np.array(sorted(found), dtype="datetime64[D]").astype(np.int64)
