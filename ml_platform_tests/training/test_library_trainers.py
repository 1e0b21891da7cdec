"""Estimators of scikit-learn, XGBoost and CatBoost: every task, equal scores in serving, and refusals before a fit."""

import importlib.util
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bento.scorer import ModelUnreadableError, load_scorer
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.metrics import score
from ml_platform.tasks.task import Task
from ml_platform.training.explain import contributions_by_ablation
from ml_platform.training.trainer import (
    FittedModel,
    Matrix,
    TrainerSettings,
    TrainingError,
    libraries_of,
    make_trainer,
    refit,
    require_task,
    trainer_class,
    unlocked_packages,
)
from ml_platform.training.tuning import tune


def needs(library: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed: run make boosting")


BOOSTERS = {"max_rounds": 60, "patience": 15, "num_threads": 1, "learning_rate": 0.2}
LINEAR = {"estimator": "sklearn.linear_model:LogisticRegression", "num_threads": 1}
FOREST = {
    "estimator": "sklearn.ensemble:RandomForestRegressor",
    "settings": {"n_estimators": 20, "min_samples_leaf": 5},
}
TREES = {
    "estimator": "sklearn.ensemble:HistGradientBoostingClassifier",
    "settings": {"max_iter": 20, "max_leaf_nodes": 7},
    "prepare": "none",
    "num_threads": 1,
}
CLASSES = {"type": "multiclass", "classes": ["a", "b", "c"]}

FITS = [
    pytest.param("sklearn", LINEAR, "binary", id="linear"),
    pytest.param("sklearn", TREES, CLASSES, id="trees of three classes"),
    pytest.param("sklearn", FOREST, "regression", id="forest"),
    *(
        pytest.param(trainer, BOOSTERS, task, id=f"{trainer} {name}", marks=needs(trainer))
        for trainer in ("xgboost", "catboost")
        for name, task in (("binary", "binary"), ("multiclass", CLASSES), ("regression", "regression"))
    ),
]


def labelled(matrix: Matrix, task: Task) -> Matrix:
    """Return the rows with the labels of ``task``: the same rule for each kind."""
    signal = np.nan_to_num(matrix.features[:, 0]) + 0.5 * (matrix.features[:, 2] % 3)
    label = {"binary": matrix.label, "multiclass": np.digitize(signal, [0.0, 1.0]), "regression": signal}[task.name]
    return Matrix(matrix.features, np.asarray(label, dtype=np.float64), matrix.names, matrix.categories)


def fitted(matrix: Matrix, trainer: str, settings: dict[str, Any], task: Task) -> FittedModel:
    rows = labelled(matrix, task)
    declared = TrainerSettings(trainer=trainer, settings=settings)
    return make_trainer(declared, task).fit(rows.part(0, 900), rows.part(900, 1200))


@pytest.mark.parametrize(("trainer", "settings", "declared"), FITS)
def test_model_learns_the_rule_and_scores_the_same_bits_when_it_is_served(
    matrix: Matrix, tmp_path: Path, trainer: str, settings: dict[str, Any], declared: Any
) -> None:
    task = as_task(declared)
    model, unseen = fitted(matrix, trainer, settings, task), labelled(matrix, task).part(900, 1200)
    predicted = model.predict(unseen.features)
    assert predicted.shape == (300, task.outputs)
    constant = np.tile(np.atleast_2d(task.baseline(unseen.label, 300)), (1, 1)).reshape(300, -1)
    assert task.losses(unseen.label, predicted).mean() < 0.7 * task.losses(unseen.label, constant).mean()
    assert next(iter(model.importance())) == "strong"
    assert sum(model.importance().values()) == pytest.approx(1)

    model.save(tmp_path)
    served = load_scorer({"trainer": trainer}, tmp_path)
    loaded = trainer_class(trainer).load(tmp_path)
    assert np.array_equal(served.predict(unseen.features), predicted)
    assert np.array_equal(loaded.predict(unseen.features), predicted)
    assert np.array_equal(served.contributions(unseen.features), model.explain(unseen.features))
    assert loaded.importance() == pytest.approx(model.importance())
    assert (loaded.rounds, served.predict(unseen.features[:1]).shape) == (model.rounds, (1, task.outputs))
    # No file is a pickle: neither as a whole, nor inside of an archive.
    for file in tmp_path.iterdir():
        members = zipfile.ZipFile(file) if zipfile.is_zipfile(file) else None
        for content in [members.read(name) for name in members.namelist()] if members else [file.read_bytes()]:
            with pytest.raises(
                (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, UnicodeDecodeError)
            ):
                pickle.loads(content)

    again = fitted(matrix, trainer, settings, task)
    assert np.array_equal(again.predict(unseen.features), predicted)
    whole = refit(make_trainer(TrainerSettings(trainer=trainer, settings=settings), task), model, unseen, 1.0)
    assert whole.predict(unseen.features).shape == predicted.shape


@pytest.mark.parametrize("trainer", [pytest.param(each, marks=needs(each)) for each in ("xgboost", "catboost")])
def test_contributions_add_up_to_the_log_odds_of_the_score(matrix: Matrix, trainer: str) -> None:
    model, rows = fitted(matrix, trainer, BOOSTERS, as_task("binary")), matrix.features[900:]
    odds = np.log(model.predict(rows)[:, 0] / (1 - model.predict(rows)[:, 0]))
    constant = odds - model.explain(rows).sum(axis=1)
    assert constant == pytest.approx(np.full(len(rows), constant[0]), abs=1e-3)
    assert np.abs(model.explain(rows)[:, 0]).mean() > 5 * np.abs(model.explain(rows)[:, 1]).mean()


def test_contributions_of_an_estimator_are_those_of_ablation_by_the_typical_row(matrix: Matrix) -> None:
    model, rows = fitted(matrix, "sklearn", LINEAR, as_task("binary")), matrix.features[900:920]
    typical = model.description["typical"]  # type: ignore[attr-defined]
    background = np.array([[np.nan if each is None else each for each in typical]], dtype=np.float32)
    twin = contributions_by_ablation(model.predict, rows, background, task=as_task("binary"))
    assert model.explain(rows) == pytest.approx(twin)
    assert typical[0] == pytest.approx(np.nanmean(matrix.features[:900, 0].astype(float)))
    assert typical[3] is None
    codes, counts = np.unique(matrix.features[:900, 2], return_counts=True)
    assert typical[2] == codes[counts.argmax()]


def test_file_with_other_types_than_recorded_is_not_read(matrix: Matrix, tmp_path: Path) -> None:
    fitted(matrix, "sklearn", {**TREES}, as_task("binary")).save(tmp_path)
    path = tmp_path / "estimator.json"
    recorded = json.loads(path.read_text())
    assert all(name.startswith("sklearn.") for name in recorded["types"])
    assert recorded["types"]  # an empty list would pass
    path.write_text(json.dumps({**recorded, "types": recorded["types"][1:]}))
    with pytest.raises(ModelUnreadableError, match=recorded["types"][0]):
        load_scorer({"trainer": "sklearn"}, tmp_path)


def test_types_of_other_packages_are_saved_only_when_they_are_trusted(matrix: Matrix, tmp_path: Path) -> None:
    model = fitted(matrix, "sklearn", LINEAR, as_task("binary"))
    model.estimator.steps[-1][1].note = OtherPackage()  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=f"types of 'sklearn', or types under 'trusted', found '{__name__}.Other"):
        model.save(tmp_path)
    model.description["trusted"] = [f"{__name__}.OtherPackage"]  # type: ignore[attr-defined]
    model.save(tmp_path)
    assert load_scorer({"trainer": "sklearn"}, tmp_path).predict(matrix.features[:2]).shape == (2, 1)


