"""Features as a service reads them, without a store: a real lookup result, made by hand."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from bento.prediction_id import PredictionIds
from bento.prediction_log import AnsweredRequest
from bento.predictor import Prediction
from ml_platform.data.instants import microseconds_of
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.view import FeatureView

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


def microseconds(at: datetime) -> float:
    return float(microseconds_of(at))


def served_features(at: datetime, rows: int, minutes: float) -> ServedFeatures:
    """Return the features read at ``at`` for ``rows`` rows from facts ``minutes`` old."""
    instants = np.full(rows, microseconds(at))
    return ServedFeatures(
        FEATURES.serving_plan.columns,
        np.array([[1.5, 0.0, minutes]] * rows),
        {},
        ages=np.full((rows, 1), minutes),
        found=np.ones((rows, 1), dtype=bool),
        as_of=instants,
        watermarks={"view": at},
        categories={"view__kind": ["a"]},
    )


def answered_request(request_id: str, rows: int = 1) -> AnsweredRequest:
    """Return a request that was answered at ``NOW`` with features that were three minutes old."""
    times = np.full(rows, int(microseconds(NOW)), dtype=np.int64)
    prediction = Prediction([0.25] * rows, [False] * rows, times, served_features(NOW, rows, 3.0))
    return AnsweredRequest(_ids.next(), request_id, "stable", NOW, [{"carrier": "UA"}] * rows, prediction)


@pytest.fixture
def read() -> Callable[[datetime, int, float], ServedFeatures]:
    """Return a function that makes the features read at a time for some rows from facts some minutes old."""
    return served_features
