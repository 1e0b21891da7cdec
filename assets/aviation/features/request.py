"""What a request says by itself, and what it says about the facts read for it: one code for training and serving."""

from functools import lru_cache

import polars as pl

NEW_YORK = "America/New_York"
HOLIDAY_HORIZON_DAYS = 8
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
        date=day,
    )
    years = found["date"].drop_nulls().dt.year().unique().to_list()
    known = _holidays(tuple(sorted(years)))
    return found.with_columns(
        days_to_holiday=_distance(found["date"], known, ahead=True),
        days_since_holiday=_distance(found["date"], known, ahead=False),
    ).drop("date")


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


@lru_cache(maxsize=32)
def _holidays(years: tuple[int, ...]) -> pl.Series:
    """Return the federal holidays of ``years`` and of those beside them, sorted."""
    import holidays

    wanted = {year + beside for year in years for beside in (-1, 0, 1)}
    return pl.Series(sorted(holidays.country_holidays("US", years=wanted)), dtype=pl.Date)


def _distance(days: pl.Series, known: pl.Series, *, ahead: bool) -> pl.Series:
    """Return days to the next holiday (or since the last one), 0 on the day itself, at most eight."""
    if known.is_empty():
        return pl.Series(dtype=pl.Int64).extend_constant(None, len(days))
    place = known.search_sorted(days, side="left" if ahead else "right")
    nearest = known.gather(place if ahead else place - 1)
    distance = (nearest - days) if ahead else (days - nearest)
    return distance.dt.total_days().clip(0, HOLIDAY_HORIZON_DAYS)
