"""Feature views of congestion: departures in the published schedule, and the usual number at such an hour."""

import polars as pl

from assets.aviation.features.movements import DAY, HOUR, NIGHT_UTC, instants, movements
from ml_platform.features.change_log import Window

NEW_YORK = "America/New_York"
PUBLISHED_DAYS = 3
USUAL_WEEKS = 4


def published_schedule(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return a row per airport and hour with the scheduled departures around it, known three days ahead.

    The schedule of a month arrives with the month: for its first three days it is known from the start of the month.
    """
    due = movements(sources["flights"]).select("origin", hour="due").with_columns(pl.col("hour") // HOUR)
    counted = due.group_by("origin", "hour").agg(pl.len().cast(pl.Int32).alias("n")).collect()
    hours = counted.select(pl.int_range(pl.col("hour").min(), pl.col("hour").max() + 1, dtype=pl.Int32).alias("hour"))
    every = counted.select("origin").unique().join(hours, how="cross").join(counted, on=["origin", "hour"], how="left")
    day = (pl.col("hour") - NIGHT_UTC // HOUR) // 24
    facts = (
        every.with_columns(pl.col("n").fill_null(0))
        .sort("origin", "hour")
        .with_columns(
            in_hour="n",
            two_hours_before=_shifted(1) + _shifted(2),
            hour_after=_shifted(-1),
            three_hours=_shifted(1) + pl.col("n") + _shifted(-1),
            in_day=pl.col("n").sum().over("origin", day),
            earlier_in_day=pl.col("n").cum_sum().over("origin", day) - pl.col("n"),
        )
        .filter(pl.col("n") > 0)
    )
    ahead = instants(pl.col("hour") * HOUR - PUBLISHED_DAYS * DAY)
    starts = pl.lit(window.start).cast(pl.Datetime("us", "UTC"))
    own = facts.filter(instants(pl.col("hour") * HOUR) >= window.start)
    return own.select(
        "origin",
        pl.col("hour").alias("departure_hour"),
        pl.max_horizontal(ahead, starts).alias("known_at"),
        "in_hour",
        "two_hours_before",
        "hour_after",
        "three_hours",
        "in_day",
        "earlier_in_day",
    ).sort("known_at", "origin", "departure_hour")


def usual_schedule(sources: dict[str, pl.LazyFrame], window: Window) -> pl.DataFrame:
    """Return a row per airport, weekday and local hour: the mean of scheduled departures in the last four such hours.

    A row is known in the night after its day, and needs no schedule of the predicted day.
    """
    local = pl.col("scheduled_departure").dt.convert_time_zone(NEW_YORK)
    counted = (
        sources["flights"]
        .select("origin", date=local.dt.date(), hour=local.dt.hour().cast(pl.Int64))
        .group_by("origin", "date", "hour")
        .agg(pl.len().alias("n"))
        .with_columns(weekday=pl.col("date").dt.weekday())
        .collect()
    )
    # An hour without departures has no row yet, and its zero is part of the mean.
    days = counted.select("date", "weekday").unique()
    every = counted.select("origin", "hour").unique().join(days, how="cross")
    keys = ["origin", "weekday", "hour"]
    means = (
        every.join(counted, on=["origin", "date", "hour", "weekday"], how="left")
        .sort(*keys, "date")
        .with_columns(pl.col("n").fill_null(0))
        .with_columns(in_hour=pl.col("n").rolling_mean(USUAL_WEEKS, min_samples=1).over(keys))
    )
    night = pl.col("date").cast(pl.Datetime("us", "UTC")) + pl.duration(days=1, minutes=NIGHT_UTC)
    facts = means.select(*keys, night.alias("known_at"), pl.col("in_hour").cast(pl.Float32))
    # Keep no row for an hour without departures: in winter it is not known which hours occur in summer.
    kept = (pl.col("known_at") >= window.start) & (pl.col("in_hour") > 0)
    return facts.filter(kept).sort("known_at", *keys)


def _shifted(hours: int) -> pl.Expr:
    return pl.col("n").shift(hours, fill_value=0).over("origin")
