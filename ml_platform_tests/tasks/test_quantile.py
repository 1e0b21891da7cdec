"""The quantile task: its metrics, the seasonal naive baseline, training, and the answers of a service."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from bento.prediction_log import AnsweredRequest, blocks_of, layout_of
from bento.predictor import Predictor
from bento.reasons import RequestedReasons
from ml_platform.data.log_block import pack_block
from ml_platform.evaluation.bootstrap import BootstrapSettings, bootstrap
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gates import BaselineGate, MetricLimitGate
from ml_platform.evaluation.plausibility import PlausibilityGate
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.view import FeatureView
from ml_platform.monitoring.log_lines import parse_lines
from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.request_contract import RequestContract
from ml_platform.tasks.catalog import realised_metrics
from ml_platform.tasks.metrics import Array, EvaluationError
from ml_platform.tasks.own_metric import MeanMetric
from ml_platform.tasks.quantile import QuantileTask
from ml_platform.tasks.seasonal_naive import NAIVE, SEASONAL_NAIVE
from ml_platform.tasks.task import LabelError
from ml_platform.training.candidate import Candidate, fit_candidate
from ml_platform.training.lightgbm_trainer import LightGBMLevels, LightGBMSettings, LightGBMTrainer
from ml_platform.training.model_directory import read_model, write_model
from ml_platform.training.splits import Split
from ml_platform.training.trainer import Matrix, TrainerSettings

COLUMNS = ["level", "spread", "before"]
FEATURES = [f"demand__{name}" for name in COLUMNS]
TASK = QuantileTask(season_feature="demand__before")
LABEL = np.array([10.0, 20.0, 30.0, 40.0])
QUANTILES = np.array([[8.0, 10.0, 12.0], [10.0, 14.0, 18.0], [30.0, 33.0, 35.0], [41.0, 44.0, 50.0]])
CONTEXT = {NAIVE: np.array([12.0, np.nan, 24.0, 40.0])}
VIEW = FeatureView.model_validate(
    {
        "name": "demand",
        "kind": "request",
        "fields": COLUMNS,
        "function": f"{__name__}:demand_features",
        "features": [{"name": name, "description": name, "type": "float32"} for name in COLUMNS],
    }
)
CONTRACT = RequestContract.model_validate(
    {"model": "demand", "fields": [{"name": name, "type": "float"} for name in COLUMNS]}
)
SMALL = {"max_rounds": 60, "num_leaves": 8, "min_data_in_leaf": 20, "num_threads": 1, "feature_fraction": 1.0,
         "learning_rate": 0.1}  # fmt: skip
TRAINERS: dict[str, dict[str, Any]] = {
    "lightgbm": SMALL,
    "torch": {"max_epochs": 12, "width": 32, "blocks": 1, "members": 4, "batch_rows": 128, "learning_rate": 0.01,
              "device": "cpu"},
    "blend": {"members": [{"settings": SMALL, "seeds": 2}]},
}  # fmt: skip


def demand_features(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.col(COLUMNS).cast(pl.Float32))


def demand(rows: int = 1500) -> pl.DataFrame:
    """Return rows whose label is normal around ``level``, with a standard deviation of ``spread``."""
    random = np.random.default_rng(0)
    level, spread = random.uniform(0, 50, rows), random.uniform(1, 10, rows)
    values = {
        "demand__level": level,
        "demand__spread": spread,
        "demand__before": level + random.normal(0, 15, rows),
    }
    label = pl.Series("label", random.normal(level, spread))
    return pl.DataFrame(values).with_columns(pl.all().cast(pl.Float32)).with_columns(label)


def fit(trainer: str, rows: pl.DataFrame) -> Candidate:
    declared = TrainerSettings.model_validate({"trainer": trainer, "settings": TRAINERS[trainer]})
    split = Split(rows[:900], rows[900:1200], rows[1200:], rows[:0], 0, {})
    return fit_candidate(split, FEATURES, declared, task=TASK)


def test_metrics_equal_those_computed_by_hand() -> None:
    found = TASK.score(LABEL, QUANTILES, context=CONTEXT)
    # Losses by level 0.1, 0.5, 0.9 of each row, for example of row 0: 0.1 * 2, 0, 0.1 * 2.
    losses = [0.2 + 0 + 0.2, 1.0 + 3.0 + 0.9 * 2, 0 + 1.5 + 0.1 * 5, 0.9 * 1 + 2.0 + 0.1 * 10]
    assert found == pytest.approx(
        {
            "pinball": sum(losses) / 12,
            "mae": (0 + 6 + 3 + 4) / 4,
            "coverage": 2 / 4,
            # The second row has no naive forecast.
            "mase": (0 + 3 + 4) / (2 + 6 + 0),
        }
    )


def test_mase_is_left_out_without_a_naive_forecast_and_where_it_is_never_wrong() -> None:
    assert "mase" not in TASK.score(LABEL, QUANTILES)
    assert "mase" not in TASK.score(LABEL, QUANTILES, context={NAIVE: LABEL})
    assert "mase" not in QuantileTask().usable_metrics


def test_draws_equal_the_metrics_of_the_drawn_rows() -> None:
    codes, counts = np.array([0, 1, 2, 2]), np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    rows = np.array([0, 0, 2, 3])
    drawn = TASK.resampled(LABEL, QUANTILES, codes, counts, TASK.metrics, context=CONTEXT)
    expected = TASK.score(LABEL[rows], QUANTILES[rows], context={NAIVE: CONTEXT[NAIVE][rows]})
    assert {name: value[0] for name, value in drawn.items()} == pytest.approx(expected)
    assert np.isnan(drawn["mase"][1])


def test_crossing_quantiles_are_sorted() -> None:
    crossed = np.array([[3.0, 2.0, 5.0], [1.0, 9.0, 4.0]])
    assert TASK.prediction(crossed).tolist() == [[2.0, 3.0, 5.0], [1.0, 4.0, 9.0]]


def test_seasonal_naive_baseline_adds_the_quantiles_of_its_known_errors() -> None:
    label, known = np.array([11.0, 12.0, 13.0, 99.0]), {NAIVE: np.array([10.0, 10.0, 10.0, np.nan])}
    found = TASK.baselines(label, known, {NAIVE: np.array([50.0, np.nan])})[SEASONAL_NAIVE]
    # The errors are 1, 2 and 3, with the quantiles 1.2, 2 and 2.8.
    assert found[0] == pytest.approx([51.2, 52.0, 52.8])
    assert found[1] == pytest.approx(np.quantile(label, [0.1, 0.5, 0.9]))


def test_naive_forecast_is_read_from_the_declared_feature_with_nan_where_none_is_known() -> None:
    rows = pl.DataFrame({"demand__before": [1.5, None, float("inf")]})
    assert TASK.context(rows)[NAIVE].tolist() == pytest.approx([1.5, np.nan, np.nan], nan_ok=True)


def test_quantiles_of_a_version_with_other_levels_are_interpolated() -> None:
    older = QuantileTask(levels=[0.25, 0.5, 0.75])
    assert TASK.aligned(np.array([[10.0, 20.0, 40.0]]), older).tolist() == [[10.0, 20.0, 40.0]]
    five = QuantileTask(levels=[0.25, 0.375, 0.5])
    assert five.aligned(np.array([[10.0, 20.0, 40.0]]), older).tolist() == [[10.0, 15.0, 20.0]]


@pytest.mark.parametrize("levels", [[0.1, 0.9], [0.9, 0.5], [0.5], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0]])
def test_levels_that_no_forecast_can_have_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValidationError, match=r"levels"):
        QuantileTask(levels=levels)


def test_label_that_is_not_a_number_and_a_prediction_of_other_levels_are_refused() -> None:
    with pytest.raises(LabelError, match="expected labels that are numbers"):
        TASK.encode(pl.Series(["a"]), "Training set")
    with pytest.raises(EvaluationError, match=r"shape \(4, 3\), found shape \(4, 2\)"):
        TASK.score(LABEL, QUANTILES[:, :2])


def test_evidence_keeps_levels_and_naive_forecast_in_its_table_and_gates_read_them() -> None:
    random = np.random.default_rng(1)
    label = random.normal(50, 10, 400)
    naive = label + random.normal(0, 10, 400)
    good = label[:, np.newaxis] + random.normal(0, 3, (400, 1)) + np.array([-5.0, 0.0, 5.0])
    base = TASK.baseline(label, 400)
    settings = BootstrapSettings(resamples=100)
    evidence = Evidence(
        label, {"candidate": good, "base_rate": base}, np.arange(400) % 20, task=TASK, context={NAIVE: naive}
    )
    again = Evidence.from_table(evidence.to_table(), task=TASK, settings=settings)
    assert again.context[NAIVE].tolist() == naive.tolist()
    assert again.slices is None
    assert again.digest() != Evidence(label, evidence.predictions, evidence.block, task=TASK).digest()
    assert BaselineGate(metric="pinball").evaluate(again).passed
    assert MetricLimitGate(metric="mase", limit=0.6).evaluate(again).passed
    assert PlausibilityGate().evaluate(again).numbers["value"] == pytest.approx(0.91, abs=0.03)
    points = bootstrap(label, {"candidate": good}, evidence.block, settings, task=TASK, context={NAIVE: naive}).points
    assert points["candidate"] == pytest.approx(TASK.score(label, good, context={NAIVE: naive}))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_quantiles_are_learned_stored_and_served_as_in_training(trainer: str, tmp_path: Path) -> None:
    rows = demand()
    candidate = fit(trainer, rows)
    test = rows[1200:]
    predicted, label = candidate.predict(test), test["label"].to_numpy()
    assert predicted.shape == (300, 3)
    assert (np.diff(predicted, axis=1) >= 0).all()
    found = TASK.score(label, predicted, context=TASK.context(test))
    # The quantiles of the true distribution cover 80 %, and the naive forecast errs three times as much.
    assert 0.7 < found["coverage"] < 0.9
    assert found["mase"] < 0.5
    width = predicted[:, 2] - predicted[:, 0]
    assert np.corrcoef(width, test["demand__spread"].to_numpy())[0, 1] > 0.7
    directory = tmp_path / "model"
    write_model(
        directory,
        candidate,
        name="demand",
        target="demand",
        threshold=None,
        features=FeatureSet([VIEW.pinned()]).to_dict(),
        contract=CONTRACT.model_dump(mode="json"),
    )
    stored = read_model(directory)
    assert stored.task == TASK
    assert np.abs(stored.predict(test) - predicted).max() < 1e-12
    predictor = Predictor(directory, SnapshotStore(tmp_path / "online"))
    requested = test.head(40)
    body = json.dumps({"rows": requested.select(pl.col(FEATURES).name.map(_field)).to_dicts()}).encode()
    request = CONTRACT.validate(body)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    prediction = predictor.predict(request, now)
    assert prediction.details is not None
    served = np.array([list(each["quantiles"].values()) for each in prediction.details])
    assert np.abs(served - predicted[:40]).max() < 1e-10
    assert np.abs(np.array(prediction.scores) - predicted[:40, 1]).max() < 1e-10
    assert prediction.labels == [None] * 40
    assert np.abs(stored.answer_numbers(requested)[:, 1:] - served).max() < 1e-10
    reasons = [row["reasons"] for row in predictor.strongest_reasons(prediction, RequestedReasons(1, "full"))]
    assert [row[0]["feature"] for row in reasons].count("demand__level") > 30
    (by_path, *_) = predictor.strongest_reasons(prediction, RequestedReasons(1, "path"))
    assert (by_path["reasons"][0]["feature"], by_path["reasons_method"]) == (
        "demand__level",
        "full" if trainer == "torch" else "path",
    )
    assert candidate.explain(requested, 1)[0][0].contribution == pytest.approx(reasons[0][0]["contribution"])
    answer = openapi_document(CONTRACT, "1", predictor.task)["components"]["schemas"]["Prediction"]["properties"]
    assert list(answer["quantiles"]["properties"]) == ["0.1", "0.5", "0.9"]
    answered = AnsweredRequest("0" * 32, "r", "stable", now, request.rows, prediction)
    layout = layout_of("demand", "1", prediction.served.columns, "writer").to_line()
    logged = parse_lines(b"".join(map(pack_block, blocks_of([answered]))), 0, layout).predictions
    outcomes = logged.select("score", "details", requested["label"].alias("outcome"))
    realised = realised_metrics(TASK, outcomes, own={"width": Width()})
    expected = (
        TASK.score(label[:40], served) | TASK.summary(label[:40]) | {"width": float(np.ptp(served, axis=1).mean())}
    )
    assert realised == pytest.approx(expected)


class Width(MeanMetric):
    """Mean distance of the lowest and the highest quantile."""

    higher_is_better = False

    def row_values(self, label: Array, prediction: Array) -> Array:
        assert prediction.shape == (len(label), len(TASK.levels))
        return prediction[:, -1] - prediction[:, 0]


def _field(feature: str) -> str:
    return feature.removeprefix("demand__")


def test_levels_are_refitted_with_their_own_rounds_and_resume_from_their_checkpoints(tmp_path: Path) -> None:
    rows = demand(900)
    matrix = Matrix(rows.select(FEATURES).to_numpy(), rows["label"].to_numpy(), FEATURES)
    trainer = LightGBMTrainer(LightGBMSettings.model_validate(SMALL | {"max_rounds": 20}), task=TASK, seed=3)
    tuned = trainer.fit(matrix.part(0, 600), matrix.part(600, 900), checkpoint=tmp_path)
    assert isinstance(tuned, LightGBMLevels)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["level_0.1", "level_0.5", "level_0.9"]
    again = trainer.fit(matrix.part(0, 600), matrix.part(600, 900), checkpoint=tmp_path)
    assert again.notes.count("Resumed from the checkpoint after round 20.") == 3
    assert again.predict(matrix.features).tolist() == tuned.predict(matrix.features).tolist()
    losses = [loss for _, loss in tuned.history]
    assert losses == sorted(losses, reverse=True)
    grown = trainer.refit(tuned, matrix, 1.5)
    assert isinstance(grown, LightGBMLevels)
    assert [each.rounds for each in grown.members] == [round(each.rounds * 1.5) for each in tuned.members]
