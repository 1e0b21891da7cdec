"""Loader and examples of photographed digits. A bento carries this file."""

from pathlib import Path

import polars as pl

from ml_platform.data.reading import read_csv


def digits(path: Path) -> pl.DataFrame:
    """Return one row per photo; the file has the images in base64."""
    return read_csv(path, {"photo": pl.Int64, "image": pl.Binary, "digit": pl.String})


def examples(sources: dict[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Return one example per photo, with its digit as label."""
    return sources["digits"].select(pl.format("photo-{}", "photo").alias("example_id"), "image", label="digit")
