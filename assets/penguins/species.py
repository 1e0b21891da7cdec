"""The functions of the penguins: the loader of the table, the examples of the model, and its features."""

from pathlib import Path

import polars as pl

from ml_platform.data.reading import read_csv

MEASURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
REQUEST_FIELDS = ("island", "sex", *MEASURES)


def penguins(path: Path) -> pl.DataFrame:
    """Return one row per penguin; its number is its place in the published file."""
    types = {"species": pl.String, "island": pl.String, **dict.fromkeys(MEASURES, pl.Float64), "sex": pl.String}
    rows = read_csv(path, types | {"year": pl.Int64}, null_values=["NA"])
    return rows.with_row_index("penguin", offset=1).cast({"penguin": pl.Int64})


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one example per penguin, with its species as label."""
    return sources["penguins"].select(
        pl.format("penguin-{}", "penguin").alias("example_id"), *REQUEST_FIELDS, pl.col("species").alias("label")
    )


def body(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the measures of each row, the ratio of its bill, island and sex."""
    ratio = (rows["bill_length_mm"] / rows["bill_depth_mm"]).alias("bill_ratio")
    return rows.select(*REQUEST_FIELDS).with_columns(ratio)
