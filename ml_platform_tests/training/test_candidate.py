"""A candidate of a small training set: parts, refit, calibration, notes, checkpoints and model directory."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.data.partitions import PartitionScheme
from ml_platform.features.encoder import Encoder
from ml_platform.tasks.task import LabelError
from ml_platform.training.candidate import Candidate, fit_candidate
from ml_platform.training.lightgbm_trainer import LightGBMTrainer
from ml_platform.training.model_directory import ModelDirectoryError, read_model, write_model
from ml_platform.training.splits import Split, TimeSplit, split_by_time
from ml_platform.training.trainer import TrainerSettings, TrainingError

FEATURES = ["strong", "weak", "place"]
FAST = {
    "max_rounds": 40,
    "patience": 5,
    "num_leaves": 7,
    "min_data_in_leaf": 20,
    "num_threads": 1,
    "segment_rounds": 10,
}


def training_set(rows: int = 3000, seed: int = 0) -> pl.DataFrame:
    """Return rows of January to March 2013, one every 43 minutes.

    The label depends on `strong` and is known two hours after the prediction.
    """
    rng = np.random.default_rng(seed)
    strong = rng.normal(size=rows)
    start = datetime(2013, 1, 1, tzinfo=UTC)
    times = [start + timedelta(minutes=43 * at) for at in range(rows)]
    return pl.DataFrame(
        {
            "predict_at": times,
            "label": (strong + 0.5 * rng.normal(size=rows) > 0).astype(np.int8),
            "label_known_at": [time + timedelta(hours=2) for time in times],
            "strong": strong.astype(np.float32),
            "weak": rng.normal(size=rows).astype(np.float32),
            "place": rng.choice(["JFK", "LGA", None], size=rows),  # type: ignore[arg-type]
        },
        schema_overrides={"predict_at": pl.Datetime("us", "UTC"), "label_known_at": pl.Datetime("us", "UTC")},
    )


def split(frame: pl.DataFrame) -> Split:
    return split_by_time(frame, "2013-03", PartitionScheme(start="2013-01"), TimeSplit(), model="toy")


def declared(**changes: Any) -> TrainerSettings:
    return TrainerSettings.model_validate({"settings": FAST, **changes})


def fit(frame: pl.DataFrame, features: list[str] = FEATURES, **changes: Any) -> Candidate:
    return fit_candidate(split(frame), features, declared(**changes), task="binary")


def test_candidate_ranks_the_unseen_month_by_the_decisive_feature():
    frame = training_set()
    test = split(frame).test

    predicted = fit(frame).predict(test)

    above = test["strong"].to_numpy() > 0.5
    assert predicted[above].min() > predicted[~above & (test["strong"].to_numpy() < -0.5)].max()


def test_content_of_the_test_month_does_not_change_the_candidate():
    frame = training_set()
    march = pl.col("predict_at") >= datetime(2013, 3, 1, tzinfo=UTC)
    scrambled = frame.with_columns(
        pl.when(march).then(-pl.col("strong")).otherwise("strong").alias("strong"),
        pl.when(march).then(1 - pl.col("label")).otherwise("label").cast(pl.Int8).alias("label"),
    )
    probe = frame.head(200)

    assert np.array_equal(fit(frame).predict(probe), fit(scrambled).predict(probe))


def test_refit_uses_validation_rows_and_more_rounds_by_the_share_of_added_rows():
    frame = training_set()
    parts = split(frame)

    alone, again = fit(frame, refit=False), fit(frame, refit=True)

    share = parts.known.height / parts.train.height
    assert again.fitted.rounds == round(alone.fitted.rounds * share)
    assert not np.array_equal(alone.predict(parts.test), again.predict(parts.test))


def test_without_refit_a_category_of_validation_only_has_no_code():
    frame = training_set().with_columns(
        pl.when(pl.col("predict_at") >= datetime(2013, 2, 10, tzinfo=UTC))
        .then(pl.lit("EWR"))
        .otherwise("place")
        .alias("place")
    )

    assert fit(frame, refit=False).encoder.categories["place"] == ("JFK", "LGA")
    assert fit(frame, refit=True).encoder.categories["place"] == ("EWR", "JFK", "LGA")


def test_category_unseen_in_training_predicts_as_missing():
    frame = training_set()
    candidate = fit(frame)
    rows = split(frame).test

    unseen = candidate.predict(rows.with_columns(place=pl.lit("XXX")))
    missing = candidate.predict(rows.with_columns(place=pl.lit(None, pl.String)))

    assert np.array_equal(unseen, missing)


def test_calibration_follows_the_declared_method():
    frame = training_set()
    methods = {method: fit(frame, calibration=method).calibration for method in ("none", "isotonic", "platt")}

    assert methods["none"].x == []
    assert methods["isotonic"].x == sorted(methods["isotonic"].x)
    assert methods["platt"].slope > 0


def test_empty_and_infinite_features_are_noted_and_predictions_stay_finite():
    frame = training_set().with_columns(
        empty=pl.lit(None, pl.Float32),
        endless=pl.when(pl.int_range(pl.len()) % 7 == 0).then(float("inf")).otherwise(pl.col("weak")).cast(pl.Float32),
    )

    candidate = fit(frame, [*FEATURES, "empty", "endless"])

    assert candidate.notes == [
        "1 features without any value: 'empty'.",
        "Infinite values counted as missing in 'endless'.",
    ]
    assert np.isfinite(candidate.predict(split(frame).test)).all()


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")], ids=["null", "NaN", "infinite"])
def test_feature_without_a_finite_value_is_noted_as_empty(nothing: float | None):
    candidate = fit(training_set().with_columns(empty=pl.lit(nothing, pl.Float32)), [*FEATURES, "empty"])

    assert candidate.notes == ["1 features without any value: 'empty'."]


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")], ids=["null", "NaN", "infinite"])
def test_training_set_without_any_feature_value_is_rejected(nothing: float | None):
    frame = training_set().with_columns(strong=pl.lit(nothing, pl.Float32), weak=pl.lit(None, pl.Float32))

    with pytest.raises(TrainingError, match="found only nulls, NaN or infinite values in all 2"):
        fit(frame, ["strong", "weak"])


def test_constant_label_is_rejected():
    from ml_platform.training.splits import SplitError

    with pytest.raises(SplitError, match="expected labels of more than one value"):
        fit(training_set().with_columns(label=pl.lit(1, pl.Int8)))


@pytest.mark.parametrize(("start", "part"), [(1, "train"), (2, "validation"), (3, "test")])
@pytest.mark.parametrize("odd", [2.0, float("nan")])
def test_label_other_than_0_and_1_is_rejected_with_its_part_before_the_fit(
    monkeypatch: pytest.MonkeyPatch, start: int, part: str, odd: float
):
    monkeypatch.setattr(LightGBMTrainer, "fit", lambda *args, **kwargs: pytest.fail("fitted"))
    at = pl.col("predict_at") == pl.col("predict_at").filter(pl.col("predict_at").dt.month() == start).min()
    label = pl.col("label").cast(pl.Float64)
    frame = training_set().with_columns(pl.when(at).then(pl.lit(odd)).otherwise(label).alias("label"))

    with pytest.raises(LabelError, match=rf"{part} part: expected labels 0 and 1, found 1 of .* {odd:g}"):
        fit(frame)


def test_test_month_with_one_class_is_rejected_before_the_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LightGBMTrainer, "fit", lambda *args, **kwargs: pytest.fail("fitted"))
    march = pl.col("predict_at") >= datetime(2013, 3, 1, tzinfo=UTC)
    frame = training_set().with_columns(pl.when(march).then(0).otherwise("label").cast(pl.Int8).alias("label"))

    with pytest.raises(LabelError, match=r"test part: expected labels of both classes.*, found \d+ times 0"):
        fit(frame)


def test_regression_accepts_finite_labels_and_rejects_infinite_ones():
    frame = training_set().with_columns(label=pl.col("strong").cast(pl.Float64))
    fast = declared(settings=FAST | {"max_rounds": 2})
    half_width = fit_candidate(split(frame), FEATURES, fast, task="regression").calibration.half_width
    assert half_width is not None
    assert half_width > 0

    endless = frame.with_columns(label=pl.when(pl.int_range(pl.len()) == 5).then(float("inf")).otherwise("label"))
    with pytest.raises(LabelError, match=r"train part: expected labels that are numbers, found 1 of .* inf"):
        fit_candidate(split(endless), FEATURES, fast, task="regression")


def test_repeated_call_with_the_checkpoint_returns_the_same_candidate_without_a_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parts, where = split(training_set()), tmp_path / "checkpoint"
    first = fit_candidate(parts, FEATURES, declared(), task="binary", checkpoint=where)
    monkeypatch.setattr("lightgbm.train", lambda *args, **kwargs: pytest.fail("fitted again"))

    again = fit_candidate(parts, FEATURES, declared(), task="binary", checkpoint=where)

    assert [note.partition(" after")[0] for note in again.notes] == ["Resumed from the checkpoint"] * 2
    assert np.array_equal(again.predict(parts.test), first.predict(parts.test))
    assert again.history == first.history


def test_model_read_from_its_directory_predicts_the_same(tmp_path: Path):
    frame = training_set()
    candidate = fit(frame, calibration="isotonic")

    write_model(tmp_path, candidate, name="toy", target="is late", threshold=0.4, features={}, contract={})
    read = read_model(tmp_path)

    assert np.array_equal(read.predict(frame), candidate.predict(frame))
    assert read.description["threshold"] == 0.4
    assert read.description["feature_names"] == FEATURES
    assert Encoder.from_json((tmp_path / "encoder.json").read_text()) == candidate.encoder


def test_model_directory_has_no_pickle(tmp_path: Path):
    write_model(tmp_path, fit(training_set()), name="toy", target="", threshold=0.5, features={}, contract={})

    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".txt"}


def test_incomplete_folder_is_rejected(tmp_path: Path):
    write_model(tmp_path, fit(training_set()), name="toy", target="", threshold=0.5, features={}, contract={})
    (tmp_path / "model.json").unlink()

    with pytest.raises(ModelDirectoryError, match=r"expected a model.json of format ml_platform/1, found none"):
        read_model(tmp_path)


def test_resource_usage_has_seconds_and_cost_of_the_fit():
    resource_usage = fit(training_set()).resource_usage

    assert resource_usage.device == "cpu"
    assert resource_usage.cpu_seconds > 0
    assert resource_usage.cost == pytest.approx(resource_usage.cpu_seconds * 0.048 / 3600)
    assert resource_usage.gpu_seconds == 0
