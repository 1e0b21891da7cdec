"""Predicts the rows of a request: reads their features online, encodes them, scores them, and calibrates the scores.

It reads the native files of a model directory and needs no training code. Every bento is verified before it serves:
`bento/smoke_test_server.py` must give the same scores as training.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from bento.reasons import RequestedReasons, row_contributions, strongest_reasons
from bento.scorer import Features, ModelUnreadableError, Scores, load_scorer
from ml_platform.data.instants import instant_of, microseconds_of
from ml_platform.data.pii import MASK
from ml_platform.errors import listed
from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import load_transformers
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.row_columns import RowColumns
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.unknown_fields import with_pii
from ml_platform.serving.request_contract import FieldError, InvalidRequestError, RequestContract, ValidRequest
from ml_platform.tasks.catalog import as_task

MODEL_FORMAT = "ml_platform/1"
MICROSECONDS_PER_MINUTE = 60_000_000
MIN_PROBABILITY = 1e-6
"""Scores are clipped to this distance from 0 and 1 before taking their log-odds."""


class Prediction(NamedTuple):
    """Predictions for the n rows of a request, and the inputs that they were made from.

    ``scores`` (n,) and ``labels`` (n,) are those of the task; a label is None for a task that answers a number.
    ``predict_at`` (n, microseconds) is the time of each prediction; ``served`` has the features as read. ``details``
    (n,) are the further fields of the answers, and None for a task without them. ``degraded`` has, for each row, what
    was missing, stale, unknown or against a rule; None: nothing for any row. ``read_seconds`` is the time in which the
    features were read, for all requests of the pass together.
    """

    scores: list[float]
    labels: list[Any]
    predict_at: npt.NDArray[np.int64]
    served: ServedFeatures
    details: list[dict[str, Any]] | None = None
    degraded: list[dict[str, Any]] | None = None
    read_seconds: float = 0.0

    def answers(self) -> list[dict[str, Any]]:
        """Return the answer of each row, as the endpoint gives it."""
        answers = _answers(self.scores, self.labels, self.details)
        if self.degraded is not None:
            for one, marks in zip(answers, self.degraded, strict=True):
                if marks:
                    one["degraded"] = marks
        return answers


class Predictor:
    """A loaded model directory that predicts on one thread. Safe to share between threads."""

    def __init__(self, model_dir: Path, store: OnlineStore) -> None:
        """Load the model in ``model_dir``, which reads its features from ``store``.

        Raises :class:`ModelUnreadableError` when a file is missing or of another format, or when the files do not
        match.
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
        self.task = as_task(description["task"])
        self.threshold = float(description["threshold"]) if self.task.has_threshold else None
        self.contract = RequestContract.model_validate(_read_json(model_dir, "contract.json"))
        features = FeatureSet.from_dict(_read_json(model_dir, "features.json"))
        if self.contract.pii_fields or self.contract.pii_features:
            features = with_pii(features, self.contract.pii_fields, self.contract.pii_features)
        self.features = load_transformers(features, model_dir)
        self.encoder = Encoder.from_json(_read_text(model_dir, "encoder.json"))
        calibration = _read_json(model_dir, "calibration.json")
        self._calibrate = calibration_function(calibration)
        self._half_width = half_width_function(calibration)
        self.scorer = load_scorer(description, model_dir)
        self._require_consistent_parts()

    def predict(self, request: ValidRequest, arrived_at: datetime) -> Prediction:
        """Return the predictions of ``request``, in the order of its rows.

        ``arrived_at`` (aware) is the prediction time if the contract declares none. Errors of the online store pass
        through, for example when a feature view was never published.
        """
        return self.predict_together([(request, arrived_at)])[0]

    def predict_together(self, requests: Sequence[tuple[ValidRequest, datetime]]) -> list[Prediction]:
        """Return the predictions of several requests with the times of their arrival, which share one pass.

        Each request gets the same predictions as alone.
        """
        rows = self.rows_together(requests)
        started = time.perf_counter()
        served = self.features.serving_plan.serve(rows, self.store)
        read_seconds = time.perf_counter() - started
        task = self.task
        matrix = served.encode(self.encoder)
        predicted = self._predicted(matrix)
        scores, labels = task.scores(predicted).tolist(), task.labels(predicted, self.threshold)
        half_widths = self._half_width(predicted)
        found, start = [], 0
        for request, _ in requests:
            stop = start + len(request.rows)
            part = slice(start, stop)
            own_widths = half_widths[part] if isinstance(half_widths, np.ndarray) else half_widths
            context = task.answer_context(request.columns)
            own = served if len(requests) == 1 else served.part(start, stop)
            found.append(
                Prediction(
                    scores[part],
                    labels[part],
                    rows.predict_at[part],
                    own,
                    task.answer_details(predicted[part], own_widths, context),
                    self._degraded(request, rows.predict_at[part], own, matrix[part]),
                    read_seconds,
                )
            )
            start = stop
        return found

    def predict_features(self, features: pl.DataFrame) -> tuple[Scores, list[list[str]]]:
        """Return the predictions of n rows whose ``features`` were read elsewhere, and what is unknown in each.

        ``features`` has a column for each feature of the model. The predictions have the shape of the task's outputs;
        :meth:`answers_to` gives the answers. Unknown are the features whose text was not met in training.
        """
        matrix = self.encoder.transform(features)
        unknown: list[list[str]] = [[] for _ in range(features.height)]
        for place in self.encoder.category_indices:
            name = self.encoder.feature_names[place]
            for row in np.flatnonzero(np.isnan(matrix[:, place]) & features[name].is_not_null().to_numpy()):
                unknown[row].append(name)
        return self._predicted(matrix), unknown

    def answers_to(self, predicted: Scores, fields: pl.DataFrame) -> list[dict[str, Any]]:
        """Return the answers of n rows with the request ``fields`` and the predictions of :meth:`predict_features`."""
        task = self.task
        details = task.answer_details(predicted, self._half_width(predicted), task.answer_context(fields))
        return _answers(task.scores(predicted).tolist(), task.labels(predicted, self.threshold), details)

    def require_features(self) -> None:
        """Raise the error of a request for which the online store has no snapshot of a view."""
        self.store.require(self.features.stored)

    def answers(self, prediction: Prediction, requested: RequestedReasons | None) -> list[dict[str, Any]]:
        """Return the answer of each row, with the ``requested`` reasons if there are any."""
        answers = prediction.answers()
        if requested is None:
            return answers
        found = self.strongest_reasons(prediction, requested)
        return [{**answer, **more} for answer, more in zip(answers, found, strict=True)]

    def strongest_reasons(self, prediction: Prediction, requested: RequestedReasons) -> list[dict[str, Any]]:
        """Return for each row what ``requested`` adds to its answer: the reasons, strongest first, and their method.

        The values of features that identify a person are hidden: a stored view may tell a client what it does not know.
        """
        served, hidden = prediction.served, self.contract.pii_features
        contributions, method = row_contributions(self.scorer, served.encode(self.encoder), requested.method)
        values = served.records()
        if hidden:
            values = [
                {name: MASK if name in hidden and value is not None else value for name, value in row.items()}
                for row in values
            ]
        found = strongest_reasons(self.encoder.feature_names, values, contributions, requested.count)
        return [{"reasons": of_row, "reasons_method": method} for of_row in found]

    def _predicted(self, matrix: Features) -> Scores:
        return self._calibrate(self.task.prediction(self.scorer.predict(matrix)))

    def _degraded(
        self, request: ValidRequest, predict_at: npt.NDArray[np.int64], served: ServedFeatures, matrix: Features
    ) -> list[dict[str, Any]] | None:
        """Return what each row lacks, None when no row lacks anything.

        Raises :class:`~ml_platform.serving.request_contract.InvalidRequestError` for a time before the newest facts, if
        the contract refuses it.
        """
        missing, unknown = served.missing(), served.unknown_texts(self.encoder, matrix)
        past = served.as_of_microseconds - predict_at > self.contract.max_past_minutes * MICROSECONDS_PER_MINUTE
        any_past = bool(past.any())
        if missing is None and unknown is None and not any_past and not request.flags:
            return None
        if any_past and self.contract.on_past == "refuse":
            raise self._past_error(int(np.argmax(past)), served)
        rows: list[dict[str, Any]] = []
        for row in range(len(request.rows)):
            marks: dict[str, Any] = dict(missing[row]) if missing is not None else {}
            if unknown is not None and unknown[row]:
                marks["unknown"] = unknown[row]
            if row in request.flags:
                marks["rules"] = list(request.flags[row])
            if past[row]:
                marks["facts_of"] = instant_of(served.as_of_microseconds[row]).isoformat()
            rows.append(marks)
        return rows

    def _past_error(self, row: int, served: ServedFeatures) -> InvalidRequestError:
        prediction_time = self.contract.prediction_time
        name = "" if prediction_time is None else f".{prediction_time.field}"
        expected = (
            f"a prediction at most {self.contract.max_past_minutes} minutes before the newest facts, "
            f"{instant_of(served.as_of_microseconds[row]).isoformat()}"
        )
        hint = "The online store has only the newest facts: score the past in a batch."
        return InvalidRequestError(422, "past", [FieldError(f"rows[{row}]{name}", expected, "an earlier one", hint)])

    def rows_together(self, requests: Sequence[tuple[ValidRequest, datetime]]) -> RowColumns:
        """Return the rows of ``requests`` by column, with the time of each prediction."""
        if len(requests) == 1:
            columns: Mapping[str, Sequence[Any]] = requests[0][0].columns
        else:
            columns = {
                name: [value for request, _ in requests for value in request.columns[name]]
                for name in self.contract.dtypes
            }
        predict_at = [time for request, arrived_at in requests for time in self._prediction_times(request, arrived_at)]
        return RowColumns(columns, self.contract.dtypes, np.array(predict_at, dtype=np.int64))

    def _prediction_times(self, request: ValidRequest, arrived_at: datetime) -> list[int]:
        """Return the prediction times of the rows in microseconds: the rule of PredictionTime.expression()."""
        prediction_time = self.contract.prediction_time
        if prediction_time is None:
            return [microseconds_of(arrived_at)] * len(request.rows)
        minutes_before = timedelta(minutes=prediction_time.minutes_before)
        return [microseconds_of(time - minutes_before) for time in request.columns[prediction_time.field]]

    def _require_consistent_parts(self) -> None:
        missing_fields = [name for name in self.features.fields if name not in self.contract.dtypes]
        missing_features = [name for name in self.encoder.feature_names if name not in self.features.feature_names]
        if missing_fields or missing_features:
            raise ModelUnreadableError(
                f"Model '{self.contract.model}'",
                expected="every request field and feature that the model reads",
                found=f"no field {listed(missing_fields)}"
                if missing_fields
                else f"no feature {listed(missing_features)}",
                fix="Declare it in the model's defs.yaml and materialize the candidate again.",
            )
        types = {field.name: field.type for field in self.contract.fields}
        for key in self.features.key_fields:
            declared = self.features.key_types.get(key, types[key])
            if types[key] != declared:
                raise ModelUnreadableError(
                    f"Model '{self.contract.model}', request field '{key}'",
                    expected=f"the type of the key of its feature views: {declared}",
                    found=types[key],
                    fix="Correct 'request' in the model's defs.yaml and materialize the candidate again.",
                )


