"""Features as a service reads them, without a store: a real lookup result, made by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from bento.prediction_id import PredictionIds
from bento.prediction_log import AnsweredRequest
from bento.predictor import Prediction
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


NOW = datetime(2013, 7, 1, 10, 0, tzinfo=UTC)
"""Time of the answers."""

_ids = PredictionIds()


def served_features(at: datetime, rows: int, minutes: float) -> ServedFeatures:
    """Return the features read at ``at`` for ``rows`` rows from facts ``minutes`` old."""
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


def answered_request(request_id: str, rows: int = 1) -> AnsweredRequest:
    """Return a request that was answered at ``NOW`` with features that were three minutes old."""
    times = pl.Series("predict_at", [NOW] * rows, dtype=pl.Datetime("us", "UTC"))
    prediction = Prediction([0.25] * rows, [False] * rows, pl.DataFrame([times]), served_features(NOW, rows, 3.0))
    return AnsweredRequest(_ids.next(), request_id, "stable", NOW, [{"carrier": "UA"}] * rows, prediction)


@pytest.fixture
def read() -> Callable[[datetime, int, float], ServedFeatures]:
    """Return a function that makes the features read at a time for some rows from facts some minutes old."""
    return served_features
