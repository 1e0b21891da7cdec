"""Fitted views on real text: docstrings of two installed packages, from examples to the answers of a service.

The label says whether a docstring is one of NumPy or one of Polars.
"""

import json
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from bento.predictor import Predictor
from bento.reasons import RequestedReasons
from ml_platform.data.digest import content_hash
from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import fit_transformers, load_transformers, make_transformer, save_transformers
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.snapshot_store import SnapshotStore
from ml_platform.features.transformers.transformer import TransformerError
from ml_platform.features.view import INSTANT, FeatureView, ViewError
from ml_platform.monitoring.drift import DriftSettings, measure_drift
from ml_platform.serving.bento_sources import find_sources, request_view_modules
from ml_platform.serving.request_contract import RequestContract
from ml_platform.steps.monitoring import with_fitted_columns
from ml_platform.training.candidate import Candidate, fit_candidate
from ml_platform.training.model_directory import read_model, write_model
from ml_platform.training.splits import Split, TimeSplit, split_by_time
from ml_platform.training.trainer import TrainerSettings
from ml_platform.training.training_set import assemble_training_set

PARTITIONS = PartitionScheme(start="2026-01")
FAST = {"max_rounds": 15, "patience": 5, "num_leaves": 4, "min_data_in_leaf": 10, "num_threads": 1}
CONTRACT = RequestContract.model_validate(
    {
        "model": "docs",
        "fields": [
            {"name": "at", "type": "datetime"},
            {"name": "text", "type": "string", "nullable": True},
            {"name": "letters", "type": "vector", "size": 26, "nullable": True},
        ],
        "prediction_time": {"field": "at"},
    }
)


