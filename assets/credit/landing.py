"""Landing of credit: the customers of `Default` in the package ISLP as published, with drawn times and branches.

By the place in the file, each customer applies once within 121 days, at one of four branches (at later ones more often
with a higher balance), and the outcome is reported 1 to 30 days later.
"""

import io
import random

import polars as pl

from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.package_files import package_file
from ml_platform.data.partitions import PartitionScheme

DAYS = PartitionScheme(cadence="day", start="2024-02-01", end="2024-06-30")
MONTHS = PartitionScheme(cadence="month", start="2024-02", end="2024-05")
FEEDS = (
    ("credit_statements", MONTHS, "stated_at", ("student", "balance", "income")),
    ("credit_applications", DAYS, "applied_at", ("branch",)),
    ("credit_outcomes", DAYS, "reported_at", ("branch", "default")),
)


def customers() -> pl.DataFrame:
    """Return one row per customer, numbered by place, with ``default`` (0 or 1), ``branch`` and the drawn times."""
    rows, draw = pl.read_csv(package_file("ISLP", "data/Default.csv")), random.Random(2024)
    first, second, third = (pl.lit(pl.Series([draw.random() for _ in rows["balance"]])) for _ in range(3))
    applied_at = pl.lit(DAYS.bounds(DAYS.first)[0]) + pl.duration(seconds=(first * 121 * 86_400).cast(int))
    reported_at = applied_at + pl.duration(seconds=((1 + second * 29) * 86_400).cast(int))
    times = {"applied_at": applied_at, "reported_at": reported_at, "stated_at": applied_at.dt.truncate("1mo")}
    flags = {"student": pl.col("student") == "Yes", "default": (pl.col("default") == "Yes").cast(int)}
    branch = 1 + (pl.col("balance") / 2700 + third * 3).cast(int)
    return rows.with_columns(customer=pl.int_range(1, pl.len() + 1), branch=branch, **times, **flags)


def land(landing: Landing, through: str) -> list[LandedFile]:
    """Land every day up to ``through`` (like ``2024-05-30``), and the statements of the months that began by then."""
    rows, landed = customers(), []
    for name, scheme, time, columns in FEEDS:
        for key in scheme.starting_in(DAYS.bounds(DAYS.first)[0], DAYS.bounds(through)[1]):
            part = rows.filter(pl.col(time).is_between(*scheme.bounds(key), closed="left")).sort(time, "customer")
            part.select("customer", *columns, time).write_parquet(file := io.BytesIO())
            landed.append(landing.land_bytes(name, key, file.getvalue(), "parquet"))
    return landed
