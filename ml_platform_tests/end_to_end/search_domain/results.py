"""Loader, examples and features of a shop's searches. A bento carries this file."""

from pathlib import Path

import polars as pl

from ml_platform.data.reading import read_csv

FIELDS = ("search", "item", "title", "distance", "shown_at")


def results(path: Path) -> pl.DataFrame:
    """Return one row per item that a search showed, with the grade that the customer gave by a click."""
    types = {"result": pl.String, "search": pl.String, "item": pl.String, "title": pl.String, "distance": pl.Float64}
    times = {name: pl.Datetime("us", "UTC") for name in ("shown_at", "graded_at")}
    return read_csv(path, types | times | {"grade": pl.Int64})


def graded(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one example per shown item, labelled with its grade."""
    return sources["results"].select(
        pl.col("result").alias("example_id"), *FIELDS, label="grade", label_known_at="graded_at"
    )


def item_grades(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one fact per grade of an item."""
    return sources["results"].select("item", known_at="graded_at", last=pl.col("grade").cast(pl.Float32))


def result_distance(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col("distance").cast(pl.Float32))