def _answers(
    scores: Sequence[float], labels: Sequence[Any], details: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """Return the answer of each row, without what may be wrong with it; ``details`` None: the task has none."""
    answers = [{"score": score, "label": label} for score, label in zip(scores, labels, strict=True)]
    return answers if details is None else [{**one, **more} for one, more in zip(answers, details, strict=True)]


def calibration_function(parameters: Mapping[str, Any]) -> Callable[[Scores], Scores]:
    """Return the function from score to probability of `calibration.json`: identity, isotonic or Platt.

    Several classes have a function each, after which the probabilities are scaled to add up to 1.
    An isotonic calibration interpolates linearly between its knots ``x``, ``y`` and is constant outside them.
    """
    method = parameters["method"]
    if parameters.get("classes"):
        by_class = [calibration_function(each) for each in parameters["classes"]]
        return lambda score: _scaled(np.column_stack([each(score[:, at]) for at, each in enumerate(by_class)]))
    if method == "isotonic":
        x, y = np.asarray(parameters["x"]), np.asarray(parameters["y"])
        return lambda score: np.interp(score, x, y)
    if method == "platt":
        slope, intercept = parameters["slope"], parameters["intercept"]
        return lambda score: _sigmoid(slope * _log_odds_of(score) + intercept)
    return lambda score: score


def half_width_function(parameters: Mapping[str, Any]) -> Callable[[Scores], float | Scores | None]:
    """Return the function from values to the half widths of their intervals of `calibration.json`; None without one.

    A group of alike values has its own half width, and the value of the group's edge belongs to the group above.
    """
    overall, edges = parameters.get("half_width"), np.asarray(parameters.get("edges") or [])
    if not len(edges):
        return lambda value: overall
    widths = np.asarray(parameters["half_widths"])
    return lambda value: widths[np.searchsorted(edges, value, side="right")]


def _scaled(probabilities: Scores) -> Scores:
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


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
