"""The demo of credit: its days, its model, and the applications that it sends to the endpoint."""

from pathlib import Path

import polars as pl

from assets.credit.landing import DAYS, customers
from assets.credit.lending import REQUEST_FIELDS

MODEL, FIRST_PARTITION, LAST_PARTITION = "credit_default", "2024-02-01", "2024-05-30"  # labels of April are due
ROW_NOUN, LABELS = "applications", {True: "decline", False: "grant"}


def request_rows(scratch: Path) -> pl.DataFrame:
    """Return the applications of the next day, from the last arrival on, with outcomes that are reported later."""
    (start, end), arrival = DAYS.bounds(DAYS.shift(LAST_PARTITION, 1)), pl.duration(hours=1)
    days = (pl.col("reported_at") - pl.col("applied_at")).dt.total_days()
    chosen = customers().filter(pl.col("applied_at").is_between(start + arrival, end, closed="left")).sort("applied_at")
    text = pl.format("{} after {} days", pl.col("default").replace_strict({0: "paid", 1: "default"}), days)
    return chosen.select(*REQUEST_FIELDS, outcome_text=text, outcome="default")


def display_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the columns that people read: customer, branch, and the time of the application."""
    return rows.select("customer", "branch", pl.col("applied_at").dt.strftime("%m-%d %H:%M").alias("applied"))