class OtherPackage:
    """A value that scikit-learn does not know."""


@pytest.mark.parametrize(
    ("settings", "task", "message"),
    [
        (LINEAR, "regression", "a regressor for task regression, found another kind"),
        (FOREST, "binary", "a classifier with predict_proba for task binary"),
        ({"estimator": "sklearn.svm:LinearSVC"}, "binary", "a classifier with predict_proba"),
        ({**LINEAR, "settings": {"CC": 1}}, "binary", r"found 'CC'. Correct the name. Did you mean 'C'\?"),
        ({"estimator": "sklearn.linear_model:LogisticRegresion"}, "binary", "Did you mean 'LogisticRegression'"),
        ({"estimator": "math:sqrt"}, "binary", "a subclass of sklearn.base.BaseEstimator"),
    ],
)
def test_estimator_that_cannot_fit_is_refused_before_the_fit(settings: dict[str, Any], task: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        require_task(TrainerSettings(trainer="sklearn", settings=settings), as_task(task))


def test_libraries_of_optional_trainers_are_known_without_them() -> None:
    own = {"estimator": "other_library.linear:Model"}
    members = {"members": [{"trainer": "xgboost"}, {"trainer": "sklearn", "settings": own}]}
    blend = TrainerSettings(trainer="blend", settings=members)
    assert libraries_of(blend) == ["other_library", "xgboost"]
    assert libraries_of(TrainerSettings(trainer="sklearn", settings=LINEAR)) == []
    assert unlocked_packages(TrainerSettings(trainer="catboost")) == ["catboost"]
    assert unlocked_packages(blend) == ["xgboost", "xgboost-cpu"]


@needs("xgboost")
@needs("catboost")
def test_search_prunes_and_finds_settings(matrix: Matrix) -> None:
    for trainer in ("xgboost", "catboost", "sklearn"):
        space: dict[str, Any] = {"learning_rate": {"kind": "float", "low": 0.01, "high": 0.5}}
        settings: dict[str, Any] = BOOSTERS
        if trainer == "sklearn":
            settings, space = LINEAR, {"max_categories": {"kind": "int", "low": 2, "high": 9}}
        declared = TrainerSettings.model_validate(
            {"trainer": trainer, "settings": settings, "tuning": {"space": space, "trials": 3}}
        )
        found = tune(matrix.part(0, 900), matrix.part(900, 1200), declared, "binary")
        assert len(found.trials) == 3
        assert found.best_loss < 0.5


def test_probability_of_a_class_that_a_sample_lacks_is_zero(matrix: Matrix) -> None:
    task = as_task(CLASSES)
    rows = labelled(matrix, task)
    chosen = np.flatnonzero(rows.label != 1)
    sample = Matrix(rows.features[chosen], rows.label[chosen], rows.names, rows.categories)
    model = make_trainer(TrainerSettings(trainer="sklearn", settings=TREES), task).fit(sample)
    predicted = model.predict(rows.features)
    assert (predicted.shape, float(predicted[:, 1].max())) == ((1200, 3), 0.0)
    assert score((rows.label == 2).astype(float), predicted[:, 2])["auc"] > 0.8
