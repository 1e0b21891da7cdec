"""The demo of the penguins: its model, and the penguins that it sends to the endpoint."""

from pathlib import Path
from typing import Any

import polars as pl

from assets.penguins.landing import land
from assets.penguins.species import REQUEST_FIELDS, penguins
from ml_platform.data.landing import Landing

FIRST_PARTITION = LAST_PARTITION = ""
MODEL = "penguin_species"
ROW_NOUN = "penguins"
LABELS: dict[Any, str] = {}


def request_rows(scratch: Path) -> pl.DataFrame:
    """Return the penguins of 2009 as requests, with their species as ``outcome_text`` and ``outcome``."""
    (file,) = land(Landing(scratch))
    rows = penguins(file.path).filter(pl.col("year") == pl.col("year").max())
    return rows.select(*REQUEST_FIELDS, outcome_text="species", outcome="species")


def display_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the columns that people read: the island, and the size of the bill."""
    bill = pl.format("{} × {} mm", "bill_length_mm", "bill_depth_mm").fill_null("not measured")
    return rows.select("island", bill.alias("bill"))
