"""Explain the features of one row: each value, when it became known, its age, and the view that it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.view import PREDICT_AT


@dataclass(frozen=True)
class FeatureExplanation:
    """One feature of one row.

    ``known_at`` and ``age_minutes`` are None for a request view, and for a stored view without a usable fact.
    """

    feature: str
    value: object
    unit: str
    description: str
    view: str
    known_at: datetime | None
    age_minutes: float | None


def explain_online(feature_set: FeatureSet, row: pl.DataFrame, store: OnlineStore) -> list[FeatureExplanation]:
    """Return the features of ``row`` (one row: request fields, predict_at) as the store serves them now."""
    served = feature_set.serve(row, store)
    return _explain(feature_set, served.frame, served.ages, served.as_of[0])


def explain_as_of(
    feature_set: FeatureSet, row: pl.DataFrame, logs: Mapping[str, pl.LazyFrame]
) -> list[FeatureExplanation]:
    """Return the features of ``row`` (one row: request fields, predict_at) as known in ``logs`` at its predict_at."""
    aged = FeatureSet([view.model_copy(update={"age": view.kind == "stored"}) for view in feature_set.views])
    read = aged.as_of(row.lazy(), logs).collect()
    ages = read.select(pl.col(view.age_column).alias(view.name) for view in aged.stored)
    return _explain(feature_set, read, ages, read[PREDICT_AT][0])


def _explain(
    feature_set: FeatureSet, frame: pl.DataFrame, ages: pl.DataFrame, as_of: datetime
) -> list[FeatureExplanation]:
    values = frame.row(0, named=True)
    aged = ages.row(0, named=True) if ages.width else {}
    explained = []
    for view in feature_set.views:
        age = aged.get(view.name)
        known_at = None if age is None else as_of - timedelta(minutes=age)
        units = {
            view.column(name): (feature.stored_unit, feature.description)
            for feature in view.features
            for name in feature.columns
        }
        units[view.age_column] = ("minutes", f"Age of the fact read from '{view.name}'")
        explained += [
            FeatureExplanation(name, values[name], *units[name], view.name, known_at, age)
            for name in view.feature_names
            if name in feature_set.feature_names
        ]
    return explained
