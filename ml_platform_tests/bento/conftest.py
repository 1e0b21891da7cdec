"""Features as a service reads them, without a store: a real lookup result, made by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import LookupResult
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.view import INSTANT, FeatureView

VIEW = FeatureView.model_validate(
    {
        "name": "view",
        "function": "m:f",
        "code_version": "1",
        "features": [
            {"name": "mean", "description": "…"},
            {"name": "kind", "type": "category", "description": "…"},
        ],
    }
)
FEATURES = FeatureSet([VIEW])


@pytest.fixture
def read() -> Callable[[datetime, int, float], ServedFeatures]:
    """Return a function that makes the features read at ``at`` for ``rows`` rows from facts ``minutes`` old."""

    def reading(at: datetime, rows: int, minutes: float) -> ServedFeatures:
        known_at = (at - timedelta(minutes=minutes) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        found = LookupResult(
            views=FEATURES.stored,
            values=np.array([[1.5, 0.0]] * rows),
            known_at=np.full((rows, 1), known_at),
            watermarks={"view": at},
            categories={"view__kind": ["a"]},
        )
        return ServedFeatures(
            FEATURES.layout, pl.DataFrame(height=rows), found, pl.Series("as_of", [at] * rows, dtype=INSTANT)
        )

    return reading
