"""The training set has the request fields in the types in which a service gets them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import INSTANT, FeatureView
from ml_platform.training.training_set import ExamplesError, assemble_training_set

DUE = datetime(2013, 3, 1, 12, tzinfo=UTC)
TYPES = {"shop": pl.String(), "size": pl.Int64(), "distance": pl.Float64(), "due": INSTANT}


def given_size(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the request field `size` as a feature."""
    return rows.select("size")


FEATURES = FeatureSet(
    [
        FeatureView.model_validate(
            {
                "name": "order",
                "kind": "request",
                "function": f"{__name__}:given_size",
                "fields": ["size"],
                "features": [{"name": "size", "type": "int64", "description": "Number of parcels"}],
            }
        )
    ]
)


def assembled(**columns: Any) -> pl.DataFrame:
    examples = pl.DataFrame(
        {
            "example_id": ["a", "b"],
            "shop": ["1", "2"],
            "size": [1, 2],
            "distance": [0.5, None],
            "due": pl.Series([DUE, DUE], dtype=INSTANT),
            "label": [0, 1],
            "label_known_at": pl.Series([DUE + timedelta(hours=1)] * 2, dtype=INSTANT),
            **columns,
        }
    )
    return assemble_training_set(
        examples.lazy(), FEATURES, {}, TYPES, PredictionTime(field="due"), model="late", partition="2013-03"
    )


def test_request_fields_are_stored_in_their_declared_types() -> None:
    rows = assembled(
        shop=pl.Series(["1", "2"], dtype=pl.Categorical),
        size=pl.Series([1, 2], dtype=pl.Int8),
        distance=pl.Series([1, None], dtype=pl.Int32),
    )
    assert {name: rows.schema[name] for name in TYPES} == TYPES
    assert rows.select("shop", "size", "distance").rows() == [("1", 1, 1.0), ("2", 2, None)]


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("shop", [1, 2], "Int64"),
        ("size", ["1", "2"], "String"),
        ("size", [1.0, 2.0], "Float64"),
        ("size", [True, False], "Boolean"),
        ("distance", ["0.5", "1"], "String"),
    ],
)
def test_request_field_of_another_type_than_declared_is_refused(name: str, values: list[Any], found: str) -> None:
    with pytest.raises(ExamplesError, match=rf"declared types: '{name}' {TYPES[name]}, found '{name}' {found}"):
        assembled(**{name: values})
