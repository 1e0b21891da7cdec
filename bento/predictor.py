"""From the rows of a request to scores: features read online, encoded, scored, calibrated. One model, one thread.

It reads the native files of a model directory and needs no training code. What training does with the same files is
held equal by `bento/verify.py`, which runs on every bento before it may serve.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bento.reasons import reasons
from bento.scorer import ModelUnreadable, Scores, load_scorer
from ml_platform.errors import listed
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.online import OnlineStore
from ml_platform.features.served import Served
from ml_platform.features.view import PREDICT_AT
from ml_platform.serving.contract import RequestContract, ValidRequest, instants

FORMAT = "ml_platform/1"
SMALLEST = 1e-6
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
    served: Served


class Predictor:
    """A model directory, ready to answer. Safe to share between threads."""

    def __init__(self, model_dir: Path, store: OnlineStore) -> None:
        """Load the model in ``model_dir``; its features are read from ``store``.

        Raises :class:`ModelUnreadable` when a file is missing, of another format, or the parts do not fit together.
        """
        described = _held(model_dir, "model.json")
        if described.get("format") != FORMAT:
            raise ModelUnreadable(
                f"Model directory {model_dir}",
                expected=f"a model.json of format {FORMAT}",
                found=f"format {described.get('format')}",
                mend="Build the bento with the release that wrote the model.",
            )
        self.store = store
        self.threshold = float(described["threshold"])
        self.classifies = described["task"] == "classification"
        self.contract = RequestContract.model_validate(_held(model_dir, "contract.json"))
        self.features = FeatureSet.from_dict(_held(model_dir, "features.json"))
        self.encoder = Encoder.from_json(_text(model_dir, "encoder.json"))
        self._calibrate = calibration_of(_held(model_dir, "calibration.json"))
        self.scorer = load_scorer(described, model_dir)
        self._agree()

    def predict(self, request: ValidRequest, arrived_at: datetime) -> Prediction:
        """Return the predictions of ``request``, in the order of its rows.

        ``arrived_at`` (aware) is the prediction time where the contract names none. Raises what the online store
        raises, for example when a feature view was never published.
        """
        rows = self.table(request, arrived_at)
        served = self.features.serve(rows, self.store)
        scores = self._calibrate(self.scorer.predict(served.encoded(self.encoder)))
        labels: list[Any] = (scores >= self.threshold).tolist() if self.classifies else [None] * rows.height
        return Prediction(scores.tolist(), labels, rows, served)

    def reasons(self, prediction: Prediction, most: int) -> list[list[dict[str, Any]]]:
        """Return for each row of ``prediction`` up to ``most`` features that moved its score, the strongest first."""
        served = prediction.served
        contributions = self.scorer.contributions(served.encoded(self.encoder))
        return reasons(self.encoder.feature_names, served.records(), contributions, most)

    def table(self, request: ValidRequest, arrived_at: datetime) -> pl.DataFrame:
        """Return the rows of ``request`` with the time of their prediction."""
        return request.frame().hstack([self._predict_at(request, arrived_at)])

    def _predict_at(self, request: ValidRequest, arrived_at: datetime) -> pl.Series:
        # As PredictionTime.expression() has it; a table's expression would take longer than all the rest of a request.
        timing = self.contract.prediction_time
        if timing is None:
            return instants(PREDICT_AT, [arrived_at] * len(request.rows))
        before = timedelta(minutes=timing.minutes_before)
        return instants(PREDICT_AT, [time - before for time in request.columns[timing.field]])

    def _agree(self) -> None:
        lacking = [name for name in self.features.fields if name not in self.contract.dtypes]
        unread = [name for name in self.encoder.feature_names if name not in self.features.feature_names]
        if lacking or unread:
            raise ModelUnreadable(
                f"Model '{self.contract.model}'",
                expected="request fields and features for all that the model reads",
                found=f"no field {listed(lacking)}" if lacking else f"no feature {listed(unread)}",
                mend="Declare them in the model's defs.yaml and materialize the candidate again.",
            )


def calibration_of(held: Mapping[str, Any]) -> Callable[[Scores], Scores]:
    """Return the map from score to probability that `calibration.json` holds: none, isotonic knots, or Platt's."""
    method = held["method"]
    if method == "isotonic":
        x, y = np.asarray(held["x"]), np.asarray(held["y"])
        return lambda score: np.interp(score, x, y)
    if method == "platt":
        slope, intercept = held["slope"], held["intercept"]
        return lambda score: _sigmoid(slope * _logit(score) + intercept)
    return lambda score: score


def _held(model_dir: Path, name: str) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(_text(model_dir, name))
    return held


def _text(model_dir: Path, name: str) -> str:
    path = model_dir / name
    if not path.is_file():
        raise ModelUnreadable(
            f"Model directory {model_dir}", expected=f"a file {name}", found="none", mend="Build the bento again."
        )
    return path.read_text()


def _logit(score: Scores) -> Scores:
    clipped = np.clip(score, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _sigmoid(odds: Scores) -> Scores:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * odds)))
