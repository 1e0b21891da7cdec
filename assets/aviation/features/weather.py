"""Feature view of the weather observed at the airport of departure: last hours, trends, worst of the three airports.

An observation has the stamp of its hour and is used from the next hour on: it is known when its hour is over.
"""

import numpy as np
import polars as pl

from ml_platform.features.change_log import Window

PUBLISHED_AFTER = pl.duration(hours=1)
MAX_WIND_MPH = 80
"""One gauge once reported over a thousand miles per hour."""


def weather(sources: dict[str, pl.LazyFrame], window: Window) -> pl.LazyFrame:
    """Return a row per airport and hour: observations, three-hour changes, sums of rain, worst values of the region."""
    observed = (
        sources["weather"]
        .sort("origin", "observed_at")
        .with_columns(
            pl.col("pressure", "wind_speed", "visib", "temp", "dewp", "wind_dir", "humid")
            .fill_null(strategy="forward", limit=6)
            .over("origin"),
            pl.col("wind_gust").fill_null(0.0),
        )
        .with_columns(pl.col("wind_speed").clip(0, MAX_WIND_MPH), spread=pl.col("temp") - pl.col("dewp"))
    )
    angle = pl.col("wind_dir") * np.pi / 180
    facts = observed.select(
        "origin",
        (pl.col("observed_at") + PUBLISHED_AFTER).alias("known_at"),
        temperature=pl.col("temp"),
        dew_point_spread=pl.col("spread"),
        humidity=pl.col("humid"),
        pressure=pl.col("pressure"),
        wind_speed=pl.col("wind_speed"),
        wind_gust=pl.col("wind_gust"),
        wind_direction=pl.col("wind_dir"),
        wind_north=pl.col("wind_speed") * angle.cos(),
        wind_east=pl.col("wind_speed") * angle.sin(),
        visibility=pl.col("visib"),
        visibility_low_3h=pl.min_horizontal(_ago("visib", hours) for hours in range(3)),
        rain_1h=pl.col("precip"),
        rain_3h=pl.sum_horizontal(_ago("precip", hours) for hours in range(3)),
        rain_6h=pl.sum_horizontal(_ago("precip", hours) for hours in range(6)),
        temperature_change_3h=pl.col("temp") - _ago("temp", 3),
        pressure_change_3h=pl.col("pressure") - _ago("pressure", 3),
        wind_change_3h=pl.col("wind_speed") - _ago("wind_speed", 3),
        visibility_change_3h=pl.col("visib") - _ago("visib", 3),
    )
    # An airport that did not report in an hour has no row for it, and does not count in the worst of the region.
    region = facts.group_by("known_at").agg(
        region_rain_3h=pl.col("rain_3h").max(),
        region_visibility_low_3h=pl.col("visibility_low_3h").min(),
        region_wind_speed=pl.col("wind_speed").max(),
        region_wind_gust=pl.col("wind_gust").max(),
        region_dew_point_spread=pl.col("dew_point_spread").min(),
    )
    return (
        facts.join(region, on="known_at", how="left")
        .filter(pl.col("known_at") >= window.start)
        .sort("known_at", "origin")
    )


def _ago(column: str, hours: int) -> pl.Expr:
    """Return ``column`` of ``hours`` rows earlier; this is that many hours earlier unless an hour is missing."""
    return pl.col(column).shift(hours).over("origin")
