"""The multiclass task on the wines of scikit-learn: labels, metrics, training, and the answers of a service."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import datasets
from sklearn import metrics as oracle
from sklearn.preprocessing import label_binarize

from bento.prediction_log import AnsweredRequest, blocks_of, layout_of
from bento.predictor import Predictor
from bento.reasons import RequestedReasons
from ml_platform.data.log_block import pack_block
from ml_platform.evaluation.bootstrap import BootstrapSettings, bootstrap
from ml_platform.evaluation.evidence import Evidence
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.monitoring.log_lines import parse_lines
from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.request_contract import RequestContract
from ml_platform.tasks.catalog import realised_metrics
from ml_platform.tasks.metrics import Array, EvaluationError
from ml_platform.tasks.multiclass import MulticlassTask
from ml_platform.tasks.own_metric import MeanMetric, OwnMetrics, own_scores
from ml_platform.tasks.task import LabelError
from ml_platform.training.candidate import Candidate, fit_candidate
from ml_platform.training.model_directory import read_model, write_model
from ml_platform.training.splits import Split
from ml_platform.training.trainer import TrainerSettings

NAMES = ["barolo", "grignolino", "barbera"]
COLUMNS = ["alcohol", "malic_acid", "flavanoids", "color_intensity", "hue", "proline"]
FEATURES = [f"wine__{name}" for name in COLUMNS]
TASK = MulticlassTask(classes=["a", "b", "c"])
VIEW = FeatureView.model_validate(
    {
        "name": "wine",
        "kind": "request",
        "fields": COLUMNS,
        "function": f"{__name__}:wine_features",
        "features": [{"name": name, "description": name, "type": "float32"} for name in COLUMNS],
    }
)
CONTRACT = RequestContract.model_validate(
    {"model": "wine", "fields": [{"name": name, "type": "float"} for name in COLUMNS]}
)
TRAINERS: dict[str, dict[str, Any]] = {
    "lightgbm": {"max_rounds": 40, "num_leaves": 4, "min_data_in_leaf": 5, "num_threads": 1, "feature_fraction": 1.0},
    "torch": {"max_epochs": 60, "width": 32, "blocks": 1, "members": 4, "batch_rows": 32, "learning_rate": 0.01,
              "device": "cpu"},
}  # fmt: skip


def wine_features(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col(COLUMNS).cast(pl.Float32))


def wines() -> pl.DataFrame:
    bunch = datasets.load_wine()
    data = pl.DataFrame(bunch.data, schema=list(bunch.feature_names))
    order = np.random.default_rng(0).permutation(data.height)
    label = pl.Series("label", [NAMES[code] for code in bunch.target])
    return data.select(COLUMNS).with_columns(pl.col(COLUMNS).name.prefix("wine__"), label)[order]


def split(rows: pl.DataFrame) -> Split:
    return Split(rows[:100], rows[100:140], rows[140:], rows[:0], 0, {})


def fit(trainer: str, rows: pl.DataFrame, **changes: Any) -> Candidate:
    declared = TrainerSettings.model_validate({"trainer": trainer, "settings": TRAINERS[trainer], **changes})
    return fit_candidate(split(rows), FEATURES, declared, task="multiclass")


def random_predictions(rows: int = 400, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, rows).astype(float)
    raw = random.gamma(1.0, size=(rows, 3)) + np.eye(3)[label.astype(int)]
    return label, raw / raw.sum(axis=1, keepdims=True)


def test_metrics_equal_those_of_scikit_learn() -> None:
    label, shares = random_predictions()
    found, answer = TASK.score(label, shares), shares.argmax(axis=1)
    assert found["log_loss"] == pytest.approx(oracle.log_loss(label, shares))
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(label, answer))
    assert found["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(label, answer))
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(label, answer, average="macro"))
    assert found["top_2_accuracy"] == pytest.approx(oracle.top_k_accuracy_score(label, shares, k=2))
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(label, shares, multi_class="ovr"))
    one_hot = label_binarize(label, classes=[0, 1, 2])
    assert found["brier"] == pytest.approx(np.square(one_hot - shares).sum(axis=1).mean())
    assert list(TASK.recalls(label, shares).values()) == pytest.approx(
        oracle.recall_score(label, answer, average=None).tolist()
    )
    assert TASK.confusion(label, shares).tolist() == oracle.confusion_matrix(label, answer).tolist()


def test_resample_of_every_block_once_has_the_metrics_of_the_rows() -> None:
    label, shares = random_predictions()
    resampled = bootstrap(
        label, {"candidate": shares}, np.arange(400) % 20, BootstrapSettings(resamples=100), task=TASK
    )
    assert resampled.points["candidate"] == pytest.approx(TASK.score(label, shares))
    assert list(resampled.points["candidate"]) == list(TASK.metrics)


def test_draws_equal_the_metrics_of_the_drawn_rows() -> None:
    label, shares = random_predictions(60)
    codes, counts = np.arange(60) % 3, np.array([[2.0, 0.0, 1.0]])
    rows = np.concatenate([np.flatnonzero(codes == 0), np.flatnonzero(codes == 0), np.flatnonzero(codes == 2)])
    drawn = TASK.resampled(label, shares, codes, counts, TASK.metrics)
    assert {name: value[0] for name, value in drawn.items()} == pytest.approx(TASK.score(label[rows], shares[rows]))


def test_evidence_keeps_the_names_of_the_classes_in_its_table() -> None:
    label, shares = random_predictions()
    evidence = Evidence(label, {"candidate": shares, "champion": shares[:, ::-1]}, np.arange(400) % 20, task=TASK)
    again = Evidence.from_table(evidence.to_table(), task="multiclass", settings=BootstrapSettings())
    assert again.task == TASK
    assert again.predictions["champion"].tolist() == shares[:, ::-1].tolist()


def test_predictions_of_a_version_with_other_classes_are_aligned_by_name() -> None:
    older = MulticlassTask(classes=["b", "a", "x"])
    assert TASK.aligned(np.array([[0.2, 0.7, 0.1]]), older).tolist() == [[0.7, 0.2, 0.0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a", "b", "b", "c"], r"at least 2 classes with 2 rows each, found one row of 'c'"),
        (["a", "a"], "found only 'a'"),
        ([0.5, 1.5, 0.5], "expected classes as text or integers, found Float64 values"),
    ],
)
def test_labels_that_no_model_can_learn_are_refused_by_name(labels: list[Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        MulticlassTask().fitted_to(pl.Series(labels), "Training set")


def test_declared_class_without_rows_and_a_class_that_is_not_declared_are_refused() -> None:
    with pytest.raises(LabelError, match="found none of 'c'"):
        TASK.fitted_to(pl.Series(["a", "b", "a", "b"]), "Training set")
    with pytest.raises(LabelError, match="found also 'd'"):
        TASK.fitted_to(pl.Series(["a", "b", "c", "d"] * 2), "Training set")


def test_class_that_training_did_not_see_and_one_that_vanished_are_refused_before_the_fit() -> None:
    rows = wines()
    other = rows.with_columns(
        pl.when(pl.int_range(pl.len()) == 150).then(pl.lit("riesling")).otherwise("label").alias("label")
    )
    with pytest.raises(LabelError, match=r"test part: expected classes of the training rows.*1 of 38 .*'riesling'"):
        fit("lightgbm", other)
    vanished = pl.concat([rows[:140], rows[140:].filter(pl.col("label") != "barolo")])
    with pytest.raises(LabelError, match=r"expected rows of every class for the evaluation.*found none of 'barolo'"):
        fit("lightgbm", vanished)


def test_metric_without_rows_of_a_class_names_it() -> None:
    with pytest.raises(EvaluationError, match="none of 'c' among 2 rows"):
        TASK.score([0, 1], np.full((2, 3), 1 / 3))


def test_realised_metrics_count_an_unknown_class_as_wrong() -> None:
    details = [json.dumps({"label": "a", "probabilities": {"a": 0.8, "b": 0.2}})] * 3
    outcomes = pl.DataFrame({"outcome": ["a", "b", "new"], "score": [0.8] * 3, "details": details})
    found = MulticlassTask().realised_metrics(outcomes)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["top_2_accuracy"] == pytest.approx(2 / 3)
    assert found["share_new"] == pytest.approx(1 / 3)


class Cost(MeanMetric):
    """The cost of an answer: 5 for a row of the first class that is answered as another, else 1 for a wrong answer."""

    higher_is_better = False

    def row_values(self, label: Array, prediction: Array) -> Array:
        return (prediction.argmax(axis=1) != label) * np.where(label == 0, 5.0, 1.0)


def test_own_metric_gets_the_classes_of_the_outcomes_in_the_order_of_the_version() -> None:
    answers = [{"2": 0.7, "10": 0.3}, {"2": 0.4, "10": 0.6}, {"2": 0.4, "10": 0.6}, {"2": 0.9, "10": 0.1}]
    details = [json.dumps({"label": "2", "probabilities": each}) for each in answers]
    outcomes = pl.DataFrame({"outcome": ["2", "2", "10", "11"], "score": [0.7, 0.6, 0.6, 0.9], "details": details})
    found = realised_metrics(MulticlassTask(), outcomes, own={"cost": Cost()})
    assert found["cost"] == pytest.approx(5 / 3)  # the row of class 11, which the version does not know, is left out
    assert found["accuracy"] == pytest.approx(2 / 4)
    unknown = realised_metrics(MulticlassTask(), outcomes.tail(1), own={"cost": Cost()})
    assert ("cost" in unknown, unknown["accuracy"]) == (False, 0.0)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("calibration", ["none", "platt"])
def test_wine_is_learned_stored_and_served_with_the_probabilities_of_training(
    trainer: str, calibration: str, tmp_path: Path
) -> None:
    rows = wines()
    candidate = fit(trainer, rows, calibration=calibration)
    test = rows[140:]
    predicted = candidate.predict(test)
    assert candidate.task == MulticlassTask(classes=sorted(NAMES))
    assert predicted.shape == (38, 3)
    assert predicted.sum(axis=1) == pytest.approx(np.ones(38))
    assert candidate.task.score(candidate.task.encode(test["label"], "test"), predicted)["accuracy"] > 0.85
    directory = tmp_path / "model"
    write_model(
        directory,
        candidate,
        name="wine",
        target="cultivar",
        threshold=None,
        features=FeatureSet([VIEW.pinned()]).to_dict(),
        contract=CONTRACT.model_dump(mode="json"),
    )
    stored = read_model(directory)
    assert np.abs(stored.predict(test) - predicted).max() < 1e-12
    predictor = Predictor(directory, SnapshotStore(tmp_path / "online"))
    body = json.dumps({"rows": test.select(COLUMNS).to_dicts()}).encode()
    request = CONTRACT.validate(body)
    prediction = predictor.predict(request, datetime(2026, 1, 1, tzinfo=UTC))
    assert prediction.details is not None
    served = [list(each["probabilities"].values()) for each in prediction.details]
    assert np.abs(np.array(served) - predicted).max() < 1e-12
    numbers = stored.answer_numbers(test)
    assert numbers.shape == (38, 4)
    assert np.abs(numbers[:, 0] - prediction.scores).max() < 1e-12
    assert prediction.labels == [sorted(NAMES)[code] for code in predicted.argmax(axis=1)]
    reasons = predictor.strongest_reasons(prediction, RequestedReasons(2))
    assert all(each["feature"] in FEATURES for row in reasons for each in row["reasons"])
    document = openapi_document(CONTRACT, "1", predictor.task)
    answer = document["components"]["schemas"]["Prediction"]["properties"]
    assert answer["label"]["enum"] == sorted(NAMES)
    assert set(answer["probabilities"]["properties"]) == set(NAMES)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    answered = AnsweredRequest("0" * 32, "r", "stable", now, request.rows, prediction)
    layout = layout_of("wine", "1", prediction.served.columns, "writer").to_line()
    logged = parse_lines(b"".join(map(pack_block, blocks_of([answered]))), 0, layout).predictions
    assert logged.height == 38
    assert json.loads(logged["details"][0]) == {"label": prediction.labels[0], **prediction.details[0]}
    outcomes = logged.select("score", "details", test["label"].alias("outcome"))
    own: OwnMetrics = {"cost": Cost()}
    realised = realised_metrics(predictor.task, outcomes, own)
    label = candidate.task.encode(test["label"], "test")
    scored = candidate.task.score(label, predicted) | own_scores(own, label, predicted)
    assert {name: realised[name] for name in scored} == pytest.approx(scored)


def test_integer_classes_are_answered_as_integers() -> None:
    task = MulticlassTask().fitted_to(pl.Series([3, 1, 2] * 2), "Training set")
    assert task.encode(pl.Series([1, 3]), "test").tolist() == [0.0, 2.0]
    assert task.labels(np.array([[0.1, 0.2, 0.7]]), None) == [3]