def length(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the number of characters: a feature beside those of the fitted views, and a hidden one that they read."""
    return rows.select(
        characters=pl.col("text").str.len_chars().cast(pl.Float32), root=pl.col("text").str.len_chars().sqrt()
    )


def declared(name: str, features: list[dict[str, Any]], **attributes: Any) -> FeatureView:
    described = [{"description": "…", **feature} for feature in features]
    return FeatureView.model_validate(
        {"name": name, "kind": "request", "features": described, "code_version": "1", **attributes}
    )


LENGTH = declared(
    "length",
    [{"name": "characters"}, {"name": "root", "type": "float64", "hidden": True}],
    function=f"{__name__}:length",
    fields=["text"],
)
TERMS = declared("terms", [{"name": "term", "type": "vector", "size": 48}], fitted="text", fields=["text"])
LETTERS = declared(
    "letters",
    [{"name": "part", "type": "vector", "size": 3}],
    fitted="pca",
    fields=["letters"],
    inputs=["length"],
    parameters={"columns": ["letters", "length__root"]},
)
FEATURES = FeatureSet([LENGTH, TERMS, LETTERS])


def docstrings() -> Iterator[tuple[str, int]]:
    """Yield texts of the two packages in turn, so that each month has both."""
    numpy_texts = [getattr(np, name).__doc__ for name in sorted(np.__all__)]
    polars_texts = [getattr(pl.Expr, name).__doc__ for name in dir(pl.Expr)]
    for pair in zip(numpy_texts, polars_texts, strict=False):
        for label, text in zip((1, 0), pair, strict=True):
            if text and len(text) > 60:
                yield text.replace("numpy", "").replace("polars", "")[:400], label


def frequencies(text: str) -> list[float]:
    return [text.lower().count(letter) / len(text) for letter in string.ascii_lowercase]


def examples() -> pl.LazyFrame:
    found = list(docstrings())[:240]
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=9 * place) for place in range(len(found))]
    return pl.LazyFrame(
        {
            "example_id": [str(place) for place in range(len(found))],
            "at": pl.Series(times, dtype=INSTANT),
            "text": [text for text, _ in found],
            "letters": pl.Series([frequencies(text) for text, _ in found], dtype=pl.List(pl.Float64)),
            "label": [label for _, label in found],
            "label_known_at": pl.Series([time + timedelta(hours=1) for time in times], dtype=INSTANT),
        }
    )


def training_set(features: FeatureSet = FEATURES) -> pl.DataFrame:
    prediction_time = PredictionTime(field="at")
    return assemble_training_set(
        examples(), features, {}, CONTRACT.dtypes, prediction_time, model="docs", partition="2026-03"
    )


@pytest.fixture(scope="module")
def split() -> Split:
    return split_by_time(training_set(), "2026-03", PARTITIONS, TimeSplit(minimum_rows=50), model="docs")


@pytest.fixture(scope="module")
def candidate(split: Split) -> Candidate:
    return fit(split)


def fit(split: Split, **changes: Any) -> Candidate:
    settings = TrainerSettings.model_validate({"settings": FAST, **changes})
    return fit_candidate(split, FEATURES.feature_names, settings, task="binary", feature_set=FEATURES)


@pytest.fixture(scope="module")
def directory(candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    write_model(
        folder,
        candidate,
        name="docs",
        target="numpy",
        threshold=0.5,
        features=FEATURES.to_dict(),
        contract=CONTRACT.model_dump(mode="json"),
    )
    return folder


def body(rows: pl.DataFrame) -> bytes:
    requests = rows.select("at", "text", "letters").with_columns(at=pl.col("at").dt.to_string("iso:strict")).to_dicts()
    return json.dumps({"rows": requests}).encode()


def test_training_set_has_the_fields_and_inputs_of_fitted_views_and_not_their_values() -> None:
    frame = training_set()

    assert frame.columns == [
        "example_id",
        "predict_at",
        "label",
        "label_known_at",
        "at",
        "text",
        "letters",
        "length__characters",
        "length__root",
    ]
    assert FEATURES.feature_names == ["length__characters"]
    assert FEATURES.prediction_columns == ["length__characters", "length__root", "text", "letters"]
    assert content_hash(frame) == content_hash(training_set())


def test_stored_model_and_service_give_the_numbers_of_the_candidate(
    candidate: Candidate, directory: Path, split: Split, tmp_path: Path
) -> None:
    trained, stored = candidate.predict(split.test), read_model(directory)
    assert stored.predict(split.test).tolist() == trained.tolist()
    assert len(stored.encoder.feature_names) == 1 + 48 + 3

    predictor = Predictor(directory, SnapshotStore(tmp_path))
    request = CONTRACT.validate(body(split.test))
    many = predictor.predict(request, datetime.now(UTC))
    assert many.scores == trained.tolist()
    alone = [
        predictor.predict(CONTRACT.validate(body(split.test[place])), datetime.now(UTC)).scores[0]
        for place in range(0, split.test.height, 7)
    ]
    assert alone == trained.tolist()[::7]
    reasons = predictor.strongest_reasons(many, RequestedReasons(3))[0]["reasons"]
    assert reasons[0]["feature"] in stored.encoder.feature_names
    # The words tell the packages apart.
    assert ((trained > 0.5) == split.test["label"].to_numpy().astype(bool)).mean() > 0.8


def test_drift_sees_the_columns_that_the_transformers_of_the_champion_compute(directory: Path) -> None:
    rows, stored = training_set(), read_model(directory)
    found, features = with_fitted_columns(rows, stored, FEATURES)
    assert features.feature_names == list(stored.encoder.feature_names)
    assert set(features.feature_names) <= set(found.columns)
    assert found.select(rows.columns).equals(rows)

    # Other letters from the middle on: the components of the fitted view move, and the length of the texts does not.
    later = rows.tail(120).with_columns(letters=pl.Series([[1.0] + [0.0] * 25] * 120, dtype=rows.schema["letters"]))
    moved, _ = with_fitted_columns(later, stored, FEATURES)
    report = measure_drift(
        found.head(120), moved, features=features.feature_names, settings=DriftSettings(minimum_rows=100), time="at"
    )
    assert "letters__part_000" in report.drifted
    assert "length__characters" not in report.drifted

    # A view of other code, and a training set without a column that a view reads, have none.
    changed = FeatureSet([LENGTH, TERMS.model_copy(update={"code_version": "2"}), LETTERS])
    assert not any(name.startswith("terms__") for name in with_fitted_columns(rows, stored, changed)[1].feature_names)
    assert with_fitted_columns(rows.drop("letters"), stored, FEATURES)[1].feature_names == FEATURES.feature_names
    # The columns of a view that reads a person's text identify the person too.
    hidden = features.pii_columns_with({"text"})
    assert "terms__term_000" in hidden
    assert "terms__term_000" not in features.pii_columns_with(set())


def test_transformers_see_train_rows_only_and_for_a_refit_validation_rows_too(split: Split) -> None:
    def first_weights(candidate: Candidate) -> dict[str, float]:
        assert candidate.features is not None
        return candidate.features.transformers["terms"].weights  # type: ignore[attr-defined]

    def of(rows: pl.DataFrame) -> dict[str, float]:
        return fit_transformers(FEATURES, rows, 1).transformers["terms"].weights  # type: ignore[attr-defined]

    assert first_weights(fit(split, refit=False)) == of(split.train)
    assert first_weights(fit(split, refit=True)) == of(split.known)
    assert of(split.train) != of(split.known)


def test_labels_of_later_rows_do_not_change_validation_predictions(split: Split) -> None:
    other_test = Split(
        **{**split.__dict__, "test": split.test.with_columns(text=pl.lit("numpy"), letters=None, length__root=None)}
    )

    assert fit(other_test).validation_predictions.tolist() == fit(split).validation_predictions.tolist()


def test_model_of_a_fitted_view_alone_is_fitted_on_its_columns(split: Split) -> None:
    """The baseline of request features is such a model, where all request views are fitted ones."""
    features = FEATURES.only(["letters"])
    settings = TrainerSettings.model_validate({"settings": FAST})
    alone = fit_candidate(split, features.feature_names, settings, task="binary", feature_set=features)
    assert list(alone.encoder.feature_names) == ["letters__part_000", "letters__part_001", "letters__part_002"]
    assert len(np.unique(alone.predict(split.test))) > 5


def test_missing_text_and_vector_are_missing_features(directory: Path, tmp_path: Path) -> None:
    predictor = Predictor(directory, SnapshotStore(tmp_path))
    request = CONTRACT.validate(b'{"rows": [{"at": "2026-03-01T00:00:00Z", "text": null, "letters": null}]}')
    served = predictor.predict(request, datetime.now(UTC)).served

    assert np.isnan(served.encode(predictor.encoder)).all()
    assert served.records()[0]["terms__term_000"] is None


def test_bento_carries_the_modules_of_the_transformers() -> None:
    modules = request_view_modules(FEATURES.to_dict())

    assert modules == [
        "ml_platform.features.transformers.pca",
        "ml_platform.features.transformers.text",
        __name__,
    ]
    files = find_sources(modules[:2]).files
    assert "ml_platform/features/transformers/transformer.py" in files


def test_directory_without_a_transformer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TransformerError, match="expected the folder fitted/terms of a fitted view, found none"):
        load_transformers(FEATURES, tmp_path)


def test_components_explain_the_variance_in_order_and_reproduce_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 4)) * [3.0, 2.0, 1.0, 0.1] + 5.0
    frame = pl.DataFrame({"v": pl.Series(values.astype(np.float32), dtype=pl.Array(pl.Float32, 4))})
    pca = make_transformer(declared("p", [{"name": "c", "type": "vector", "size": 2}], fitted="pca", fields=["v"]))
    pca.fit(frame, 0)
    found = pca.transform(frame)["c"].to_numpy()

    centred = frame["v"].to_numpy().astype(float) - frame["v"].to_numpy().astype(float).mean(axis=0)
    _, _, right = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ (right[:2] * np.sign(right[:2][[0, 1], np.abs(right[:2]).argmax(axis=1)])[:, None]).T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found[:, 0].std() > found[:, 1].std() > 1.5


def test_weights_of_terms_equal_hand_computed_ones() -> None:
    view = declared("t", [{"name": "w", "type": "vector", "size": 2}], fitted="text", fields=["text"])
    terms = make_transformer(view.model_copy(update={"parameters": {"words_per_term": 1}}))
    terms.fit(pl.DataFrame({"text": ["a b", "A c", "a b b", None]}), 0)
    found = terms.transform(pl.DataFrame({"text": ["a b b", "c", "", None]}))["w"].to_list()

    # Of three texts, a is in three and b in two: weights ln(4/4) + 1 and ln(4/3) + 1.
    raw = np.array([1.0, 2 * (np.log(4 / 3) + 1)])
    np.testing.assert_allclose(found[0], raw / np.linalg.norm(raw), rtol=1e-6)
    assert found[1:] == [[0.0, 0.0], [0.0, 0.0], None]


class Own:
    """A transformer of a team: the mean length of the train texts, added to that of a row."""

    def __init__(self, features: list[Any], start: float = 0.0) -> None:
        self.name, self.mean = features[0].name, start

    def fit(self, frame: pl.DataFrame, seed: int) -> None:
        self.mean += float(frame["text"].str.len_chars().mean())  # type: ignore[arg-type]

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select((pl.col("text").str.len_chars() + self.mean).cast(pl.Float32).alias(self.name))

    def save(self, folder: Path) -> None:
        (folder / "own.json").write_text(json.dumps([self.name, self.mean]))

    @classmethod
    def load(cls, folder: Path) -> Self:
        name, mean = json.loads((folder / "own.json").read_text())
        loaded = cls([declared("x", [{"name": name}], fitted="text", fields=["text"]).features[0]])
        loaded.mean = mean
        return loaded


def test_class_of_a_team_is_fitted_saved_and_loaded(tmp_path: Path) -> None:
    view = declared("own", [{"name": "y"}], fitted=f"{__name__}:Own", fields=["text"], parameters={"start": 1.0})
    frame = pl.DataFrame({"text": ["abc", "a"], "predict_at": [datetime(2026, 1, 1, tzinfo=UTC)] * 2})
    fitted = fit_transformers(FeatureSet([view]), frame, 1)
    save_transformers(fitted.transformers, tmp_path)
    loaded = load_transformers(FeatureSet.from_dict(FeatureSet([view]).to_dict()), tmp_path)

    assert loaded.transformed(frame)["own__y"].to_list() == [6.0, 4.0]
    assert loaded.transformed(loaded.transformed(frame)).columns == ["text", "predict_at", "own__y"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"fitted": "pca", "fields": ["x"], "features": [{"name": "y"}]}, "one feature of type vector"),
        ({"fitted": "text", "fields": ["x"], "parameters": {"word": 1}}, "parameters that its class takes"),
        ({"fitted": "json:loads", "fields": ["x"]}, "a class with the methods fit, transform, save, load"),
    ],
)
def test_transformer_that_cannot_be_made_is_refused(attributes: dict[str, Any], message: str) -> None:
    features = attributes.pop("features", [{"name": "y", "type": "vector", "size": 2}])

    with pytest.raises(TransformerError, match=message):
        make_transformer(declared("v", features, **attributes))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "declare 'function' or 'fitted'"),
        ({"fitted": "pca", "function": "m:f", "fields": ["x"]}, "declare 'function' or 'fitted'"),
        ({"fitted": "pca", "kind": "stored"}, "'fitted' needs kind: request"),
        ({"function": "m:f", "parameters": {"a": 1}}, "only a view with 'fitted' takes 'parameters'"),
    ],
)
def test_inconsistent_declaration_is_refused(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        declared("v", [{"name": "y"}], **attributes)


def test_fitted_view_is_no_input_of_another_view() -> None:
    after = declared("after", [{"name": "y"}], function="m:f", inputs=["terms"])

    with pytest.raises(ViewError, match="inputs among the views of the set that run before it"):
        FeatureSet([TERMS, after])


def test_view_without_a_transformer_is_written_as_before() -> None:
    view = FeatureSet([LENGTH]).to_dict()["views"][0]  # type: ignore[index]

    assert {"fitted", "parameters"} & set(view) == set()
