"""From the rows of a request to scores: features read online, encoded, scored, calibrated. One model, one thread.

It reads the native files of a model directory and needs no training code. What training does with the same files is
held equal by `bento/smoke_test_server.py`, which runs on every bento before it may serve.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bento.reasons import strongest_reasons
from bento.scorer import ModelUnreadableError, Scores, load_scorer
from ml_platform.errors import listed
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.view import PREDICT_AT
from ml_platform.serving.request_contract import RequestContract, ValidRequest, instant_series

MODEL_FORMAT = "ml_platform/1"
MIN_PROBABILITY = 1e-6
"""Scores are kept this far from 0 and 1 before their log-odds are taken."""


@dataclass(frozen=True)
class Prediction:
    """Answers for n rows, and everything that they were made with.

    ``scores`` (n,) are probabilities or values; ``labels`` (n) None for a regression. ``rows`` are the request's fields
    and predict_at; ``served`` the features as read.
    """

    scores: list[float]
    labels: list[bool] | list[None]
    rows: pl.DataFrame
    served: ServedFeatures


class Predictor:
    """A model directory, ready to answer. Safe to share between threads."""

    def __init__(self, model_dir: Path, store: OnlineStore) -> None:
        """Load the model in ``model_dir``; its features are read from ``store``.

        Raises :class:`ModelUnreadableError` when a file is missing or of another format, or the parts do not fit.
        """
        description = _read_json(model_dir, "model.json")
        if description.get("format") != MODEL_FORMAT:
            raise ModelUnreadableError(
                f"Model directory {model_dir}",
                expected=f"a model.json of format {MODEL_FORMAT}",
                found=f"format {description.get('format')}",
                fix="Build the bento with the release that wrote the model.",
            )
        self.store = store
        self.threshold = float(description["threshold"])
        self.classifies = description["task"] == "classification"
        self.contract = RequestContract.model_validate(_read_json(model_dir, "contract.json"))
        self.features = FeatureSet.from_dict(_read_json(model_dir, "features.json"))
        self.encoder = Encoder.from_json(_read_text(model_dir, "encoder.json"))
        self._calibrate = calibration_function(_read_json(model_dir, "calibration.json"))
        self.scorer = load_scorer(description, model_dir)
        self._require_consistent_parts()

    def predict(self, request: ValidRequest, arrived_at: datetime) -> Prediction:
        """Return the predictions of ``request``, in the order of its rows.

        ``arrived_at`` (aware) is the prediction time where the contract names none. Raises what the online store
        raises, for example when a feature view was never published.
        """
        rows = self.rows_with_prediction_time(request, arrived_at)
        served = self.features.serve(rows, self.store)
        scores = self._calibrate(self.scorer.predict(served.encode(self.encoder)))
        labels: list[Any] = (scores >= self.threshold).tolist() if self.classifies else [None] * rows.height
        return Prediction(scores.tolist(), labels, rows, served)

    def strongest_reasons(self, prediction: Prediction, max_reasons: int) -> list[list[dict[str, Any]]]:
        """Return for each row up to ``max_reasons`` features that moved its score, the strongest first."""
        served = prediction.served
        contributions = self.scorer.contributions(served.encode(self.encoder))
        return strongest_reasons(self.encoder.feature_names, served.records(), contributions, max_reasons)

    def rows_with_prediction_time(self, request: ValidRequest, arrived_at: datetime) -> pl.DataFrame:
        """Return the rows of ``request`` with the time of their prediction."""
        return request.frame().hstack([self._predict_at(request, arrived_at)])

    def _predict_at(self, request: ValidRequest, arrived_at: datetime) -> pl.Series:
        # As PredictionTime.expression() has it; a table's expression would take longer than all the rest of a request.
        prediction_time = self.contract.prediction_time
        if prediction_time is None:
            return instant_series(PREDICT_AT, [arrived_at] * len(request.rows))
        minutes_before = timedelta(minutes=prediction_time.minutes_before)
        return instant_series(PREDICT_AT, [time - minutes_before for time in request.columns[prediction_time.field]])

    def _require_consistent_parts(self) -> None:
        missing_fields = [name for name in self.features.fields if name not in self.contract.dtypes]
        missing_features = [name for name in self.encoder.feature_names if name not in self.features.feature_names]
        if missing_fields or missing_features:
            raise ModelUnreadableError(
                f"Model '{self.contract.model}'",
                expected="request fields and features for all that the model reads",
                found=f"no field {listed(missing_fields)}"
                if missing_fields
                else f"no feature {listed(missing_features)}",
                fix="Declare them in the model's defs.yaml and materialize the candidate again.",
            )


def calibration_function(parameters: Mapping[str, Any]) -> Callable[[Scores], Scores]:
    """Return the map from score to probability that `calibration.json` holds: none, isotonic knots, or Platt's."""
    method = parameters["method"]
    if method == "isotonic":
        x, y = np.asarray(parameters["x"]), np.asarray(parameters["y"])
        return lambda score: np.interp(score, x, y)
    if method == "platt":
        slope, intercept = parameters["slope"], parameters["intercept"]
        return lambda score: _sigmoid(slope * _log_odds_of(score) + intercept)
    return lambda score: score


def _read_json(model_dir: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_read_text(model_dir, name))
    return content


def _read_text(model_dir: Path, name: str) -> str:
    path = model_dir / name
    if not path.is_file():
        raise ModelUnreadableError(
            f"Model directory {model_dir}", expected=f"a file {name}", found="none", fix="Build the bento again."
        )
    return path.read_text()


def _log_odds_of(score: Scores) -> Scores:
    clipped = np.clip(score, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _sigmoid(log_odds: Scores) -> Scores:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * log_odds)))
