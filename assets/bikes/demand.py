"""The functions of the bikes: the loader of a day, the examples of the model, and its features."""

from pathlib import Path

import polars as pl

from ml_platform.data.reading import read_csv

ZONE = "America/New_York"
COUNTED = pl.duration(minutes=59)  # the count of the last hour is known before the day ends, and arrives with it
REQUEST_FIELDS = ("starts_at", "holiday")


def hours(path: Path) -> pl.DataFrame:
    """Return one row per hour with riders. The hour that comes twice in November has one row, at its first instant."""
    rows = read_csv(path, dict.fromkeys(("day", "hr", "weekday", "holiday", "workingday", "bikers"), pl.Int64))
    local = pl.datetime(2011, 1, 1) + pl.duration(days=pl.col("day") - 1, hours="hr")
    starts_at = local.dt.replace_time_zone(ZONE, ambiguous="earliest").dt.convert_time_zone("UTC")
    flags = {"holiday": pl.col("holiday") == 1, "day_off": pl.col("workingday") == 0}
    return rows.select("weekday", "bikers", starts_at=starts_at, hour="hr", **flags)


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one example per hour: its request fields, and its riders, known when the hour is over."""
    return sources["bike_hours"].select(
        *REQUEST_FIELDS,
        example_id=pl.col("starts_at").dt.strftime("%Y%m%dT%HZ"),
        label="bikers",
        label_known_at=pl.col("starts_at") + COUNTED,
    )


def clock(rows: pl.DataFrame) -> pl.DataFrame:
    """Return hour and weekday (0 is Sunday) on the local clock, and whether the day is a holiday or in a weekend."""
    local = pl.col("starts_at").dt.convert_time_zone(ZONE).dt
    weekday = local.weekday() % 7
    return rows.select(hour=local.hour(), weekday=weekday, day_off=pl.col("holiday") | weekday.is_in([0, 6]))


def same_weekday(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the riders of each hour by weekday: of the last such day, and the mean of the last four."""
    return _last(sources["bike_hours"], ["weekday", "hour"], 4)


def same_kind_of_day(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return the riders of each hour by working day or day off: of the last such day, and the mean of the last five."""
    return _last(sources["bike_hours"], ["day_off", "hour"], 5)


def _last(rows: pl.LazyFrame, entity: list[str], days: int) -> pl.LazyFrame:
    known_at, riders = (pl.col("starts_at") + COUNTED).alias("known_at"), pl.col("bikers").cast(pl.Float64)
    ago = [riders.shift(at).over(entity) for at in range(days)]
    return rows.sort("starts_at").select(*entity, known_at, riders=riders, mean=pl.mean_horizontal(ago))
