"""Nulls among the features that an endpoint logged, compared with those of the training set.

A training set is built when all data are there. Only the log shows features that were empty while a prediction was
made, for example because a feed was late.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import polars as pl
import polars.selectors as cs
from pydantic import BaseModel, ConfigDict

from ml_platform.monitoring.logged_fields import unpack_json_column
from ml_platform.monitoring.sampling_weights import WEIGHT, equally_weighted, with_weights

MAX_PARTS = 31
"""Parts (days) of the latest predictions that are read."""


class LoggedNulls(BaseModel):
    """A feature with more nulls among logged predictions than in the training set."""

    model_config = ConfigDict(frozen=True)

    name: str
    null_rate_reference: float
    null_rate_logged: float


def logged_features(
    parts: Iterable[pl.LazyFrame], start: datetime, end: datetime, *, rows: int, seed: int
) -> pl.DataFrame:
    """Return the logged features of up to ``rows`` predictions for the time from ``start`` to ``end``.

    ``parts`` are predictions in parts, the latest part first; at most :data:`MAX_PARTS` are read. Of more predictions
    in a part, a seeded sample counts. Predictions of sampled logs are returned with equal weights.
    """
    found: list[pl.DataFrame] = []
    missing = rows
    for _, part in zip(range(MAX_PARTS), parts, strict=False):
        within = pl.col("predict_at").is_between(start, end, closed="left")
        predictions = with_weights(part).filter(within).select("features", WEIGHT, "prediction_id").collect()
        found.append(predictions.sample(missing, seed=seed) if predictions.height > missing else predictions)
        missing -= found[-1].height
        if not missing:
            break
    logged = pl.concat(found) if found else pl.DataFrame(schema={"features": pl.String})
    return unpack_json_column(equally_weighted(logged, ["prediction_id"]).select("features"), "features")


def risen_nulls(
    reference: pl.DataFrame, logged: pl.DataFrame, features: Sequence[str], *, by: str, change: float
) -> list[LoggedNulls]:
    """Return the features whose share of nulls in ``logged`` exceeds that in ``reference`` by more than ``change``.

    The share of ``reference`` is the largest of its groups ``by``, for example its partitions. NaN counts as null. A
    feature that one side lacks is left out: it belongs to another version.
    """
    names = [name for name in features if name in logged.columns and name in reference.columns]
    if not names or logged.is_empty() or reference.is_empty():
        return []
    shares = reference.with_columns(cs.float().fill_nan(None)).group_by(by).agg(pl.col(names).is_null().mean())
    before = shares.select(pl.col(names).max()).row(0, named=True)
    now = logged.with_columns(cs.float().fill_nan(None)).select(pl.col(names).is_null().mean()).row(0, named=True)
    risen = [
        LoggedNulls(name=name, null_rate_reference=before[name], null_rate_logged=now[name])
        for name in names
        if now[name] > before[name] + change
    ]
    return sorted(risen, key=lambda each: each.null_rate_reference - each.null_rate_logged)
