"""The weights of logged predictions: a service that logs a share of its requests gives each the weight 1 / share.

Rows of different weights are compared after a second sampling that makes their weights equal (Poisson thinning): all
statistics and intervals for rows of equal weight then hold. Counts add up the weights of all rows.
"""

import polars as pl

WEIGHT = "weight"
"""Column of the predictions table: requests for which a row stands."""


def with_weights(predictions: pl.LazyFrame) -> pl.LazyFrame:
    """Return ``predictions`` with the column ``weight``, 1 where nothing was sampled or it is not stored."""
    stored = pl.col(WEIGHT).fill_null(1.0) if WEIGHT in predictions.collect_schema() else pl.lit(1.0)
    return predictions.with_columns(stored.alias(WEIGHT))


def total_weight(rows: pl.DataFrame) -> int:
    """Return the estimated number of predictions for which ``rows`` stand; their number without the column."""
    return round(float(rows[WEIGHT].sum())) if WEIGHT in rows.columns else rows.height


def equally_weighted(rows: pl.DataFrame, identity: list[str]) -> pl.DataFrame:
    """Return the ``rows`` of the largest weight, and of the others a part by chance, so that all have this weight.

    A row of weight w stays with the probability w / largest weight, by the hash of its columns ``identity``. Rows of
    equal weights, or without the column, all stay.
    """
    if WEIGHT not in rows.columns or rows[WEIGHT].n_unique() < 2:
        return rows
    position = pl.struct(identity).hash(seed=0).cast(pl.Float64) / 2.0**64
    return rows.filter(position < pl.col(WEIGHT) / pl.col(WEIGHT).max())
